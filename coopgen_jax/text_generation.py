"""From strings to strings: batches prompts, runs a decoder token by token, reads the texts back."""

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from coopgen_jax.decoding.decode import DECODERS
from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.generation import Generation
from coopgen_jax.decoding.job import Decoder, Job
from coopgen_jax.decoding.mcts.along import along_of, check_along
from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig
from coopgen_jax.decoding.methods.pplm_config import PPLMConfig
from coopgen_jax.decoding.on_mesh import stepper
from coopgen_jax.decoding.rules.stop import StopStrings
from coopgen_jax.decoding.rules.watermark import Marking, marking_of
from coopgen_jax.decoding.rules.watermark_key import WatermarkKey
from coopgen_jax.decoding.text import Text, read_texts
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.errors import UserError
from coopgen_jax.models.language_model import LanguageModel, Prompt
from coopgen_jax.models.pretrained.combined_model import (
    check_reference,
    network_of,
    params_of,
    reference_params_of,
)
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.models.prompt import (
    behind_vectors,
    bucket,
    check_context,
    ids_of,
    make_prompt,
    with_context,
)
from coopgen_jax.parallel.mesh import BATCH, Mapper, place, shares
from coopgen_jax.search.tree import Tree

__all__ = ["Step", "Text", "generate"]


@partial(jax.jit, static_argnames="decoder")
def _begin(job: Job, *, decoder: Decoder) -> Any:
    return decoder.begin(job)


@partial(jax.jit, static_argnames="decoder", donate_argnames="state")
def _advance(key: jax.Array, job: Job, state: Any, *, decoder: Decoder) -> tuple[Any, Any]:
    return decoder.advance(key, job, state)


@partial(jax.jit, static_argnames="finish")
def _finish(job: Job, generation: Generation, *, finish: Callable) -> Any:
    return finish(job, generation)


