"""Training texts written for every class: prompted by openings of real ones, guided, filtered.

Every text that is written goes to a growing file, kept or with the reason why it was left out. What
a batch holds depends on its number, the settings and what was kept before it, so that a run that
was broken off goes on with the texts that it would have written.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from coopgen_jax.augmentation.augmentation_settings import (
    AugmentationSettings,
    Filter,
    check_classes,
    header_of_texts,
    openings_of,
)
from coopgen_jax.augmentation.filters import CopyFilter, fault_of
from coopgen_jax.augmentation.substitution import Private
from coopgen_jax.bulk.growing_file import append, make_folder, resume, rows_in
from coopgen_jax.comparison.header import method_of
from coopgen_jax.data.labelled import Labelled
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.decoding.rules.watermark_key import WatermarkKey
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.explanation.class_texts import start_of
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.text_generation import Text, generate

# Why a text is left out that came after its class had enough.
ENOUGH = "not needed"


@dataclass(frozen=True)
class WrittenSoFar:
    """How far the writing is.

    Attributes:
      kept: texts that were kept, by class.
      tried: texts that were written, by class.
      seconds: since this run began or went on.
    """

    kept: dict[str, int]
    tried: dict[str, int]
    seconds: float


def write_synthetic(
    model: LoadedModel,
    guide: LoadedDiscriminator,
    originals: Labelled,
    path: Path,
    settings: AugmentationSettings,
    *,
    classes: Sequence[str] | None = None,
    judged_by: Filter | None = None,
    private: Private | None = None,
    key: WatermarkKey | None = None,
    guide_name: str | None = None,
    guide_weights: str | None = None,
    begin: Callable[[], None] = lambda: None,
    budget_seconds: float | None = None,
    listener: Callable[[WrittenSoFar], None] = lambda progress: None,
) -> list[dict[str, Any]]:
    """Writes texts for classes of originals, or goes on, and returns a row for each of them.

    Args:
      model: the language model.
      guide: knows the classes; each text is written towards its own.
      originals: texts that openings are taken from, and that no text may repeat.
      path: the file that grows.
      settings: how texts are written.
      classes: those that are written for; all of the originals where it is None.
      judged_by: must find a text likeliest of its class; None for no such filter.
      private: what no text may pass on; None for nothing.
      key: what texts are marked with; None for no mark.
      guide_name: what files call the guide.
      guide_weights: hash of its weights.
      begin: called once, when everything was checked and before any text is written.
      budget_seconds: after so long no batch is begun; None for no end.
      listener: called after every batch.

    Returns:
      Of every text its `class`, the `text` with its opening, the `opening`, the number of the
      original that it was taken from (`seed_text`, from 0, None without), the `method`, the guide's
      and the filter's probability of the class (`p_guide`, `p_filter`), `log_prob` and number of
      `tokens` of the continuation under the language model, the words of the longest run shared
      with an original (`longest_run`), the identity of the `watermark`'s key, and the `reason` why
      it was left out, None where it is kept.

    Raises:
      UserError: a class is unknown to somebody, originals are too short for their openings, the
        file holds texts of other settings, or the guide fails.
    """
    names = tuple(originals.classes if classes is None else classes)
    check_classes(names, originals, guide, judged_by)
    if not settings.decoder.rules.stop:
        # A training text is one line, and behind a line break models begin something else.
        rules = replace(settings.decoder.rules, stop=("\n",))
        settings = replace(settings, decoder=replace(settings.decoder, rules=rules))
    openings = {name: openings_of(originals, name, settings) for name in names}
    header = header_of_texts(
        model, guide, originals, settings, names=names, judged_by=judged_by, private=private,
        key=key, guide_name=guide_name, guide_weights=guide_weights,
    )  # fmt: skip
    make_folder(path.parent)
    resume(path, header, [settings.batch] * settings.rounds * len(names))
    begin()
    rows = rows_in(path)
    sieve = _Sieve(originals, settings, judged_by, private)
    sieve.count(rows)
    start = time.perf_counter()
    while (name := sieve.lacking(names)) is not None:
        began = time.perf_counter()
        if budget_seconds is not None and began - start >= budget_seconds:
            break
        first, number = sieve.tried[name], len(rows) // settings.batch
        made = _batch(model, guide, settings, name, openings[name], (first, number), key)
        sieve.judge(made)
        seconds = (time.perf_counter() - began) / len(made)
        made = [row | {"seconds": seconds} for row in made]
        append(path, made)
        rows += made
        progress = dict(sieve.kept), dict(sieve.tried), time.perf_counter() - start
        listener(WrittenSoFar(*progress))
    return rows


class _Sieve:
    """Says of every text whether it is kept, and how many are."""

    def __init__(
        self,
        originals: Labelled,
        settings: AugmentationSettings,
        judged_by: Filter | None,
        private: Private | None,
    ) -> None:
        self._settings, self._judged_by, self._private = settings, judged_by, private
        self._copies = CopyFilter(originals.texts, settings.filters)
        self.kept, self.tried = Counter[str](), Counter[str]()

    def count(self, rows: Sequence[dict[str, Any]]) -> None:
        """Takes in rows that were judged."""
        for row in rows:
            self.tried[row["class"]] += 1
            if row["reason"] is None:
                self.kept[row["class"]] += 1
                self._copies.keep(row["text"])

    def lacking(self, names: Sequence[str]) -> str | None:
        """Returns the class that the next batch is for, None where no class needs one."""
        settings = self._settings
        most = settings.rounds * settings.batch
        lacking = [
            name
            for name in names
            if self.kept[name] < settings.per_class and self.tried[name] < most
        ]
        return min(lacking, key=lambda name: self.tried[name], default=None)

    def judge(self, rows: Sequence[dict[str, Any]]) -> None:
        """Adds to the rows of a batch what filters say, and takes them in."""
        said: Sequence[Any] = [None] * len(rows)
        label = 0
        if self._judged_by is not None:
            judge = self._judged_by.judge
            said = judge.predict_proba([row["text"] for row in rows]).tolist()
            label = judge.classes.index(rows[0]["class"])
        for row, p in zip(rows, said, strict=True):
            text = row["text"]
            row["p_filter"] = None if p is None else p[label]
            row["longest_run"] = self._copies.longest(text)
            row["reason"] = fault_of(
                text, p, label,
                settings=self._settings.filters, copies=self._copies, private=self._private,
            )  # fmt: skip
            if row["reason"] is None and self.kept[row["class"]] >= self._settings.per_class:
                row["reason"] = ENOUGH
            self.count([row])


def _batch(
    model: LoadedModel,
    guide: LoadedDiscriminator,
    settings: AugmentationSettings,
    name: str,
    openings: Sequence[tuple[int, str]],
    place: tuple[int, int],
    key: WatermarkKey | None,
) -> list[dict[str, Any]]:
    """Returns the rows of a batch, not filtered yet.

    `place` is the number of the class's texts before it, and the number of the batch.
    """
    first, number = place
    # Every batch has its own noise.
    seed = int(np.random.default_rng((settings.seed, number)).integers(1 << 31))
    how: dict[str, Any] = {"seed": seed, "batch_size": settings.batch, "watermark": key}
    seeds: list[int | None] = [None] * settings.batch
    prompts: Sequence[str | list[int]]
    fronts: list[str]
    if openings:
        chosen = [openings[(first + row) % len(openings)] for row in range(settings.batch)]
        seeds = [original for original, _ in chosen]
        fronts = [opening for _, opening in chosen]
        prompts = fronts
    else:
        sampled = _sampled_openings(model, settings, how)
        fronts = [text.text for text in sampled]
        begin = start_of(model.tokenizer)
        prompts = [begin + text.tokens for text in sampled]
    texts = generate(
        model, prompts, config=settings.decoder, discriminator=guide, target=name, **how
    )
    return [
        {
            "class": name,
            "text": f"{front}{text.text}".strip(),
            "opening": front,
            "seed_text": original,
            "method": method_of(settings.decoder),
            "p_guide": text.class_probabilities[name],
            "log_prob": text.log_prob,
            "tokens": len(text.tokens),
            "watermark": None if key is None else key.identity,
            "batch": number,
        }
        for text, front, original in zip(texts, fronts, seeds, strict=True)
    ]


def _sampled_openings(
    model: LoadedModel, settings: AugmentationSettings, how: dict[str, Any]
) -> list[Text]:
    rules = Rules(top_p=settings.top_p, min_tokens=settings.opening_tokens)
    config = SamplingConfig(new_tokens=settings.opening_tokens, rules=rules)
    return generate(model, [start_of(model.tokenizer)] * settings.batch, config=config, **how)
