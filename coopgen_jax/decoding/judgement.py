"""What a discriminator says of texts, and of tokens before they are read."""

import jax
import jax.numpy as jnp

from coopgen_jax.decoding.generation import entry_at
from coopgen_jax.decoding.job import Job, States, roots
from coopgen_jax.errors import UserError
from coopgen_jax.models.language_model import Nodes

# What a log-probability counts at least where candidates are weighed by it: small enough to rule a
# candidate out, and not so small that beside it single precision forgets the logits.
LEAST = -1e4


def log_target(log_class: jax.Array, target: jax.Array) -> jax.Array:
    """Returns the log-probability of what is wanted, `[B, R, W]`, by that of all classes.

    The target is `[B]` int32 class numbers, or `[B, C]` float weights of a mixture
    sum_c w_c p(c|x).
    """
    if target.ndim == 1:
        index = jnp.broadcast_to(target[:, None, None], log_class.shape[:3])
        return jnp.asarray(entry_at(log_class, index))
    weights = jnp.log(target)[:, None, None, :]
    return jax.nn.logsumexp(log_class + weights, axis=-1)


def check_foresight(job: Job, states: States, who: str, *, few: bool = False) -> None:
    """Raises UserError, naming `who` asks, where children of a node cannot be judged.

    The states are those that `read_prompts` returns. With `few` some candidates are asked about,
    else the whole vocabulary, which is too much for a discriminator that reads every text anew.
    """
    guide, vocab = job.discriminator, job.language_model.vocab_size
    if guide is None or job.target is None:
        raise UserError(f"{who} asks a discriminator about tokens: give one and a target")
    if guide.evaluate_children is None:
        raise UserError(
            f"{who} asks what a token would do before it is read, and this discriminator judges "
            "only what has been read: use fudge (--method fudge), or a generative discriminator, "
            "or a shared trunk trained with --look-ahead"
        )
    if guide.tokenizer is not None and not few:
        raise UserError(
            f"{who} asks about every token of the vocabulary, and this discriminator reads every "
            "text anew: use fudge (--method fudge), or a generative discriminator, or a shared "
            "trunk trained with --look-ahead"
        )
    if guide.tokenizer is not None:
        return  # it reads any text
    node = roots(jnp.zeros((len(job.prompt.tokens), job.config.samples), jnp.int32))
    found = jax.eval_shape(guide.evaluate_children, job.discriminator_params, states[1], node, None)
    if found.shape[3] != vocab:
        raise UserError(
            f"this discriminator judges {found.shape[3]} tokens before they are read and the "
            f"language model has {vocab}: use fudge (--method fudge), or a discriminator made on "
            "this model"
        )


def foreseen(job: Job, states: States, nodes: Nodes, candidates: jax.Array | None) -> jax.Array:
    """Returns log p(target | text and one more token) of the children of nodes that were read.

    They are `[B, R, W, K]` for tokens `candidates`, `[B, R, W, V]` where those are None.
    """
    guide = job.discriminator
    assert guide is not None and guide.evaluate_children is not None and job.target is not None
    said = guide.evaluate_children(job.discriminator_params, states[1], nodes, candidates)
    # Where every child is impossible, weighing them must not leave numbers that are none.
    said = jnp.maximum(said, LEAST)
    batch, samples, wave, count, classes = said.shape
    flat = said.reshape(batch, samples, wave * count, classes)
    return log_target(flat, job.target).reshape(batch, samples, wave, count)
