"""Which language models a run writes by: one, or several whose logits are combined."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from coopgen_jax.cli.options import GenerateOptions
from coopgen_jax.errors import UserError
from coopgen_jax.models.pretrained.combined_model import CombinedModel, check_reference, combined
from coopgen_jax.models.pretrained.loaded_model import LoadedModel

# What `combined` takes them to be where they are not given.
EXPERT_WEIGHT, GUIDANCE = 1.0, 1.5
# Options in which {target} stands for the target's name.
NAMED = ("expert", "anti_expert", "negative_prompt", "control_code")


def check_combining(options: GenerateOptions) -> None:
    """Checks what can be known before a model is loaded.

    Raises:
      UserError: an option lacks another one that it belongs to.
    """
    if options.expert_weight is None and options.expert and not options.anti_expert:
        raise UserError(
            "--expert without --anti-expert is mixed with the model: give --expert-weight, its "
            "share, such as 0.5"
        )
    if options.expert_weight is not None and not (options.expert or options.anti_expert):
        raise UserError("--expert-weight needs --expert or --anti-expert, whose logits it weighs")
    if options.guidance is not None and options.negative_prompt is None:
        raise UserError("--guidance needs --negative-prompt, what the model is guided away from")
    if names_target(options) and options.target is None:
        raise UserError("{target} stands for a --target, and there is none: name it")


def names_target(options: GenerateOptions) -> bool:
    """Tells whether which models write depends on the target."""
    return any("{target}" in (getattr(options, name) or "") for name in NAMED)


def settings_of(options: GenerateOptions) -> dict[str, Any]:
    """Returns the settings of the combination as `combined` takes them, None where not asked."""
    experts = options.expert or options.anti_expert
    weight = EXPERT_WEIGHT if options.expert_weight is None else options.expert_weight
    guidance = GUIDANCE if options.guidance is None else options.guidance
    return {
        "expert": options.expert,
        "anti_expert": options.anti_expert,
        "expert_weight": weight if experts else None,
        "negative_prompt": options.negative_prompt,
        "guidance": None if options.negative_prompt is None else guidance,
        "control_code": options.control_code,
    }


def combine_models(
    options: GenerateOptions, base: LoadedModel, load: Callable[..., LoadedModel]
) -> LoadedModel:
    """Returns the model that writes towards the target: the base, or it combined with others.

    Args:
      options: of the command.
      base: the model of --model.
      load: loads another by its name; one that is named twice is loaded once.

    Raises:
      UserError: a model cannot be loaded, or does not go with the base.
    """
    given = {name: value for name, value in settings_of(options).items() if value is not None}
    if not given:
        return base
    for option in set(NAMED) & set(given):
        given[option] = given[option].replace("{target}", options.target or "")
    loaded = {options.model: base}
    for role in ("expert", "anti_expert"):
        if name := given.get(role):
            if name not in loaded:
                loaded[name] = load(name, dtype=options.dtype)
            given[role] = loaded[name]
    return combined(base, **given)


def load_reference(
    options: GenerateOptions,
    base: LoadedModel,
    writer: LoadedModel,
    load: Callable[..., LoadedModel],
) -> LoadedModel | None:
    """Returns the model of --reference, None where nothing is to be read of one.

    Args:
      options: of the command.
      base: the model of --model.
      writer: the model that writes, which may be combined of several.
      load: loads another by its name.

    Raises:
      UserError: it cannot be loaded, or does not go with the writer.
    """
    if options.reference is None or not options.kl:
        return None
    if options.reference == options.model:
        return base
    for network in writer.networks if isinstance(writer, CombinedModel) else ():
        if network.name == options.reference:
            return network
    reference = load(options.reference, dtype=options.dtype)
    check_reference(reference, base)
    return reference


def about_model(model: LoadedModel) -> dict[str, Any]:
    """Returns what the JSON document says of a model, and of all that it is combined of."""
    said: dict[str, Any] = {"name": model.name, "sha256": model.sha256, "licence": model.licence}
    if model.tokenizer.close_tokens:
        said["encodes_prompt"] = True
    if isinstance(model, CombinedModel):
        said["networks"] = [about_model(network) for network in model.networks]
        said["parts"] = [asdict(part) for part in model.parts]
    return said
