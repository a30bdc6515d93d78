"""What is measured of a generator and its critic between rounds, on held-out texts and samples."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from coopgen_jax.data.pairs import Pairs
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.discriminator_accuracy import figures
from coopgen_jax.evaluation.metrics import bleu, self_bleu
from coopgen_jax.files import write_json
from coopgen_jax.models.reading import read
from coopgen_jax.models.transformer import unembed
from coopgen_jax.parallel.mesh import BATCH, Mapper, P, map_over_mesh, share
from coopgen_jax.tokenizer import Tokenizer
from coopgen_jax.training import losses
from coopgen_jax.training.gcn.gcn_config import Objective
from coopgen_jax.training.gcn.gcn_networks import (
    HUMAN,
    Networks,
    gather_rows,
    make_readers,
    make_sampler,
)

SAMPLES = "samples.json"
# BLEU is against so many held-out texts at most: it would take longer than a round otherwise.
REFERENCES = 200
# What the early warning goes by.
LEAST_EFFECTIVE, MOST_NATS, MOST_ALIKE = 0.05, 1.0, 0.3
LEAST_LENGTH, LEAST_DISTINCT = 0.25, 0.5


def own_part(tree: Any) -> Any:
    """Returns this process's part of the rows of host arrays."""
    parts, number = jax.process_count(), jax.process_index()

    def part(array: np.ndarray) -> np.ndarray:
        rows = len(array) // parts
        return array[number * rows : (number + 1) * rows]

    return jax.tree.map(part, tree)


