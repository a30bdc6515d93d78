"""The settings of `experiments.watermarks`, its keys, and the texts that it keeps."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import coopgen_jax as cg
from coopgen_jax.models.pretrained.loaded_model import load_tokenizer

# A greenlist's texts are drawn as in Three Bricks.
TEMPERATURE, TOP_P = 0.8, 0.95
VOCABULARY = 49_152


@dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
      web: JSONL file of web pages, with "prompt" and "continuation".
      guided: JSONL file of prompts for guided texts, with "text".
      squad: JSONL file of passages, with "context".
      sentiment: CSV files of film reviews, for shots and for questions, with "text" and "label";
        None to leave them out.
      topic: The same of news.
      work: Folder for texts and figures; an interrupted run goes on with what it holds.
      out: Folder for the results.
      stages: Which parts to run.
      windows: Lengths of the window.
      temperatures: Strengths of the gumbel mark.
      deltas: Strengths of the greenlist.
      texts: Marked texts of each kind.
      keys: Keys of the false-positive rates.
      new_tokens: Tokens of each text.
      guided_texts: Guided texts, half of them for either class.
      guided_tokens: Tokens of each of those.
      guided_keys: Keys that they are written with, one after another.
      questions: Of every task.
      batch_size: Prompts written at once.
      dtype: Of the language model, float32, bfloat16, or auto for the faster one here.
      share: Share of the tokens that an attack changes.
      seed: Seed of everything random.
    """

    web: Path
    guided: Path
    work: Path
    squad: Path | None = None
    sentiment: tuple[Path, Path] | None = None
    topic: tuple[Path, Path] | None = None
    out: Path = Path("experiments/results")
    stages: tuple[str, ...] = (
        "rates", "strength", "squad", "paraphrase", "users", "tasks", "guided", "cost"
    )  # fmt: skip
    windows: tuple[int, ...] = (0, 1, 4)
    temperatures: tuple[float, ...] = (0.8, 0.9, 1.0, 1.1)
    deltas: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0)
    texts: int = 96
    keys: int = 700
    new_tokens: int = 200
    guided_texts: int = 238
    guided_tokens: int = 40
    guided_keys: int = 1
    questions: int = 192
    batch_size: int = 48
    dtype: str = "float32"
    share: float = 0.3
    seed: int = 0


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the objects of a JSONL file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.strip()]


def kept(config: Config, name: str, make: Callable[[], Any]) -> Any:
    """Returns a stage's figures from the work folder, made and kept where they are not there."""
    path = config.work / f"{name}.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    started = time.perf_counter()
    found = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(found, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)
    print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    return found


def named(config: Config, kind: str, prompts: Sequence[str | Sequence[int]]) -> str:
    """Returns the name of kept texts, which tells the prompts and the seed they are of."""
    told = json.dumps([list(prompts), config.seed, config.new_tokens])
    return f"{kind} {config.dtype} {hashlib.sha256(told.encode()).hexdigest()[:8]}"


def key_of(watermark: cg.Watermark, seed: int) -> cg.WatermarkKey:
    """Returns a key whose secret comes from a seed, so that a run can be repeated."""
    tokenizer, vocab_size = load_tokenizer()
    secret = np.random.default_rng(seed).integers(0, 2**32, 4, np.uint32).tolist()
    return cg.WatermarkKey(watermark, tuple(secret), vocab_size, tokenizer.identity, "smollm2-135m")


def settings_of(scheme: str, strength: float, new_tokens: int) -> cg.SamplingConfig:
    """Returns how texts of a strength are drawn."""
    if scheme == "gumbel":
        return cg.SamplingConfig(new_tokens, rules=cg.Rules(temperature=strength, top_p=TOP_P))
    return cg.SamplingConfig(new_tokens, rules=cg.Rules(temperature=TEMPERATURE, top_p=TOP_P))


def watermark_of(scheme: str, strength: float, window: int) -> cg.Watermark:
    """Returns the mark of a strength."""
    if scheme == "gumbel":
        return cg.Watermark("gumbel", window=window)
    return cg.Watermark("greenlist", window=window, delta=strength)


def written(
    config: Config,
    prompts: Sequence[str | Sequence[int]],
    scheme: str,
    strength: float,
    window: int | None,
    *,
    new_tokens: int | None = None,
    **more: Any,
) -> list[dict[str, Any]]:
    """Writes texts, marked unless the window is None."""
    model = cg.load_language_model(dtype=config.dtype)
    key = None if window is None else key_of(watermark_of(scheme, strength, window), config.seed)
    texts = cg.generate(
        model,
        prompts,
        config=settings_of(scheme, strength, new_tokens or config.new_tokens),
        watermark=key,
        seed=config.seed,
        batch_size=config.batch_size,
        **more,
    )
    return [{"text": text.text, "tokens": text.tokens, "log_prob": text.log_prob} for text in texts]


def perplexity(texts: list[dict[str, Any]]) -> float:
    """Returns the writing model's own perplexity of texts."""
    tokens = sum(len(text["tokens"]) for text in texts)
    return float(np.exp(-sum(text["log_prob"] for text in texts) / tokens))


def unit(features: np.ndarray) -> np.ndarray:
    """Returns rows of features at a length of 1."""
    return features / np.linalg.norm(features, axis=1, keepdims=True)
