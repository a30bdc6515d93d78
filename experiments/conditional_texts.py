"""Texts for sources: which rows are taken, how they are written by a decoder, how good they are."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rouge_score.rouge_scorer import RougeScorer

from coopgen_jax.data.labelled import half_of
from coopgen_jax.data.pairs import Pairs, read_pairs, tokenise_pairs
from coopgen_jax.decoding.decode import decode
from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.evaluation.metrics import corpus_bleu
from coopgen_jax.files import replacing
from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.language_model import Prompt
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.tokenizer import Tokenizer
from coopgen_jax.training.gcn.gcn_networks import HUMAN

Rows = tuple[tuple[str, str], ...]
_write = jax.jit(decode, static_argnames=("language_model", "discriminator", "config"))


@dataclass(frozen=True)
class Reading:
    """Which rows of train.jsonl and test.jsonl are taken.

    Attributes:
      folder: Of the two files.
      source: The column of sources.
      text: The column of texts.
      template: What a source is put into.
      source_width: Tokens of a source, at most.
      text_width: Tokens of a text, its end included, at most; rows with a longer text are left out.
      cut_sources: Whether longer sources are cut; otherwise their rows are left out.
      training: Rows for maximum likelihood, at most; from half A of the sources, as are the
        guide's.
      guide: Rows for its guide, one of every source, as in all that follow.
      judges: Rows for the judges, from half B.
      fresh: Rows for cooperative training, from other sources of half B.
      validation: Rows that are held out.
      test: Rows that are written for.
    """

    folder: Path
    source: str
    text: str
    template: str
    source_width: int
    text_width: int
    cut_sources: bool
    training: int
    guide: int
    judges: int
    fresh: int
    validation: int
    test: int


@dataclass(frozen=True)
class Data:
    """Rows by what they are for.

    Attributes:
      training: For maximum likelihood.
      guide: For its guide.
      judges: For the judges.
      fresh: For cooperative training.
      validation: Held out.
      test: Written for.
      references: All texts of every test source, uncut.
    """

    training: Pairs
    guide: Pairs
    judges: Pairs
    fresh: Pairs
    validation: Pairs
    test: Pairs
    references: tuple[tuple[str, ...], ...]


def read_data(how: Reading, tokenizer: Tokenizer) -> Data:
    """Reads both files, and prints what was left out."""
    read = {name: _read(how, name, tokenizer) for name in ("train", "test")}
    halves = {
        part: tuple(row for row in read["train"][1] if half_of(row[0]) == part) for part in "AB"
    }
    other = _one_each(halves["B"])
    # Apart, for sources that stand side by side are of one article.
    aside = min(how.validation, len(other) // 8)
    judges, validation = other[: len(other) - aside][: how.judges], other[len(other) - aside :]
    seen = {source for source, _ in read["train"][0]}
    test = evenly(_one_each(row for row in read["test"][1] if row[0] not in seen), how.test)
    references: dict[str, list[str]] = {}
    for source, text in read["test"][0]:
        references.setdefault(source, []).append(text)
    parts = {
        "training": evenly(halves["A"], how.training),
        "guide": evenly(_one_each(halves["A"]), how.guide),
        "judges": judges,
        "fresh": evenly(other[len(judges) : len(other) - aside], how.fresh),
        "validation": validation,
        "test": test,
    }
    print("rows taken: " + ", ".join(f"{len(rows)} for {name}" for name, rows in parts.items()))
    for name, rows in parts.items():
        if not rows:
            raise SystemExit(
                f"no row is left for {name}: give wider sources or texts, or more rows"
            )
    pairs = {
        name: tokenise_pairs(
            tokenizer, rows, source_width=how.source_width, text_width=how.text_width,
            template=how.template,
        )
        for name, rows in parts.items()
    }  # fmt: skip
    return Data(**pairs, references=tuple(tuple(references[source]) for source, _ in test))


def _read(how: Reading, name: str, tokenizer: Tokenizer) -> tuple[Rows, Rows]:
    """Returns all rows of a file and those that fit."""
    rows, broken = read_pairs(how.folder / f"{name}.jsonl", source=how.source, text=how.text)
    filled = tokenizer.encode_batch([how.template.replace("{}", source) for source, _ in rows])
    texts = tokenizer.encode_batch_behind([text.strip() for _, text in rows])
    room = how.source_width - len(tokenizer.begin_tokens)
    long = [len(ids) > room for ids in filled]
    fits = [len(ids) < how.text_width for ids in texts]
    kept = tuple(
        row for row, cut, fit in zip(rows, long, fits, strict=True)
        if fit and (how.cut_sources or not cut)
    )  # fmt: skip
    cut = "are cut" if how.cut_sources else "are left out"
    print(
        f"{name}.jsonl: {len(rows)} rows ({len(broken)} broken); {sum(long)} sources above "
        f"{how.source_width} tokens {cut}, {len(rows) - sum(fits)} texts above {how.text_width} "
        f"are left out; {len(kept)} rows are left",
        flush=True,
    )
    return rows, kept


def _one_each(rows: Any) -> Rows:
    """Returns the first row of every source."""
    found: dict[str, str] = {}
    for source, text in rows:
        found.setdefault(source, text)
    return tuple(found.items())


def evenly(rows: Rows, most: int) -> Rows:
    """Returns rows taken evenly, at most so many."""
    count = min(most, len(rows))
    return tuple(rows[number * len(rows) // count] for number in range(count))


def chosen(pairs: Pairs, numbers: Sequence[int]) -> Pairs:
    """Returns some of the pairs."""
    return replace(
        pairs,
        sources=tuple(pairs.sources[n] for n in numbers),
        texts=tuple(pairs.texts[n] for n in numbers),
        written=tuple(pairs.written[n] for n in numbers),
    )


def write_texts(
    path: Path,
    model: LoadedModel,
    config: DecoderSettings,
    sources: Pairs,
    *,
    guide: LoadedDiscriminator | None,
    rows: int,
    seed: int,
) -> Pairs:
    """Returns a decoder's texts for sources, written once and kept in a file.

    Args:
      path: of the file.
      model: the generator.
      config: the decoder's settings.
      sources: the sources; their texts are not read.
      guide: the discriminator, for a decoder that is guided.
      rows: sources written for at once.
      seed: of the noise.
    """
    guide = guide if config.guided else None
    settings = [type(config).__name__, asdict(config), model.sha256, seed, sources.sources]
    if guide is not None:
        parts = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(guide.params["head"])]
        settings.append(hashlib.sha256(b"".join(parts)).hexdigest())
    asked = json.loads(json.dumps(settings))
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if kept.get("asked") != asked:
        kept = {"asked": asked} | _written(model, config, sources, guide, rows, seed)
        with replacing(path) as (unfinished,):
            unfinished.write_text(json.dumps(kept, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{path.stem}: {len(sources)} texts in {kept['seconds']:.0f} s", flush=True)
    return replace(
        sources, texts=tuple(tuple(ids) for ids in kept["ids"]), written=tuple(kept["texts"])
    )


def _written(
    model: LoadedModel,
    config: DecoderSettings,
    sources: Pairs,
    guide: LoadedDiscriminator | None,
    rows: int,
    seed: int,
) -> dict[str, Any]:
    began, found = time.monotonic(), []
    given: dict[str, Any] = {}
    if guide is not None:
        given = {
            "discriminator": guide.discriminator,
            "discriminator_params": guide.params,
            "target": jnp.full(rows, HUMAN, jnp.int32),
        }
    for at in range(0, len(sources), rows):
        numbers = [min(at + n, len(sources) - 1) for n in range(rows)]
        prompt = sources.prompt(numbers)
        index: Any = np.asarray(numbers, np.int32)
        generation = _write(
            jax.random.key(seed), Prompt(prompt.tokens, prompt.mask, index),
            language_model=language_model(model.config), params=model.params, config=config,
            **given,
        )  # fmt: skip
        ids, length = np.asarray(generation.tokens[:, 0]), np.asarray(generation.length[:, 0])
        found += [ids[n, : length[n]].tolist() for n in range(min(rows, len(sources) - at))]
    texts = [text.strip() for text in model.tokenizer.decode_batch(found)]
    return {"ids": found, "texts": texts, "seconds": time.monotonic() - began}


def quality(texts: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Returns BLEU-4 of all texts, and the mean F of ROUGE-1 and ROUGE-L, the best reference's."""
    scorer = RougeScorer(["rouge1", "rougeL"], use_stemmer=False)
    scores = [
        scorer.score_multi(list(own), text) for text, own in zip(texts, references, strict=True)
    ]
    return {
        "bleu_4": corpus_bleu(texts, references),
        "rouge_1": float(np.mean([score["rouge1"].fmeasure for score in scores])),
        "rouge_l": float(np.mean([score["rougeL"].fmeasure for score in scores])),
        "words": float(np.mean([len(text.split()) for text in texts])),
    }
