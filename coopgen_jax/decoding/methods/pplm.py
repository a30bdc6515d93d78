"""Plug and Play Language Models: before every token the history's keys and values are shifted.

Dathathri et al., "Plug and Play Language Models: A Simple Approach to Controlled Text Generation"
(ICLR 2020, arXiv 1912.02164), sections 3.2 and 3.3. A few steps of normalised gradient ascent from
zero look for the shift D of the keys and values H in front of the last token x_t that makes

    log p(a | x, D) - kl * KL(p(. | x_t, H + D) || p(. | x_t, H))

grow, and the next token is drawn from the fusion

    p(v) ~ p(v | x_t, H + D)^fusion * p(v | x_t, H)^(1 - fusion).

The attribute a is what a discriminator says of the text and one more token, the mean of the
embeddings under the shifted distribution; or it is a bag of words, log sum_w p(w | x_t, H + D) over
the next token, averaged over several bags; or both, added.

That one token is read behind the unshifted history, as in the authors' code. What differs from that
code: every token's shift starts from zero, where theirs goes on from the shifted past, so that the
cache is only ever that of the plain reading; what the discriminator keeps of the history, the last
token included, is of the plain reading; a window holds the newest tokens; a gradient is divided by
its own norm, for bags of words too, where theirs takes the largest so far; several bags are
averaged, not added; the temperature divides both distributions.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp

from coopgen_jax.decoding.generation import per_sample
from coopgen_jax.decoding.job import Decoder, Job, children, read_nodes, shaped, write_token
from coopgen_jax.decoding.judgement import log_target
from coopgen_jax.decoding.lanes import at
from coopgen_jax.decoding.methods.pplm_config import PPLMConfig
from coopgen_jax.decoding.methods.pplm_shift import climb, history_of, read_shifted
from coopgen_jax.decoding.methods.rescoring import (
    RescoringState,
    begin_rescoring,
    choose,
    seen_of,
)
from coopgen_jax.errors import UserError
from coopgen_jax.models.attention import SlotCache
from coopgen_jax.models.language_model import Nodes


def begin(job: Job) -> RescoringState:
    """Reads the prompts.

    Raises:
      UserError: there is nothing to go by, no gradient of the discriminator or nothing to shift, a
        bag names a token that the language model does not have, or the prompts exceed the context.
    """
    config: PPLMConfig = job.config
    model = job.language_model
    if not config.bags and not _asks(job):
        raise UserError(
            "there is nothing to shift the history by: give a discriminator and a target, or a bag "
            "of words"
        )
    if _asks(job) and job.discriminator is not None and not job.discriminator.differentiable:
        raise UserError(
            "PPLM needs a gradient and this discriminator has none, since it reads words and not "
            "the language model's states: take a head on those states (or a composition of them), "
            "or --method fudge or mcts"
        )
    mixes = config.shifts and (_asks(job) or job.prompt.embeddings is not None)
    if mixes and model.embeddings is None:
        raise UserError(
            "PPLM mixes a network's embeddings of tokens, and this language model gives none: give "
            "a single network, or take another method"
        )
    named = max((token for bag in config.bags for token in bag), default=0)
    if named >= model.vocab_size:
        raise UserError(
            f"token {named} is in a bag of words, and the language model has {model.vocab_size}, "
            "numbered from 0"
        )
    state = begin_rescoring(job)
    if config.shifts and not isinstance(state.states[0], SlotCache):
        raise UserError(
            "PPLM shifts the keys and values of one network, and this language model's cache is "
            "another: give a single network that is no encoder-decoder, or take another method"
        )
    return state


def advance(key: jax.Array, job: Job, state: RescoringState) -> tuple[RescoringState, None]:
    """Writes one token of every text that is not finished; there is no tree to show."""
    config: PPLMConfig = job.config
    score = shaped(job, fused_logits(job, state), seen_of(job, state))
    steps = config.iterations if config.shifts else 0
    reads = 1 + steps * (2 if _asks(job) else 1) + config.shifts
    token, log_proposal = choose(key, job, state, score)
    # The text goes on from the unshifted history.
    after = write_token(job, state, token, log_proposal, model_tokens=reads, simulations=steps)
    return after, None


def fused_logits(job: Job, state: RescoringState) -> jax.Array:
    """Returns the logits `[B, R, V]` of the fused distribution of the next token."""
    config: PPLMConfig = job.config
    if not config.shifts:
        return state.logits
    history = history_of(state.states[0], state.step, window=config.window)
    last = _last(job, state)
    shift = climb(
        lambda shift: objective(job, state, read_shifted(job, history, shift, last)),
        history,
        iterations=config.iterations,
        step_size=config.step_size,
        gamma=config.gamma,
        decay=config.decay,
    )
    shifted = jax.nn.log_softmax(read_shifted(job, history, shift, last))
    return config.fusion * shifted + (1 - config.fusion) * jax.nn.log_softmax(state.logits)


def objective(job: Job, state: RescoringState, logits: jax.Array) -> jax.Array:
    """Returns what a shift is to make grow, `[B, R]`, from the logits `[B, R, V]` shifted by it."""
    config: PPLMConfig = job.config
    shifted, plain = jax.nn.log_softmax(logits), jax.nn.log_softmax(state.logits)
    total = -config.kl * jnp.sum(jnp.exp(shifted) * (shifted - plain), axis=-1)
    for bag in config.bags:
        ids = jnp.asarray(sorted(set(bag)), jnp.int32)
        words = jax.nn.logsumexp(jnp.take(shifted, ids, axis=-1), axis=-1)
        total = total + words / len(config.bags)
    if _asks(job):
        total = total + _said(job, state, jnp.exp(shifted))
    return total


def _said(job: Job, state: RescoringState, p: jax.Array) -> jax.Array:
    """Returns log p(target) `[B, R]` of the text and a token drawn from `p` `[B, R, V]`, softly."""
    assert job.discriminator is not None and job.target is not None
    assert job.language_model.embeddings is not None
    table = job.language_model.embeddings(job.params)
    mean = jnp.einsum("brv,ve->bre", p, table, preferred_element_type=jnp.float32)
    length = state.generation.length
    node = replace(_node(jnp.zeros_like(length), length), embedding=mean[:, :, None])
    # The states that come back know the soft token and are left behind.
    _, log_class, _ = read_nodes(job, state.states, node, state.generation.log_class[:, :, None])
    return log_target(log_class, job.target)[:, :, 0]


def _asks(job: Job) -> bool:
    return job.discriminator is not None and job.target is not None


def _node(token: jax.Array, committed: jax.Array) -> Nodes:
    return children(token[..., None], committed, terminal=jnp.zeros((*token.shape, 1), bool))


def _last(job: Job, state: RescoringState) -> Nodes:
    """Returns the last token of every text, which is to be read again."""
    prompt, tokens = job.prompt, state.generation.tokens
    samples = tokens.shape[1]
    bare = state.step == 0
    written = at(tokens, state.step - 1)
    token = jnp.where(bare, per_sample(prompt.tokens[:, -1], samples), written)
    node = _node(token, state.generation.length)
    if prompt.embeddings is None:
        return node
    assert job.language_model.embeddings is not None
    vectors = prompt.mask if prompt.embedded is None else prompt.embedded
    here = bare & per_sample(vectors[:, -1], samples)
    given = per_sample(prompt.embeddings[:, -1], samples)
    spelt = job.language_model.embeddings(job.params)[token]
    return replace(node, embedding=jnp.where(here[..., None], given, spelt)[:, :, None])


PPLM = Decoder(begin, advance)