@dataclass(frozen=True)
class Step:
    """What a listener is told after every token of a batch.

    batch, batches: which batch, of how many; step: tokens written in it so far, at most.
    done: prompts of the batches finished before this one; prompts: numbers of this one's prompts.
    generation: the texts so far, rows `[B, R]`, of which the first `len(prompts)` are real; all
      that are to be chosen among, where the decoder chooses at the end.
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
    prompts: Sequence[str | Sequence[int] | None],
    *,
    config: DecoderSettings,
    discriminator: LoadedDiscriminator | None = None,
    target: str | Sequence[str] | None = None,
    reference: LoadedModel | None = None,
    watermark: WatermarkKey | None = None,
    message: int | Sequence[int] = 0,
    along: Sequence[Sequence[int]] | None = None,
    vectors: np.ndarray | None = None,
    context: Any = None,
    seed: int = 0,
    batch_size: int = 8,
    numbers: Sequence[int] | None = None,
    mesh: Mesh | None = None,
    mapper: Mapper = "shard_map",
    listener: Callable[[Step], None] | None = None,
) -> list[Text]:
    """Returns continuations of prompts, in their order, a prompt's samples one after another.

    Args:
      model: a loaded language model, or several as one (`combined`).
      prompts: raw texts to continue, or their ids; None leaves one out, others keep their numbers.
      config: a method's settings, as `MCTSConfig`; `DecoderSettings` names what all of them have.
      discriminator: guides the search; plainly decoded texts are only judged by it.
      target: name of the class that every text is to have, or one per prompt.
      reference: what the config's `Reference` charges a search for leaving, with the same tokens as
        `model`: of a tuned model the one that it was tuned from, of a combined one its base.
      watermark: the key of the mark that texts are given, in place of the rules' own watermark.
      message: what marks say, one for all or one a prompt, below the key's `vocab_size`.
      along: texts in tokens, one a prompt, that a search writes instead; see `check_along`.
      vectors: `[prompts, K, E]` that are read as tokens in front of every prompt (image prefixes).
      context: arrays with a row a prompt that the discriminator reads, as images; see `Prompt`. Or
        a function that returns the rows of the prompts whose numbers it is given, a batch's.
      seed: the job's seed; with it a prompt's texts are the same in any batch.
      batch_size: prompts decoded at once.
      numbers: which of the prompts to work on, counted from 0; None for all.
      mesh: from `make_mesh`: "batch" splits batches, "tensor" weights; None for one device.
      mapper: how rows are split, "shard_map" or "pmap".
      listener: called after every token, for progress bars and traces.

    Raises:
      UserError: a prompt is empty or too long, or settings are missing, unknown or at odds.
    """
    _check_rows(prompts, numbers, context)
    messages = messages_of(watermark, message, len(prompts))
    config = _with_stop(with_watermark(config, watermark, model), model)
    check_along(config, along, len(prompts), network_of(model))
    targets = _targets(discriminator, target, len(prompts), guided=config.guided)
    asked = {number: prompt for number, prompt in enumerate(prompts) if prompt is not None}
    parts = _parts(model, discriminator, reference, config, mesh)
    batch_of = _batching(model, parts, config, vectors, context, len(prompts))
    # Every prompt is checked before the first one is worked on.
    batch_of(list(asked.values()), numbers=list(asked), bare=True)
    ids = dict(zip(asked, ids_of(model.tokenizer, list(asked.values())), strict=True))
    chosen = asked if numbers is None else [n for n in dict.fromkeys(numbers) if n in asked]
    batches, size = _batches({number: len(ids[number]) for number in chosen}, batch_size, mesh)
    targeted = _targeted(config, discriminator, target)
    texts: dict[int, list[Text]] = {}
    for batch, there in enumerate(batches):
        place = batch, len(batches), batch * size, there
        # The last batch is filled up with copies, so that it compiles to nothing new.
        rows = [*there, *[there[-1]] * (size - len(there))]
        job = Job(
            prompt=batch_of([ids[number] for number in rows], numbers=rows),
            target=jnp.int32([targets[number] for number in rows]) if targeted else None,
            marking=_marking(watermark, [messages[number] for number in rows]),
            along=along_of(along, rows, config.new_tokens),
            config=config,
            **parts,
        )
        with discriminator.explained() if discriminator else nullcontext():
            generation = _last(_tokens(seed, job, mesh, mapper), job, place, listener)
        for row, number in enumerate(there):
            texts[number] = read_texts(
                model.tokenizer, job, generation, (row, number), asked[number], targets[number]
            )
    return [text for number in sorted(texts) for text in texts[number]]


def with_watermark(
    config: DecoderSettings, key: WatermarkKey | None, model: LoadedModel | None = None
) -> DecoderSettings:
    """Returns settings that write texts with a key's mark, the same ones without a key.

    Raises:
      UserError: the method cannot make this mark, or the key is for the tokens of another model.
    """
    if key is None:
        if config.rules.watermark is not None:
            raise UserError(
                "the rules have a watermark, and there is no key: give a key that was made with it "
                "as watermark"
            )
        return config
    if model is not None:
        key.check(model.tokenizer, network_of(model).vocab_size)
    try:
        return replace(config, rules=replace(config.rules, watermark=key.watermark))
    except ValueError as error:
        raise UserError(str(error)) from error


def messages_of(key: WatermarkKey | None, message: int | Sequence[int], count: int) -> list[int]:
    """Returns what the marks of `count` prompts' texts say.

    Raises:
      UserError: there is no key for a message, there are not as many as prompts, or the key cannot
        tell one.
    """
    several = list(message) if isinstance(message, Sequence) else [message] * count
    try:
        messages = [operator.index(said) for said in several]
    except TypeError as error:
        raise UserError("a message is no whole number: give one, or one per prompt") from error
    if key is None:
        if any(messages):
            raise UserError("a message is what a watermark says: give its key, or no message")
        return messages
    if len(messages) != count:
        raise UserError(
            f"{len(messages)} messages for {count} prompts: give one, or one per prompt"
        )
    for said in messages:
        if not 0 <= said < key.vocab_size:
            raise UserError(f"message is {said}: give a number from 0 to {key.vocab_size - 1}")
    return messages


def _marking(key: WatermarkKey | None, messages: list[int]) -> Marking | None:
    return None if key is None else marking_of(key.secret, messages)


def _check_rows(prompts: Sequence, numbers: Sequence[int] | None, context: Any) -> None:
    if isinstance(prompts, str):
        raise UserError("prompts is one string: give a list of prompts")
    for number in numbers or ():
        if not 0 <= number < len(prompts):
            raise UserError(
                f"there is no prompt {number}: they are numbered 0 to {len(prompts) - 1}"
            )
    check_context(context, len(prompts))


def _parts(
    model: LoadedModel,
    discriminator: LoadedDiscriminator | None,
    reference: LoadedModel | None,
    config: DecoderSettings,
    mesh: Mesh | None,
) -> dict[str, Any]:
    """Returns the networks of a job and their params, placed on the mesh if there is one."""
    guide = discriminator.discriminator if discriminator else None
    other = _reference(model, reference, config, mesh)
    if guide and guide.tokenizer and shares(mesh) > 1:
        raise UserError(
            "a discriminator with a tokenizer of its own calls the host, which devices that share "
            "weights cannot do: split the batch alone, or take another discriminator"
        )
    params = params_of(model, mesh)
    guide_params = discriminator.params if discriminator else None
    if mesh is not None:
        guide_params = place(guide_params, mesh)
    reference_params = None
    if other is not None and reference is not None:
        reference_params = reference_params_of(reference, model, params, mesh)
    return {
        "language_model": network_of(model, guide.taps if guide else (), tensor=shares(mesh)),
        "discriminator": guide,
        "reference": other,
        "params": params,
        "discriminator_params": guide_params,
        "reference_params": reference_params,
    }


def _batching(
    model: LoadedModel,
    parts: dict[str, Any],
    config: DecoderSettings,
    vectors: np.ndarray | None,
    context: Any,
    count: int,
) -> Callable[..., Prompt]:
    """Returns what makes a batch of prompts, which leaves room for what is to be written.

    Every prompt has its row of the vectors and of the discriminator's context.
    """
    readers = [parts[name] for name in ("language_model", "reference") if parts[name] is not None]
    longest = min(reader.context for reader in readers)
    front, width = vectors, parts["language_model"].width
    if front is not None:
        front = np.asarray(front)
        if front.ndim != 3 or len(front) != count or not front.size or front.shape[2] != width:
            raise UserError(
                f"vectors have the shape {front.shape}: give {count} prompts' vectors, one or more "
                f"each, of the model's width {width}"
            )
    reserve = config.ahead + (0 if front is None else front.shape[1])

    def batch_of(ids: Sequence, *, numbers: list[int], bare: bool = False) -> Prompt:
        room = {"context": longest, "reserve": reserve}
        prompt = make_prompt(model.tokenizer, ids, numbers=numbers, **room)
        if front is not None and not bare:
            prompt = behind_vectors(prompt, jnp.asarray(front[np.asarray(numbers)]))
        return prompt if bare else with_context(prompt, context, numbers)

    return batch_of


def _batches(
    lengths: dict[int, int], batch_size: int, mesh: Mesh | None
) -> tuple[list[list[int]], int]:
    """Returns the prompts' numbers in batches of one padded length, and the rows of a batch."""
    order = sorted(lengths, key=lambda number: bucket(lengths[number]))
    size = max(1, min(batch_size, len(order)))
    if mesh is not None:
        size += -size % mesh.shape[BATCH]
    return [order[at : at + size] for at in range(0, len(order), size)], size


