"""Measurements of both networks between rounds, on held-out texts and on samples."""

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
from coopgen_jax.parallel.mesh import BATCH, Mapper, P, map_over_mesh
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
from coopgen_jax.training.objectives import logits_of
from coopgen_jax.training.step import share_part

SAMPLES = "samples.json"
# BLEU is against so many held-out texts at most: it would take longer than a round otherwise.
REFERENCES = 200
# Thresholds of the early warnings.
LEAST_EFFECTIVE, MOST_NATS, MOST_ALIKE = 0.05, 1.0, 0.3
LEAST_LENGTH, LEAST_DISTINCT = 0.25, 0.5


def fetched(tree: Any) -> Any:
    """Returns arrays that lie on the mesh, those of other processes included, as host arrays."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


@dataclass(frozen=True)
class Examination:
    """How much is measured.

    Attributes:
      texts: sampled from the generator by itself.
      held_out: human texts that are read, at most.
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


class Examiner:
    """Measures both networks, `{"generator", "discriminator"} -> metrics`.

    The metrics are `loss`, nats a token of held-out texts; `kl_to_start`, the divergence from the
    generator before all training in nats a text, estimated on texts that it samples by itself,
    where every token's full distribution counts; `bleu` of these against held-out texts (of their
    source where they have one) and `self_bleu` among them, both of 4-grams; `distinct`, the share
    of different texts among them, and `relative_length`, their mean tokens over those of held-out
    texts, without the token that ends a text; and the accuracy with which the discriminator tells
    the two kinds apart: `judge_accuracy` on both, `judge_human_accuracy` on human texts, and
    `judge_calibration_error`. The noise of the samples is always the same.
    """

    def __init__(
        self,
        networks: Networks,
        frozen: Any,
        held_out: Pairs,
        tokenizer: Tokenizer,
        config: Examination,
        *,
        folder: Path,
        mesh: Mesh,
        mapper: Mapper,
        judged: bool,
        seed: int,
    ) -> None:
        """Takes pairs that nothing is trained on, `held_out`, and the generator's tokenizer.

        The texts of the last examination are written to `folder`; without `judged` there is no
        discriminator to measure.
        """
        over: dict[str, Any] = {"mesh": mesh, "mapper": mapper}
        self.frozen, self.held_out, self.tokenizer = frozen, held_out, tokenizer
        self.config, self.folder, self.mesh, self.judged = config, folder, mesh, judged
        self.key = jax.random.key(seed)
        count, read_ones = len(held_out), min(len(held_out), config.held_out)
        self.human = [number * count // read_ones for number in range(read_ones)]
        self.sources = [self.human[number % read_ones] for number in range(config.texts)]
        self.log_human, self.log_likelihood = make_readers(networks, **over)
        sampling = SamplingConfig(new_tokens=held_out.text_width)
        self.sampler = make_sampler(networks, sampling, guided=False, **over)
        self.rows_of = jax.jit(gather_rows)
        self.divergence = _divergence(networks, **over)
        self.join = jax.jit(networks.join)
        words = sum(len(unended(held_out.texts[number], tokenizer)) for number in self.human)
        self.usual_length = max(words / read_ones, 1.0)

    def __call__(self, trainable: Any) -> dict[str, float]:
        """Returns the metrics, and writes the sampled texts."""
        logs, log_human = self._read_held_out(trainable)
        texts, lengths, away, log_own = self._sample(trainable)
        if jax.process_index() == 0:
            write_json(self.folder / SAMPLES, texts)
        held_out = self.held_out
        common = [held_out.written[number] for number in self.human[:REFERENCES]]
        references = [
            [held_out.written[number]] if held_out.conditional else common
            for number in self.sources
        ]
        tokens = sum(len(held_out.texts[number]) for number in self.human)
        found = {
            "loss": -sum(logs) / tokens,
            # Rounding alone brings a divergence below 0.
            "kl_to_start": max(float(np.mean(away)), 0.0),
            "bleu": bleu(texts, references),
            "self_bleu": self_bleu(texts, 4),
            "distinct": len(set(texts)) / len(texts),
            "relative_length": float(np.mean(lengths)) / self.usual_length,
        }
        return found | (_judged(log_human, log_own) if self.judged else {})

    def _batches(self, numbers: Sequence[int], rows: Callable[[list[int]], Any]) -> Any:
        """Yields rows on the mesh and how many of them are wanted; the last one is repeated."""
        size = self.config.rows
        for at in range(0, len(numbers), size):
            there = list(numbers[at : at + size])
            filled = [*there, *[there[-1]] * (size - len(there))]
            yield share_part(rows(filled), self.mesh), len(there)

    def _of_discriminator(self, trainable: Any, rows: Any, there: int) -> list[float]:
        if not self.judged:
            return []
        log_human = self.log_human(trainable["discriminator"], self.frozen["discriminator"], rows)
        return fetched(log_human)[:there].tolist()

    def _read_held_out(self, trainable: Any) -> tuple[list[float], list[float]]:
        """Returns log p(text) and log p(human) of held-out texts."""
        params = self.join(trainable["generator"], self.frozen["generator"])
        logs: list[float] = []
        log_human: list[float] = []
        for rows, there in self._batches(self.human, self.held_out.rows):
            logs += fetched(self.log_likelihood(params, rows))[:there].tolist()
            log_human += self._of_discriminator(trainable, rows, there)
        return logs, log_human

    def _sample(self, trainable: Any) -> tuple[list[str], list[int], list[float], list[float]]:
        """Returns sampled texts, their tokens, their divergence and their log p(human)."""
        generator, frozen = trainable["generator"], self.frozen["generator"]
        texts: list[str] = []
        lengths: list[int] = []
        away: list[float] = []
        log_own: list[float] = []
        batches = self._batches(self.sources, self.held_out.prompt)
        for number, (prompt, there) in enumerate(batches):
            noise = jax.random.fold_in(self.key, number)
            generation = self.sampler(
                noise, prompt, generator, trainable["discriminator"], self.frozen
            )
            rows = self.rows_of(prompt, generation)
            away += fetched(self.divergence(generator, frozen, rows))[:there].tolist()
            log_own += self._of_discriminator(trainable, rows, there)
            ids, sizes = fetched((generation.tokens[:, 0], generation.length[:, 0]))
            own = [row[:size].tolist() for row, size in zip(ids[:there], sizes, strict=False)]
            texts += self.tokenizer.decode_batch(own)
            lengths += [len(unended(row, self.tokenizer)) for row in own]
        return [text.strip() for text in texts], lengths, away, log_own


def _divergence(networks: Networks, *, mesh: Mesh, mapper: Mapper) -> Callable[..., jax.Array]:
    """Returns the compiled divergence `[M]` of rows from the generator before all training."""

    def divergence(trainable: Any, frozen: Any, rows: Any) -> jax.Array:
        now, first = (
            logits_of(networks.generator, params, rows["tokens"], rows["mask"])
            for params in (networks.join(trainable, frozen), networks.first(frozen))
        )
        return jax.vmap(losses.sequence_kl)(now, first, rows["written"])

    by_rows: Any = P(BATCH)
    return jax.jit(map_over_mesh(divergence, mesh, (P(), P(), by_rows), by_rows, mapper=mapper))


def unended(ids: Sequence[int], tokenizer: Tokenizer) -> Sequence[int]:
    """Returns the tokens of a text without the one that ends it."""
    return ids[:-1] if ids and ids[-1] in tokenizer.end_tokens else ids


def _judged(log_human: Sequence[float], log_own: Sequence[float]) -> dict[str, float]:
    """Returns how well human texts and the generator's are told apart."""
    log_p = np.minimum(np.asarray([*log_human, *log_own], np.float64), -1e-12)
    names = ("judge_accuracy", "judge_human_accuracy", "judge_calibration_error")
    if not np.isfinite(log_p).all():
        # The loop that records it reports it, and keeps the batch.
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
    """Returns the signs of a training that collapses, a sentence each.

    They are in the metrics in front of the `first` round and `now`, and in the last round's means;
    the objective decides what can be advised.
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
            f"samples have {length:.0%} of the tokens of human texts: lower the learning rate, or "
            "hold the generator by kl"
        )
    return found
