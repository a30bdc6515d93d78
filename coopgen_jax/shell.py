"""From strings to strings: batches prompts, runs a decoder token by token, reads the texts back."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from coopgen_jax.decoding import mcts, sampling
from coopgen_jax.decoding.generation import Generation
from coopgen_jax.decoding.job import Job
from coopgen_jax.decoding.mcts_config import MCTSConfig
from coopgen_jax.decoding.sampling import SamplingConfig
from coopgen_jax.discriminators.discriminator import Discriminator
from coopgen_jax.discriminators.heads import LoadedDiscriminator
from coopgen_jax.errors import UserError
from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.pretrained.loading import LoadedModel
from coopgen_jax.search.tree import Tree
from coopgen_jax.text import bucket, make_prompt

_begin = {MCTSConfig: jax.jit(mcts.begin), SamplingConfig: jax.jit(sampling.begin)}
_advance = {
    MCTSConfig: jax.jit(mcts.advance, donate_argnames="state"),
    SamplingConfig: jax.jit(sampling.advance, donate_argnames="state"),
}


@dataclass(frozen=True)
class Text:
    """One text, as it was written.

    prompt: what it continues; text: the continuation; tokens: its ids.
    number, sample: which prompt of the job, and which of its samples.
    target: the class asked for, or None.
    class_probabilities: the discriminator's p(class | text), empty without one.
    log_prob: natural log-probability of the continuation under the plain language model.
    perplexity: exp(-log_prob / tokens).
    log_proposal: log-probability with which the decoder drew the text, None where it chose.
    finished: whether the text came to its own end.
    simulations: evaluations spent on it; model_tokens: tokens that the language model read for
      it; deepest: depth of the deepest tree node.
    """

    prompt: str
    text: str
    tokens: list[int]
    number: int
    sample: int
    target: str | None
    class_probabilities: dict[str, float]
    log_prob: float
    perplexity: float
    log_proposal: float | None
    finished: bool
    simulations: int
    model_tokens: int
    deepest: int


@dataclass(frozen=True)
class Step:
    """What a listener is told after every token of a batch.

    batch, batches: which batch, of how many; step: tokens written in it so far, at most.
    done: prompts of the batches finished before this one; prompts: numbers of this one's prompts.
    generation: the texts so far, rows `[B, R]`, of which the first `len(prompts)` are real.
    tree: the search trees as they stood when the token was chosen; None for plain decoding.
    """

    batch: int
    batches: int
    step: int
    done: int
    prompts: list[int] = field(repr=False)
    generation: Generation = field(repr=False)
    tree: Tree | None = field(repr=False)


def generate(
    model: LoadedModel,
    prompts: Sequence[str],
    *,
    config: MCTSConfig | SamplingConfig,
    discriminator: LoadedDiscriminator | None = None,
    target: str | Sequence[str] | None = None,
    seed: int = 0,
    batch_size: int = 8,
    listener: Callable[[Step], None] | None = None,
) -> list[Text]:
    """Writes continuations of prompts.

    Args:
      model: a loaded language model.
      prompts: raw texts to continue.
      config: `MCTSConfig` searches, `SamplingConfig` decodes plainly (temperature 0: greedily).
      discriminator: guides the search; plainly decoded texts are only judged by it.
      target: name of the class that every text is to have, or one per prompt.
      seed: the job's seed; with it a prompt's texts are the same in any batch.
      batch_size: prompts decoded at once.
      listener: called after every token, for progress bars and traces.

    Returns:
      The texts, in the order of the prompts, a prompt's samples one after another.

    Raises:
      UserError: a prompt is empty or too long, a target is missing or unknown, or there is nothing
        to search by.
    """
    if isinstance(prompts, str):
        raise UserError("prompts is one string: give a list of prompts")
    if discriminator is None and target is not None:
        raise UserError("a target means nothing without a discriminator: give one, or no target")
    targets = _targets(discriminator, target, len(prompts), guided=config.guided)
    # Every prompt is checked before the first one is worked on.
    make_prompt(model.tokenizer, prompts, context=model.config.context, reserve=config.ahead)
    ids = model.tokenizer.encode_batch(list(prompts))
    buckets = [bucket(len(row)) for row in ids]
    order = sorted(range(len(prompts)), key=lambda number: buckets[number])
    size = max(1, min(batch_size, len(prompts)))
    batches = [order[at : at + size] for at in range(0, len(order), size)]
    guide = discriminator.discriminator if discriminator else None
    network = language_model(model.config, guide.taps if guide else ())
    texts: dict[int, list[Text]] = {}
    for batch, numbers in enumerate(batches):
        # The last batch is filled up with copies, so that it compiles to nothing new.
        rows = [*numbers, *[numbers[-1]] * (size - len(numbers))]
        prompt = make_prompt(
            model.tokenizer,
            [prompts[number] for number in rows],
            context=model.config.context,
            reserve=config.ahead,
        )
        wanted = [targets[number] for number in rows]
        job = Job(
            prompt=replace(prompt, index=jnp.asarray(rows, jnp.int32)),
            params=model.params,
            discriminator_params=discriminator.params if discriminator else None,
            target=jnp.asarray(wanted, jnp.int32) if guide and config.guided else None,
            language_model=network,
            discriminator=guide,
            config=config,
        )
        for step, generation, tree in _tokens(jax.random.key(seed), job):
            if listener is not None:
                done = batch * size
                listener(Step(batch, len(batches), step, done, numbers, generation, tree))
        generation = jax.device_get(generation)
        for row, number in enumerate(numbers):
            texts[number] = [
                _text(
                    model,
                    guide,
                    generation,
                    (row, sample),
                    prompts[number],
                    number,
                    targets[number],
                )
                for sample in range(config.samples)
            ]
    return [text for number in range(len(prompts)) for text in texts[number]]


def _targets(
    discriminator: LoadedDiscriminator | None,
    target: str | Sequence[str] | None,
    count: int,
    *,
    guided: bool,
) -> list[int | None]:
    """Returns the class number that each prompt asks for, None where nothing is asked."""
    if discriminator is None or target is None:
        if discriminator is not None and guided:
            known = ", ".join(discriminator.discriminator.classes)
            raise UserError(f"the search needs a target: choose one of {known}")
        return [None] * count
    names = [target] * count if isinstance(target, str) else list(target)
    if len(names) != count:
        raise UserError(f"{len(names)} targets for {count} prompts: give one, or one per prompt")
    classes = discriminator.discriminator.classes
    for name in names:
        if name not in classes:
            raise UserError(f"unknown target {name!r}: choose one of {', '.join(classes)}")
    return [classes.index(name) for name in names]


def _tokens(key: jax.Array, job: Job) -> Iterator[tuple[int, Generation, Tree | None]]:
    """Runs one batch, one compiled call per token, until every text has ended."""
    kind = type(job.config)
    state = _begin[kind](job)
    for step in range(1, job.config.new_tokens + 1):
        state, tree = _advance[kind](key, job, state)
        yield step, state.generation, tree
        if state.generation.finished.all():
            break


def _text(
    model: LoadedModel,
    guide: Discriminator | None,
    generation: Generation,
    place: tuple[int, int],
    prompt: str,
    number: int,
    target: int | None,
) -> Text:
    """Reads the text at row and sample `place` of a batch back."""

    def at(array: Any) -> Any:
        return array[place].item()

    tokens = generation.tokens[place][: at(generation.length)].tolist()
    classes = guide.classes if guide else ()
    log_class = generation.log_class[place]
    log_prob = at(generation.log_prob)
    log_proposal = at(generation.log_proposal)
    return Text(
        prompt=prompt,
        text=model.tokenizer.continuation(tokens),
        tokens=tokens,
        number=number,
        sample=place[1],
        target=None if target is None else classes[target],
        class_probabilities={
            name: float(np.exp(log_p)) for name, log_p in zip(classes, log_class, strict=True)
        },
        log_prob=log_prob,
        perplexity=float(np.exp(-log_prob / len(tokens))),
        log_proposal=None if np.isnan(log_proposal) else log_proposal,
        finished=at(generation.finished),
        simulations=at(generation.simulations),
        model_tokens=at(generation.model_tokens),
        deepest=at(generation.deepest),
    )