def _with_stop(config: DecoderSettings, model: LoadedModel) -> DecoderSettings:
    """Returns the settings with their stop strings as an automaton over the model's tokens."""
    stop = config.rules.stop
    if isinstance(stop, StopStrings) or not stop:
        return config
    compiled = StopStrings.compile(stop, model.tokenizer, network_of(model).vocab_size)
    return replace(config, rules=replace(config.rules, stop=compiled))


def _reference(
    model: LoadedModel, reference: LoadedModel | None, config: DecoderSettings, mesh: Mesh | None
) -> LanguageModel | None:
    """Returns the functions of a reference, None where nothing is charged for leaving it."""
    price = config.reference if isinstance(config, MCTSConfig) else None
    if reference is not None and not isinstance(config, MCTSConfig):
        raise UserError(
            "only a search is charged for leaving a reference: give an MCTSConfig, or no reference"
        )
    if reference is None and price:
        raise UserError(
            f"kl is {price.kl}, the price of leaving a reference, and there is none: give one, or "
            "kl 0"
        )
    if reference is None or price is None:
        return None
    check_reference(reference, model)
    return network_of(reference, tensor=shares(mesh))


def _targets(
    discriminator: LoadedDiscriminator | None,
    target: str | Sequence[str] | None,
    count: int,
    *,
    guided: bool,
) -> list[int | None]:
    """Returns the class number that each prompt asks for, None where nothing is asked."""
    if discriminator is None and target is not None:
        raise UserError("a target means nothing without a discriminator: give one, or no target")
    classes = discriminator.discriminator.classes if discriminator else ()
    known = ", ".join(classes)
    if discriminator and target is None and guided:
        raise UserError(f"this decoder needs a target: choose one of {known}")
    if target is None:
        return [None] * count
    names = [target] * count if isinstance(target, str) else list(target)
    if len(names) != count:
        raise UserError(f"{len(names)} targets for {count} prompts: give one, or one per prompt")
    for name in names:
        if name not in classes:
            raise UserError(f"unknown target {name!r}: choose one of {known}")
    return [classes.index(name) for name in names]


def _last(
    steps: Iterator[tuple[int, Generation, Tree | None]],
    job: Job,
    place: tuple[int, int, int, list[int]],
    listener: Callable[[Step], None] | None,
) -> Generation:
    """Returns a batch's texts in NumPy; the `place` is what `Step` says of the batch."""
    batch, batches, done, prompts = place
    for step, generation, tree in steps:
        if listener is not None:
            listener(Step(batch, batches, step, done, prompts, generation, tree))
    if finish := DECODERS[type(job.config)].finish:
        generation = _finish(job, generation, finish=finish)
    found: Generation = jax.device_get(generation)
    return found


def _targeted(config: DecoderSettings, discriminator: Any, target: Any) -> bool:
    # With bags of words a target may be given, and need not be.
    follows = config.guided or isinstance(config, PPLMConfig)
    return discriminator is not None and target is not None and follows


def _tokens(
    seed: int, job: Job, mesh: Mesh | None, mapper: Mapper
) -> Iterator[tuple[int, Generation, Tree | None]]:
    """Runs one batch, one compiled call per token, until every text has ended."""
    decoder = DECODERS[type(job.config)]
    begin: Callable = partial(_begin, decoder=decoder)
    advance: Callable = partial(_advance, decoder=decoder)
    if mesh is not None:
        begin, advance = stepper(decoder, mesh, mapper)
    state, key = begin(job), jax.random.key(seed)
    for step in range(1, job.config.new_tokens + 1):
        state, tree = advance(key, job, state)
        yield step, state.generation, tree
        if state.generation.finished.all():
            break
