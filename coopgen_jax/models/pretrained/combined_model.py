"""Loaded models whose logits are combined, as one model; the arithmetic is in `combination`."""

from dataclasses import dataclass, replace
from typing import Any

from jax.sharding import Mesh

from coopgen_jax.errors import UserError
from coopgen_jax.models.combination import Member, combine_logits, combined_params
from coopgen_jax.models.language_model import LanguageModel
from coopgen_jax.models.networks import language_model
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.models.prompt import wrapped
from coopgen_jax.models.sharding import shard_decoder
from coopgen_jax.parallel.mesh import place
from coopgen_jax.tokenizer import same_tokens


@dataclass(frozen=True)
class Part:
    """One reading of one network, whose logits have a weight; see `combination.Member`."""

    network: int
    weight: float
    prefix: tuple[int, ...] = ()
    begin_tokens: int = 0
    reads_prompt: bool = True


@dataclass(frozen=True, eq=False)
class CombinedModel(LoadedModel):
    """A model that writes by several networks; made by `combined`.

    All that a `LoadedModel` has is the base's: whatever asks for one network, such as a head that
    is loaded for it or a training, gets that of the base. In both fields the base comes first.
    """

    networks: tuple[LoadedModel, ...]
    parts: tuple[Part, ...]


def combined(
    base: LoadedModel,
    *,
    expert: LoadedModel | None = None,
    anti_expert: LoadedModel | None = None,
    expert_weight: float = 1.0,
    negative_prompt: str | None = None,
    guidance: float = 1.5,
    control_code: str | None = None,
) -> CombinedModel:
    """Returns a model that writes by several models' logits.

        z = z_neg + guidance (z_base - z_neg) + expert_weight (z_expert - z_anti)

    Without a negative prompt z_base stands alone in front of the last term, which is there with an
    expert or an anti-expert. The base is the one of them that is missing, as in DExperts' anti-only
    variant; an expert alone is so mixed with it, and at a weight of 1 writes by itself. Likelihoods
    and perplexities of the texts are those under the combined model.

    Args:
      base: the model that is changed; its end tokens and taps count.
      expert: a model of texts as they are to be, such as a small tuned one.
      anti_expert: a model of texts as they are not to be, such as the same before its tuning.
      expert_weight: alpha.
      negative_prompt: what the base reads in place of the prompt for z_neg; for a model that has
        one, the name of the token between its texts is a prompt that says nothing.
      guidance: gamma; 1 is the base, 0 the negative prompt's continuation.
      control_code: stands in front of every prompt, behind the token that begins a text, where the
        base reads it (not in front of the negative prompt, nor for the experts). Its tokens are
        those of this text by itself: a newline at its end keeps it apart from any prompt. It is no
        part of the prompt for rules against repetition and for discriminators, but one that judges
        by the base's hidden states judges states that have seen it.

    Raises:
      UserError: there is nothing to combine, a text is empty, a number is not finite, or the models
        have different tokens.
    """
    asked = (expert, anti_expert, negative_prompt, control_code)
    if all(part is None for part in asked):
        raise UserError(
            "there is nothing to combine: give an expert, an anti-expert, a negative prompt or a "
            "control code"
        )
    models = _distinct(base, expert, anti_expert)
    for other in models[1:]:
        if not same_tokens(base.tokenizer, other.tokenizer):
            raise UserError(
                f"{other.name} has other tokens than {base.name}: combine models of one tokenizer"
            )
    code = () if control_code is None else tuple(base.tokenizer.encode(control_code))
    _check_said(control_code, code, "control code")
    begin_tokens = len(base.tokenizer.begin_tokens)
    parts = [Part(0, 1.0 if negative_prompt is None else guidance, code, begin_tokens)]
    if negative_prompt is not None:
        front = tuple(wrapped(base.tokenizer, base.tokenizer.encode(negative_prompt)))
        _check_said(negative_prompt, front, "negative prompt")
        parts.append(Part(0, 1.0 - guidance, front, reads_prompt=False))
    if expert is not None or anti_expert is not None:
        for model, weight in ((expert, expert_weight), (anti_expert, -expert_weight)):
            if model is None:  # the base in its place, as it reads here
                parts[0] = replace(parts[0], weight=parts[0].weight + weight)
            else:
                parts.append(Part(next(n for n, one in enumerate(models) if one is model), weight))
    made = CombinedModel(**vars(base), networks=tuple(models), parts=tuple(parts))
    # What does not fit is told here, and not first when a text is written.
    network_of(made)
    params_of(made)
    return made


def network_of(model: LoadedModel, taps: tuple[int, ...] = (), *, tensor: int = 1) -> LanguageModel:
    """Returns the functions of a loaded model, combined or not; see `decoder.language_model`."""
    if not isinstance(model, CombinedModel):
        return language_model(model.config, taps, tensor=tensor)
    members = [
        Member(
            language_model(
                model.networks[part.network].config, () if number else taps, tensor=tensor
            ),
            part.network,
            part.prefix,
            part.begin_tokens,
            part.reads_prompt,
        )
        for number, part in enumerate(model.parts)
    ]
    return combine_logits(members)


def params_of(model: LoadedModel, mesh: Mesh | None = None) -> Any:
    """Returns the params of `network_of`, on a mesh if there is one."""
    if isinstance(model, CombinedModel):
        networks = [params_of(network, mesh) for network in model.networks]
        params = combined_params(networks, [part.weight for part in model.parts])
        if mesh is None:
            return params
        return {**params, "weights": place(params["weights"], mesh)}
    return model.params if mesh is None else shard_decoder(model.params, model.config, mesh)


def check_reference(reference: LoadedModel, model: LoadedModel) -> None:
    """Raises UserError where a model cannot be charged for leaving a reference."""
    if not same_tokens(model.tokenizer, reference.tokenizer):
        raise UserError(
            f"the reference {reference.name} has other tokens than {model.name}: give one of the "
            "same tokenizer"
        )
    sizes = [network_of(one).vocab_size for one in (reference, model)]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"the reference {reference.name} scores {sizes[0]} tokens and {model.name} {sizes[1]}: "
            "give one of the same vocabulary"
        )


def reference_params_of(
    reference: LoadedModel, model: LoadedModel, params: Any, mesh: Mesh | None = None
) -> Any:
    """Returns the params of a reference, on a mesh if there is one.

    They are not placed twice where it is `model`, which writes, or one of its networks, whose
    `params` are those that `params_of` returned.
    """
    there = [(model, params)]
    if isinstance(model, CombinedModel):
        there += zip(model.networks, params["networks"], strict=True)
    for network, own in there:
        if network is reference:
            return own
    return params_of(reference, mesh)


def _check_said(text: str | None, tokens: tuple[int, ...], name: str) -> None:
    if text is not None and not tokens:
        raise UserError(f"the {name} is empty: give it at least one word")


def _distinct(*models: LoadedModel | None) -> list[LoadedModel]:
    if any(isinstance(model, CombinedModel) for model in models):
        raise UserError("a combined model cannot be combined again: combine its parts at once")
    return list({id(model): model for model in models if model is not None}.values())
