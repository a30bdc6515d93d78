"""A decoding job, and how both networks read for it: what every decoder stands on."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from coopgen_jax.decoding.generation import Generation, append, entry_at, per_sample
from coopgen_jax.decoding.rules.shaping import Seen, shape
from coopgen_jax.decoding.rules.stop import StopStrings
from coopgen_jax.decoding.rules.watermark import Marking, mark_behind
from coopgen_jax.discriminators.discriminator import Discriminator
from coopgen_jax.errors import UserError
from coopgen_jax.models.language_model import LanguageModel, Nodes, Prompt
from coopgen_jax.models.slots import Capacity, allocate, commit, take, write


def _static(**default: Any) -> Any:
    return struct.field(pytree_node=False, **default)


@struct.dataclass(kw_only=True)
class Job:
    """What stays the same from the first token to the last; a pytree, so it can cross a `jit`.

    The fields are arguments of `decode`, and `along` `[B, T]` int32, None where a decoder chooses
    the tokens: a search that can write every token writes these.
    """

    prompt: Prompt
    params: Any
    discriminator_params: Any = None
    target: jax.Array | None = None
    reference_params: Any = None
    marking: Marking | None = None
    along: jax.Array | None = None
    language_model: LanguageModel = _static()
    discriminator: Discriminator | None = _static(default=None)
    reference: LanguageModel | None = _static(default=None)
    config: Any = _static()

    @property
    def text_before(self) -> Prompt:
        """The prompt as the beginning of the texts; of a source that is encoded nothing is left."""
        if not self.language_model.encodes_prompt:
            return self.prompt
        return replace(self.prompt, mask=jnp.zeros_like(self.prompt.mask))


class Decoder(NamedTuple):
    """A method of writing, as pure functions.

    Attributes:
      begin: `(job) -> state`: reads the prompts. The state is a pytree with `generation`, the texts
        so far, and `step`, the tokens written.
      advance: `(key, job, state) -> (state, tree)`: writes one token of every text that is not
        finished. The tree is the search's at that token, None where there is none.
      finish: `(job, generation) -> generation`: chooses among the texts at the end, where more are
        written than returned; None where all are.
    """

    begin: Callable[[Job], Any]
    advance: Callable[[jax.Array, Job, Any], tuple[Any, Any]]
    finish: Callable[[Job, Generation], Generation] | None = None


# The language model's cache, the discriminator's state (None without one), and the states of the
# stop strings' automaton, a `Slots` (None without any).
States = tuple[Any, Any, Any]


def read_prompts(job: Job, capacity: Capacity, ahead: int) -> tuple[jax.Array, jax.Array, States]:
    """Reads the prompts by both networks, each of which may read `ahead` tokens behind them.

    Returns:
      Logits `[B, R, V]` of the first token, log p(class | prompt) `[B, R, C]` (`C` is 0 without a
      discriminator), and the states.

    Raises:
      UserError: prompt and `ahead` exceed the context of the language model or discriminator, or a
        rule does not go with the language model.
    """
    batch, length = job.prompt.tokens.shape
    check_context("language model", job.language_model.context, length, ahead)
    _check_guide(job.discriminator, length, ahead)
    _check_rules(job)
    logits, hidden, cache = job.language_model.prefill(job.params, job.prompt, capacity=capacity)
    log_class, judgement = jnp.zeros((batch, 0), jnp.float32), None
    if job.discriminator is not None:
        log_class, judgement = job.discriminator.init(
            job.discriminator_params, job.prompt, hidden, capacity=capacity
        )
    stops = None
    if job.config.rules.stop:
        stops = allocate(batch, capacity, trunk=False, dtype=jnp.int32)
    samples = capacity.samples
    return per_sample(logits, samples), per_sample(log_class, samples), (cache, judgement, stops)


def _check_rules(job: Job) -> None:
    rules, vocab = job.config.rules, job.language_model.vocab_size
    if (rules.watermark is None) != (job.marking is None):
        raise UserError(
            "a watermark is a rule and a secret: give both, the rule as rules.watermark and the "
            "secret as marking, or neither"
        )
    if rules.largest_token >= vocab:
        raise UserError(
            f"a rule names token {rules.largest_token}, and the language model has {vocab}, "
            "numbered from 0"
        )
    if isinstance(rules.stop, StopStrings):
        if rules.stop.table.shape[-1] != vocab:
            raise UserError(
                f"the stop strings are compiled for {rules.stop.table.shape[-1]} tokens, and the "
                f"language model has {vocab}: compile them for it"
            )
    elif rules.stop:
        raise UserError(
            "stop strings need the tokenizer: give StopStrings.compile(strings, tokenizer, "
            "vocab_size), or call generate, which does so"
        )


def _contexts(guide: Discriminator | None, prompt: Any) -> list[tuple[int, Any]]:
    """Returns every context of a discriminator and its parts, and what it reads of a prompt."""
    if guide is None:
        return []
    own = [] if guide.context is None else [(guide.context, prompt if guide.reads_prompt else 1)]
    return own + [found for part in guide.parts for found in _contexts(part, prompt)]


def _check_guide(guide: Discriminator | None, length: int, ahead: int) -> None:
    for context, read in _contexts(guide, length):
        check_context("discriminator", context, read, ahead)


def check_context(name: str, context: int, length: int, ahead: int) -> None:
    """Raises UserError where a prompt and what may be read behind it exceed a context."""
    if length + ahead > context:
        raise UserError(
            f"a prompt of {length} tokens and {ahead} behind it exceed the {name}'s "
            f"context of {context}: shorten the prompt or ask for fewer new tokens"
        )


def room(job: Job, generation: Generation) -> jax.Array:
    """Returns how many tokens more every text `[B, R]` has room for, by the row's own length.

    It is the least that the contexts of the networks leave, and 1 or more: a token that is to be
    written has room.
    """
    prompt = jnp.sum(job.prompt.mask, axis=-1, dtype=jnp.int32)[:, None]
    left = [job.language_model.context - prompt]
    if job.reference is not None and job.config.reference:
        left.append(job.reference.context - prompt)
    left += [context - read for context, read in _contexts(job.discriminator, prompt)]
    return jnp.maximum(functools.reduce(jnp.minimum, left) - generation.length, 1)


def read_nodes(
    job: Job, states: States, nodes: Nodes, log_class: jax.Array
) -> tuple[jax.Array, jax.Array, States]:
    """Has both networks read the nodes `[B, R, W]` of one call.

    `log_class` `[B, R, W, C]` is what the discriminator says of their parents; a terminal node adds
    no text to judge and keeps it.

    Returns:
      Logits `[B, R, W, V]` behind the nodes, log p(class | text) `[B, R, W, C]`, and the states.
    """
    cache, judgement, stops = states
    with jax.named_scope("network"):
        logits, hidden, cache = job.language_model.extend(job.params, cache, nodes)
    if job.discriminator is not None:
        with jax.named_scope("discriminator"):
            judged, judgement = job.discriminator.evaluate(
                job.discriminator_params, judgement, replace(nodes, hidden=hidden)
            )
        log_class = jnp.where(nodes.terminal[..., None], log_class, judged)
    if stops is not None:
        after = job.config.rules.stop.after(take(stops, nodes.parent), nodes.token)
        stops = write(stops, nodes.start, after)
    return logits, log_class, (cache, judgement, stops)


def read_token(
    job: Job, states: States, generation: Generation, token: jax.Array
) -> tuple[jax.Array, jax.Array, States]:
    """Has both networks read one `token` `[B, R]` behind every text and commits it.

    Returns:
      Logits `[B, R, V]` behind the token, log p(class | text) `[B, R, C]`, and the states.
    """
    end = ends(job, token, stop_states(states))
    node = children(token[..., None], generation.length, terminal=end[..., None])
    logits, log_class, states = read_nodes(job, states, node, generation.log_class[:, :, None])
    return logits[:, :, 0], log_class[:, :, 0], commit(states, generation.length)


def write_token(
    job: Job,
    state: Any,
    token: jax.Array,
    log_proposal: jax.Array,
    read: tuple[jax.Array, jax.Array, States] | None = None,
    *,
    model_tokens: int = 1,
    simulations: int = 0,
) -> Any:
    """Returns the state behind one `token` `[B, R]` of every text, which has cost so much.

    The state has `logits` `[B, R, V]`, `states`, `generation` and `step`; `read` is what
    `read_token` returns, which is called where that is None.
    """
    texts = state.generation
    logits, log_class, states = read or read_token(job, state.states, texts, token)
    texts = append(
        texts,
        token,
        log_prob=entry_at(jax.nn.log_softmax(state.logits), token),
        log_proposal=log_proposal,
        log_class=log_class,
        end=ends(job, token, stop_states(state.states)),
        model_tokens=model_tokens,
        simulations=simulations,
    )
    return replace(state, logits=logits, states=states, generation=texts, step=state.step + 1)


def children(
    token: jax.Array, committed: jax.Array, *, terminal: jax.Array, slot: int = 0
) -> Nodes:
    """Returns tokens `[B, R, W]` behind texts of `committed` `[B, R]` tokens as nodes.

    They stand below the root and are written to the slots from `slot` on, by default in its place.
    """
    return Nodes(
        start=jnp.int32(slot),
        token=token,
        parent=jnp.zeros(token.shape, jnp.int32),
        path=jnp.full((*token.shape, 1), -1, jnp.int32),
        depth=jnp.ones(token.shape, jnp.int32),
        committed=committed,
        terminal=terminal,
    )


def roots(committed: jax.Array) -> Nodes:
    """Returns the texts of `committed` `[B, R]` tokens as nodes, `W` is 1: slot 0, at depth 0."""
    zero = jnp.zeros((*committed.shape, 1), jnp.int32)
    return replace(children(zero, committed, terminal=zero.astype(bool)), depth=zero)


def write_all(begin: Callable, advance: Callable, key: jax.Array, job: Job) -> Generation:
    """Returns the texts of a decoder given as `begin` and `advance`, in one compiled loop."""

    def more(state: Any) -> jax.Array:
        return (state.step < job.config.new_tokens) & ~state.generation.finished.all()

    with jax.named_scope("prompts"):
        state = begin(job)
    with jax.named_scope("tokens"):
        state = jax.lax.while_loop(more, lambda state: advance(key, job, state)[0], state)
    return state.generation


def ends(job: Job, token: jax.Array, stop: jax.Array | None) -> jax.Array:
    """Returns where a `token` `[...]` ends its text: an end token, or one that completes a string.

    `stop` `[...]` are the states of the stop strings in front of it; see `stop_states`.
    """
    over = jnp.isin(token, jnp.asarray(job.language_model.end_tokens, jnp.int32))
    return over if stop is None else over | job.config.rules.stop.completes(stop, token)


def stop_states(states: States, slots: jax.Array | None = None) -> jax.Array | None:
    """Returns the states of the stop strings at node slots `[B, R, ...]`, None without any.

    By default they are the roots', `[B, R]`.
    """
    stops = states[2]
    if stops is None:
        return None
    return stops.nodes[:, :, 0] if slots is None else take(stops, slots)


def seen_by(job: Job, texts: Any, stop: jax.Array | None, *, marked: bool = True) -> Seen:
    """Returns what stands in front of the next token of every text `[B, ..., R]`, for the rules.

    The texts have `tokens` `[B, ..., R, T]` and `length` `[B, ..., R]`, as a `Generation` has;
    `stop` are the states of the stop strings, None without any. A token that is only tried out is
    not `marked`.
    """
    tokens, mark = texts.tokens, None
    if marked and job.marking is not None:
        vocab = job.language_model.vocab_size
        watermark = job.config.rules.watermark
        mark = mark_behind(watermark, job.marking, tokens, texts.length, vocab_size=vocab)
    place = jax.lax.broadcasted_iota(jnp.int32, tokens.shape, tokens.ndim - 1)
    seen = Seen(tokens, place < texts.length[..., None], texts.length, stop, mark)
    if not job.config.rules.penalise_prompt:
        return seen
    before, axes = job.text_before, tuple(range(1, tokens.ndim - 1))
    front, there = (jnp.expand_dims(array, axes) for array in (before.tokens, before.mask))
    return Seen(front, there, jnp.int32(0)).followed_by(seen)


def shaped(job: Job, logits: jax.Array, seen: Seen) -> jax.Array:
    """Returns the logits `[..., V]` by all rules; see `rules.shaping.shape`."""
    model, rules = job.language_model, job.config.rules
    return shape(rules, logits, seen, ends=model.end_tokens, shards=model.vocab_shards)
