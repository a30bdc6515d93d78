"""How well a key's mark is found in what a model writes, and what it costs the texts."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from coopgen_jax.bulk.growing_file import append, resume
from coopgen_jax.comparison.header import about_model, settings_of
from coopgen_jax.data.sources import split_lines
from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.rules.watermark_key import WatermarkKey
from coopgen_jax.evaluation.metrics import wilson_interval
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.text_generation import generate
from coopgen_jax.watermark.detection import detect

Attack = Literal["none", "substitution", "deletion"]
ATTACKS: tuple[Attack, ...] = ("none", "substitution", "deletion")
# False-positive rates at which texts are called marked.
LEVELS = (1e-3, 1e-5, 1e-6)


def attacked(
    ids: Sequence[int], attack: Attack, *, share: float, vocab_size: int, rng: np.random.Generator
) -> list[int]:
    """Returns a text's tokens after an attack on a `share` of them, chosen independently.

    Substitution puts a token in their place that is uniform over the vocabulary; deletion leaves
    them out.
    """
    chosen = rng.random(len(ids)) < share
    if attack == "deletion":
        return [old for old, hit in zip(ids, chosen, strict=True) if not hit]
    if attack == "substitution":
        other = rng.integers(0, vocab_size, len(ids)).tolist()
        return [new if hit else old for old, new, hit in zip(ids, other, chosen, strict=True)]
    return list(ids)


def write_texts(
    model: LoadedModel,
    prompts: Sequence[str | None],
    path: Path,
    *,
    config: DecoderSettings,
    key: WatermarkKey | None,
    seed: int = 0,
    batch_size: int = 8,
    on_batch: Callable[[int, int], None] = lambda batch, batches: None,
) -> list[dict[str, Any]]:
    """Writes texts to a file that grows by batches, and returns its lines.

    What an interrupted run has written is kept. A prompt of None is left out.

    Args:
      model: what writes.
      prompts: what is continued.
      path: the file, in a folder that is there.
      config: how; the key's mark is added.
      key: what the texts are marked with, None for no mark.
      seed: of everything random.
      batch_size: prompts written at once.
      on_batch: hears how many batches there are, and of how many.

    Raises:
      UserError: a prompt is not as it should be, the mark does not go with the settings, or the
        file holds texts of other settings or cannot be written.
    """
    numbers = [number for number, prompt in enumerate(prompts) if prompt is not None]
    batches = [numbers[at : at + batch_size] for at in range(0, len(numbers), batch_size)]
    settings = settings_of(
        config, target=None, seed=seed, batch_size=batch_size, dtype=model.config.dtype, chat=False
    )
    header = {
        "settings": settings | {"watermark": key.watermark.on_disc() if key else None},
        "model": about_model(model),
        "key": key.identity if key else None,
        "prompts": {"sha256": hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest()},
    }
    sizes = [len(batch) * config.samples for batch in batches]
    for batch in range(resume(path, header, sizes), len(batches)):
        started = time.perf_counter()
        texts = generate(
            model, prompts, config=config, watermark=key, seed=seed, batch_size=batch_size,
            numbers=batches[batch],
        )  # fmt: skip
        seconds = (time.perf_counter() - started) / len(texts)
        append(path, [asdict(text) | {"seconds": seconds} for text in texts])
        on_batch(batch + 1, len(batches))
    _, *lines = split_lines(path.read_text(encoding="utf-8"))
    return [json.loads(line) for line in lines if line]


def figures(
    marked: Sequence[dict[str, Any]],
    unmarked: Sequence[dict[str, Any]],
    *,
    key: WatermarkKey,
    model: LoadedModel,
    share: float = 0.3,
    seed: int = 0,
) -> dict[str, Any]:
    """Returns how often a mark is found, as written and after attacks, and what it costs.

    Args:
      marked: lines of texts with the key's mark; see `write_texts`.
      unmarked: lines of texts without it.
      key: the key.
      model: what wrote them.
      share: of the tokens that an attack changes.
      seed: of the attacks.
    """
    tokenizer, rng = model.tokenizer, np.random.default_rng(seed)

    def found(lines: Sequence[dict[str, Any]], attack: Attack) -> dict[str, Any]:
        coded = tokenizer.encode_batch_behind([line["text"] for line in lines])
        change = partial(attacked, share=share, vocab_size=tokenizer.vocab_size, rng=rng)
        tests = detect([change(ids, attack) for ids in coded], key=key)
        log10_p = np.asarray([test.log10_p for test in tests])
        at = {}
        for level in LEVELS:
            hits = int((log10_p <= np.log10(level)).sum())
            at[f"{level:g}"] = {
                "share": hits / len(tests), "interval": list(wilson_interval(hits, len(tests))),
            }  # fmt: skip
        return {"median_log10_p": float(np.median(log10_p)), "found": at}

    def texts(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
        tokens = sum(len(line["tokens"]) for line in lines)
        return {
            "texts": len(lines),
            "perplexity": float(np.exp(-sum(line["log_prob"] for line in lines) / max(tokens, 1))),
            "seconds_per_token": sum(line["seconds"] for line in lines) / max(tokens, 1),
        }

    return {
        "marked": texts(marked) | {attack: found(marked, attack) for attack in ATTACKS},
        "unmarked": texts(unmarked) | {"none": found(unmarked, "none")},
    }