def fetched(tree: Any) -> Any:
    """Returns arrays that lie on the mesh, those of other processes included, as host arrays."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


@dataclass(frozen=True)
class Examination:
    """How much is measured.

    texts: sampled from the generator by itself; held_out: texts of people that are read, at most.
    rows: read at once, a multiple of the devices.
    """

    texts: int = 64
    held_out: int = 256
    rows: int = 32

    def __post_init__(self) -> None:
        if self.texts < 2 or self.held_out < 1 or self.rows < 1:
            raise UserError(
                f"{self.texts} sampled texts and {self.held_out} held-out ones: self-BLEU wants 2 "
                "or more, and likelihood 1"
            )


def make_examination(
    networks: Networks,
    fixed: Any,
    held_out: Pairs,
    tokenizer: Tokenizer,
    config: Examination,
    *,
    folder: Path,
    mesh: Mesh,
    mapper: Mapper = "shard_map",
    judged: bool = True,
    seed: int = 0,
) -> Callable[[Any], dict[str, float]]:
    """Returns what measures both networks, `{"generator", "judge"} -> metrics`.

    The metrics are `loss`, nats a token of held-out texts; `kl_to_start`, the divergence from the
    generator before all training in nats a text, estimated on texts that it samples by itself,
    where every token's whole distribution counts; `bleu` of these against held-out texts (of their
    source where they have one) and `self_bleu` among them, both of 4-grams; `distinct`, the share
    of different texts among them, and `relative_length`, their mean tokens over those of held-out
    texts, what ends a text not counted; and how well the discriminator tells the two kinds apart:
    `judge_accuracy` on both, `judge_human_accuracy` on texts of people, `judge_calibration_error`.
    The noise of the samples is always the same.

    Args:
      networks: both networks.
      fixed: `{"generator", "judge"}` parameters that are not trained.
      held_out: pairs that nothing learns from.
      tokenizer: the generator's.
      config: how much.
      folder: where the texts of the last examination are written.
      mesh: the devices.
      mapper: see `map_over_mesh`.
      judged: whether there is a discriminator to measure.
      seed: of the samples.
    """
    count = len(held_out)
    human = [number * count // min(count, config.held_out)
             for number in range(min(count, config.held_out))]  # fmt: skip
    asked = [human[number % len(human)] for number in range(config.texts)]
    says_human, likelihood = make_readers(networks, mesh=mesh, mapper=mapper)
    sampling = SamplingConfig(new_tokens=held_out.text_width)
    sampler = make_sampler(networks, sampling, guided=False, mesh=mesh, mapper=mapper)
    rows_of = jax.jit(gather_rows)
    words = sum(len(unended(held_out.texts[number], tokenizer)) for number in human)
    usual = max(words / len(human), 1.0)

    def apart(learnt: Any, fixed: Any, rows: Any) -> jax.Array:
        def said(params: Any) -> jax.Array:
            _, stream, _, _ = read(networks.generator, params, rows["tokens"], rows["mask"])
            return unembed(networks.generator, params, stream)

        now, first = said(networks.join(learnt, fixed)), said(networks.first(fixed))
        return jax.vmap(losses.sequence_kl)(now, first, rows["written"])

    by_rows: Any = P(BATCH)
    divergence = jax.jit(map_over_mesh(apart, mesh, (P(), P(), by_rows), by_rows, mapper=mapper))
    joined = jax.jit(networks.join)

    def batches(numbers: Sequence[int], rows: Callable[[list[int]], Any]) -> Any:
        """Yields rows on the mesh and how many of them are wanted; the last ones are repeated."""
        for at in range(0, len(numbers), config.rows):
            there = list(numbers[at : at + config.rows])
            filled = [*there, *[there[-1]] * (config.rows - len(there))]
            yield share(own_part(rows(filled)), mesh), len(there)

    def examine(learnt: Any) -> dict[str, float]:
        generator, judge = learnt["generator"], learnt["judge"]
        params = joined(generator, fixed["generator"])
        logs, tokens, log_human = [], 0, []
        for rows, there in batches(human, held_out.rows):
            logs += fetched(likelihood(params, rows))[:there].tolist()
            if judged:
                log_human += fetched(says_human(judge, fixed["judge"], rows))[:there].tolist()
        tokens = sum(len(held_out.texts[number]) for number in human)
        key, away, log_own = jax.random.key(seed), [], []
        texts, written = [], []
        for number, (prompt, there) in enumerate(batches(asked, held_out.prompt)):
            generation = sampler(jax.random.fold_in(key, number), prompt, generator, judge, fixed)
            rows = rows_of(prompt, generation)
            away += fetched(divergence(generator, fixed["generator"], rows))[:there].tolist()
            if judged:
                log_own += fetched(says_human(judge, fixed["judge"], rows))[:there].tolist()
            ids, lengths = fetched((generation.tokens[:, 0], generation.length[:, 0]))
            own = [row[:size].tolist() for row, size in zip(ids[:there], lengths, strict=False)]
            texts += tokenizer.decode_batch(own)
            written += [len(unended(row, tokenizer)) for row in own]
        texts = [text.strip() for text in texts]
        if jax.process_index() == 0:
            write_json(folder / SAMPLES, texts)
        common = [held_out.written[number] for number in human[:REFERENCES]]
        references = [
            [held_out.written[number]] if held_out.conditional else common for number in asked
        ]
        found = {
            "loss": -sum(logs) / tokens,
            "kl_to_start": float(np.mean(away)),
            "bleu": bleu(texts, references),
            "self_bleu": self_bleu(texts, 4),
            "distinct": len(set(texts)) / len(texts),
            "relative_length": float(np.mean(written)) / usual,
        }
        return found | (_judged(log_human, log_own) if judged else {})

    return examine


def unended(ids: Sequence[int], tokenizer: Tokenizer) -> Sequence[int]:
    """Returns the tokens of a text without the one that ends it."""
    return ids[:-1] if ids and ids[-1] in tokenizer.end_tokens else ids


def _judged(log_human: Sequence[float], log_own: Sequence[float]) -> dict[str, float]:
    """Returns how well texts of people and of the generator are told apart."""
    log_p = np.minimum(np.asarray([*log_human, *log_own], np.float64), -1e-12)
    names = ("judge_accuracy", "judge_human_accuracy", "judge_calibration_error")
    if not np.isfinite(log_p).all():
        # Whoever records it says so, and keeps what it came from.
        return dict.fromkeys(names, float("nan"))
    labels = np.asarray([HUMAN] * len(log_human) + [1 - HUMAN] * len(log_own))
    both = np.stack([np.log(-np.expm1(log_p)), log_p], axis=-1)
    all_of, own = figures(both, labels), figures(both[: len(log_human)], labels[: len(log_human)])
    found = (all_of["accuracy"], own["accuracy"], all_of["calibration_error"])
    return dict(zip(names, found, strict=True))


def warnings_of(
    first: Mapping[str, float],
    now: Mapping[str, float],
    means: Mapping[str, float],
    objective: Objective = "gcn",
) -> list[str]:
    """Returns what speaks for a training that collapses, a sentence each.

    Args:
      first: metrics in front of the first round.
      now: those of the last examination.
      means: of the last round.
      objective: of the training, which decides what can be advised.
    """
    found = []
    if means.get("effective_share", 1.0) < LEAST_EFFECTIVE:
        nearer = "sample nearer to what the discriminator wants"
        advice = {
            "gcn": f"{nearer}, sample more, or cut the weights by a (smaller) clip",
            "gdc": f"{nearer}, or sample more",
        }.get(objective, "sample more")
        found.append(f"a round's texts count as {means['effective_share']:.0%} of them: {advice}")
    if now["loss"] > first["loss"] + MOST_NATS:
        found.append(
            f"held-out texts have become {now['loss'] - first['loss']:.1f} nats a token less "
            "likely: lower the learning rate, or hold the generator by kl"
        )
    # Texts without words have no n-grams in common, and are one text.
    distinct = [measured.get("distinct", 1.0) for measured in (first, now)]
    alike = now["self_bleu"] > first["self_bleu"] + MOST_ALIKE
    if alike or distinct[1] < LEAST_DISTINCT * distinct[0]:
        found.append(
            f"samples have become alike (self-BLEU {first['self_bleu']:.2f} to "
            f"{now['self_bleu']:.2f}, {distinct[0]:.0%} to {distinct[1]:.0%} of them distinct): "
            "lower the learning rate, or remember more rounds"
        )
    length = now.get("relative_length", 1.0)
    if length < LEAST_LENGTH:
        found.append(
            f"samples have {length:.0%} of the tokens of people's texts: lower the learning rate, "
            "or hold the generator by kl"
        )
    return found
