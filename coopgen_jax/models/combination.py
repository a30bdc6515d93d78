"""Several language models as one, whose logits are a weighted sum of theirs.

Member `i` has read the text behind what it knows in front of it, and the next token has

    z(v | x) = sum_i w_i z_i(v | x),    p(. | x) = softmax z(. | x).

Which sum it is says which method it is:

    DExperts (Liu et al., ACL 2021, arXiv 2105.03023), proxy tuning (Liu et al., COLM 2024, arXiv
    2401.08565), emulated fine-tuning (Mitchell et al., ICLR 2024, arXiv 2310.12962):
        z = z_base + alpha (z_expert - z_antiexpert)
    classifier-free guidance with a negative prompt (Sanchez et al., ICML 2024, arXiv 2306.17806):
        z = z_negative + gamma (z_prompt - z_negative)
    a class-conditional language model behind a control code (Keskar et al., 2019, arXiv
    1909.05858): one member, with a prefix.

The logits are summed as the networks give them, in float32. Log-probabilities would differ by a
number per text, which normalising takes away: the distribution is the same. Decoders see one
language model, so that temperature, truncation and candidates are of the combined distribution.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from coopgen_jax.errors import UserError
from coopgen_jax.models.language_model import Bound, LanguageModel, Nodes, Prompt, log_probs_of
from coopgen_jax.models.slots import Capacity, commit, move


@dataclass(frozen=True)
class Member:
    """One of the language models, and what it reads in front of a text.

    Attributes:
      language_model: its functions.
      network: the number of its params among the networks'; members with one number share them.
      prefix: tokens that it reads in front of every prompt (a control code).
      begin_tokens: how many tokens begin every prompt that stay in front of the prefix.
      reads_prompt: whether the prompt comes behind the prefix; without it the member reads the
        prefix (a negative prompt, with its begin tokens) and the continuation alone.
    """

    language_model: LanguageModel
    network: int = 0
    prefix: tuple[int, ...] = ()
    begin_tokens: int = 0
    reads_prompt: bool = True

    def __post_init__(self) -> None:
        vocabulary = self.language_model.vocab_size
        if self.network < 0 or self.begin_tokens < 0:
            raise UserError("network and begin_tokens are counts: they must be 0 or more")
        if not self.prefix and not self.reads_prompt:
            raise UserError(
                "a member that does not read the prompt has an empty prefix: give it at least one "
                "token to read"
            )
        if not all(0 <= token < vocabulary for token in self.prefix):
            raise UserError(
                f"a prefix has tokens that its network lacks: its own are 0 to {vocabulary - 1}"
            )
        if len(self.prefix) >= self.language_model.context:
            raise UserError(
                f"a prefix of {len(self.prefix)} tokens fills its network's context of "
                f"{self.language_model.context}: shorten it"
            )


def combine_logits(members: Sequence[Member]) -> LanguageModel:
    """Returns the language model whose logits are the weighted sum of the members'.

    The first member is the base: hidden states at the taps, end tokens and width are its own. Each
    member has a cache of its own. `score` reads a continuation token by token, for the sum has to
    be normalised at each; logits must be finite.

    Args:
      members: one or more; their weights are in the params, see `combined_params`.

    Returns:
      The language model, equal for equal members. Its `context` is the shortest of what the members
      can read behind their prefixes.

    Raises:
      UserError: there are no members, their vocabularies differ in size or in shards, or only some
        are encoder-decoders.
    """
    if not members:
        raise UserError("there is nothing to combine: give at least one member")
    base = members[0].language_model
    for member in members[1:]:
        other = member.language_model
        if other.vocab_size != base.vocab_size:
            raise UserError(
                f"one language model has {other.vocab_size} tokens and the base {base.vocab_size}: "
                "combine models of one vocabulary"
            )
        if other.encodes_prompt != base.encodes_prompt:
            raise UserError(
                "one language model is an encoder-decoder and another is not, so that one reads as "
                "a source what the other goes on from: combine models of one kind"
            )
        if other.vocab_shards != base.vocab_shards:
            raise UserError(
                f"one language model's logits lie on {other.vocab_shards} devices and the base's "
                f"on {base.vocab_shards}: make all with the same tensor"
            )
    parts = tuple(members)
    return replace(
        base,
        prefill=Bound(_prefill, parts),
        extend=Bound(_extend, parts),
        score=Bound(_score, parts),
        embeddings=None,
        context=min(part.language_model.context - len(part.prefix) for part in parts),
    )


def combined_params(networks: Sequence[Any], weights: Sequence[float]) -> dict[str, Any]:
    """Returns the params of a combined language model.

    Args:
      networks: the params of every network, in the order of the members' numbers.
      weights: the factor of every member's logits; an array in the params, so that other weights
        compile nothing anew.

    Raises:
      UserError: a weight is not finite.
    """
    wrong = [weight for weight in weights if not np.isfinite(weight)]
    if wrong:
        raise UserError(f"a weight of logits is {wrong[0]}: give a finite number")
    return {"networks": tuple(networks), "weights": jnp.asarray(weights, jnp.float32)}


def _summed(params: Any, logits: Sequence[jax.Array]) -> jax.Array:
    """Returns the weighted sum of the members' logits `[..., V]`, in the members' order."""
    if len(logits) != len(params["weights"]):
        raise UserError(
            f"{len(params['weights'])} weights for {len(logits)} members: give one for each"
        )
    terms = [
        weight * one.astype(jnp.float32)
        for weight, one in zip(params["weights"], logits, strict=True)
    ]
    return sum(terms[1:], start=terms[0])


def _check_embeddings(members: tuple[Member, ...], embeddings: jax.Array | None) -> None:
    if embeddings is not None and any(part.network != members[0].network for part in members):
        raise UserError(
            "vectors in place of tokens are those of one network, and several are combined: give "
            "tokens, or combine members of one network"
        )


def _read(member: Member, prompt: Prompt) -> tuple[Prompt, jax.Array | None]:
    """Returns what a member reads, and where in it the prompt's columns are, `[B, P]`.

    The places are None where the prompt stands as it is, or not at all.
    """
    if not member.prefix:
        return prompt, None
    batch = len(prompt.tokens)
    front = np.asarray(member.prefix, np.int32)
    size = len(front)
    if not member.reads_prompt:
        tokens = jnp.broadcast_to(front[None], (batch, size))
        return Prompt(tokens, jnp.ones((batch, size), bool), prompt.index), None
    # Padding to the left, then what begins the text, the prefix, and the rest, without gaps.
    begins = jnp.cumsum(prompt.mask, axis=-1) <= member.begin_tokens
    rank = jnp.where(prompt.mask, jnp.where(begins, 1, 3), 0)
    order = jnp.argsort(jnp.pad(rank, ((0, 0), (size, 0)), constant_values=2), axis=-1, stable=True)

    def behind(text: jax.Array, first: Any) -> jax.Array:
        """Returns the text's columns `[B, P, ...]` behind the prefix's, in their order."""
        shape = (batch, size, *text.shape[2:])
        whole = jnp.concatenate([jnp.broadcast_to(first, shape).astype(text.dtype), text], axis=1)
        return jnp.take_along_axis(whole, order.reshape(*order.shape, *[1] * (text.ndim - 2)), 1)

    read = replace(
        prompt, tokens=behind(prompt.tokens, front[None]), mask=behind(prompt.mask, True)
    )
    if prompt.embeddings is not None:
        at = prompt.mask if prompt.embedded is None else prompt.embedded
        read = replace(read, embeddings=behind(prompt.embeddings, 0), embedded=behind(at, False))
    return read, jnp.argsort(order, axis=-1)[:, size:]


def _prefill(
    members: tuple[Member, ...], params: Any, prompt: Prompt, *, capacity: Capacity
) -> tuple[jax.Array, jax.Array, tuple]:
    _check_embeddings(members, prompt.embeddings)
    all_logits, states, caches = [], [], []
    for member in members:
        read, place = _read(member, prompt)
        logits, hidden, cache = member.language_model.prefill(
            params["networks"][member.network], read, capacity=capacity
        )
        if place is not None:
            hidden = jnp.take_along_axis(hidden, place[:, :, None, None], axis=1)
        all_logits.append(logits)
        states.append(hidden)
        caches.append(cache)
    return _summed(params, all_logits), states[0], tuple(caches)


def _extend(
    members: tuple[Member, ...], params: Any, caches: tuple, nodes: Nodes
) -> tuple[jax.Array, jax.Array, tuple]:
    _check_embeddings(members, nodes.embedding)
    read = [
        member.language_model.extend(params["networks"][member.network], cache, nodes)
        for member, cache in zip(members, caches, strict=True)
    ]
    logits, states, after = zip(*read, strict=True)
    return _summed(params, logits), states[0], tuple(after)


def _score(
    members: tuple[Member, ...], params: Any, prompt: Prompt, tokens: jax.Array, mask: jax.Array
) -> jax.Array:
    batch, samples, length = tokens.shape
    rows = (batch, samples, 1)
    # A masked token is read into slot 1 like any other, and left there.
    capacity = Capacity(samples, length, nodes=2)
    logits, _, caches = _prefill(members, params, prompt, capacity=capacity)
    logits = jnp.broadcast_to(logits[:, None], (batch, samples, logits.shape[-1]))

    def step(carry: tuple, column: tuple[jax.Array, jax.Array]) -> tuple:
        logits, caches, committed = carry
        token, real = column
        chosen = log_probs_of(logits, token)
        nodes = Nodes(
            start=jnp.int32(1),
            token=token[..., None],
            parent=jnp.zeros(rows, jnp.int32),
            path=jnp.full((*rows, 1), -1, jnp.int32),
            depth=jnp.ones(rows, jnp.int32),
            committed=committed,
            terminal=jnp.zeros(rows, bool),
        )
        after, _, caches = _extend(members, params, caches, nodes)
        # Behind the committed tokens of a trunk nothing is read, and the next one is written.
        caches = commit(move(caches, real[..., None].astype(jnp.int32)), committed)
        logits = jnp.where(real[..., None], after[:, :, 0], logits)
        return (logits, caches, committed + real), jnp.where(real, chosen, 0.0)

    columns = (jnp.moveaxis(tokens, -1, 0), jnp.moveaxis(mask, -1, 0))
    begun = (logits, caches, jnp.zeros((batch, samples), jnp.int32))
    log_p: jax.Array = jax.lax.scan(step, begun, columns)[1]
    return jnp.moveaxis(log_p, 0, -1)
