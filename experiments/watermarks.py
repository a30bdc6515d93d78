"""Watermarks: how often tests are wrong, how strong marks are, what they survive and cost.

    python -m experiments.watermarks --web WEB.jsonl --guided GUIDED.jsonl --work FOLDER

The web file has lines with "prompt" and "continuation", the guided one lines with "text". Texts and
rates are kept in the work folder, and an interrupted run continues. Smaller
`--texts`, `--keys` and `--new-tokens` make a run shorter.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

import coopgen_jax as cg
from coopgen_jax.evaluation.sentence_features import sentence_features
from coopgen_jax.models.pretrained.loaded_model import load_encoder, load_tokenizer
from coopgen_jax.watermark.evaluation import attacked
from experiments.watermark_figures import report
from experiments.watermark_rates import RateSettings, false_positive_rates

# A greenlist's texts are drawn as in Three Bricks.
TEMPERATURE, TOP_P = 0.8, 0.95
ATTACKS = ("none", "substitution", "deletion", "in human text")
USERS = (10, 100, 1_000, 10_000)
VOCABULARY = 49_152


@dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
      web: JSONL file of web pages, with "prompt" and "continuation".
      guided: JSONL file of prompts for guided texts, with "text".
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
      batch_size: Prompts written at once.
      dtype: Of the language model, float32, bfloat16, or auto for the faster one here.
      share: Share of the tokens that an attack changes.
      seed: Seed of everything random.
    """

    web: Path
    guided: Path
    work: Path
    out: Path = Path("experiments/results")
    stages: tuple[str, ...] = ("rates", "strength", "users", "guided", "cost")
    windows: tuple[int, ...] = (0, 1, 4)
    temperatures: tuple[float, ...] = (0.8, 0.9, 1.0, 1.1)
    deltas: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0)
    texts: int = 96
    keys: int = 700
    new_tokens: int = 200
    guided_texts: int = 238
    guided_tokens: int = 40
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


def changed(
    ids: list[int], attack: str, config: Config, human: list[int], number: int
) -> list[int]:
    """Returns the tokens of a text after an attack, or in the middle of human text."""
    if attack == "in human text":
        half = len(ids)
        return [*human[:half], *ids, *human[half : 2 * half]]
    rng = np.random.default_rng((config.seed, number))
    return attacked(ids, attack, share=config.share, vocab_size=VOCABULARY, rng=rng)


def written(
    config: Config,
    prompts: list[str],
    scheme: str,
    strength: float,
    window: int | None,
    **more: Any,
) -> list[dict[str, Any]]:
    """Writes texts, marked unless the window is None."""
    model = cg.load_language_model(dtype=config.dtype)
    key = None if window is None else key_of(watermark_of(scheme, strength, window), config.seed)
    texts = cg.generate(
        model,
        prompts,
        config=settings_of(scheme, strength, config.new_tokens),
        watermark=key,
        seed=config.seed,
        batch_size=config.batch_size,
        **more,
    )
    return [{"text": text.text, "tokens": text.tokens, "log_prob": text.log_prob} for text in texts]


def strength(config: Config) -> dict[str, Any]:
    """Returns, for every scheme, window and strength, the p-values before and after attacks."""
    pages = read_lines(config.web)[: config.texts]
    model, encoder = cg.load_language_model(dtype=config.dtype), load_encoder()
    prompts = [page["prompt"][:300] for page in pages]
    human = [page["continuation"] for page in pages]
    # Text for the copies comes from other pages than the prompts'.
    others = read_lines(config.web)[-config.texts :]
    around = model.tokenizer.encode_batch_behind(
        [page["prompt"] + page["continuation"] for page in others]
    )
    wanted = _unit(sentence_features(encoder, human))
    found: dict[str, Any] = {}
    size = f"{config.texts} of {config.new_tokens} {config.dtype}"
    for scheme, strengths in (("gumbel", config.temperatures), ("greenlist", config.deltas)):
        for value in strengths:
            for window in (None, *config.windows):
                name = f"{scheme} {value} {'unmarked' if window is None else f'h {window}'}"
                if scheme == "greenlist" and window is None:
                    # A delta changes nothing in texts without a mark.
                    name = "greenlist unmarked"
                    if name in found:
                        continue
                texts = kept(
                    config,
                    f"texts/{size} {name}",
                    lambda cell=(scheme, value, window): written(config, prompts, *cell),
                )
                row: dict[str, Any] = {
                    "scheme": scheme,
                    "strength": value,
                    "window": window,
                    "perplexity": float(
                        np.exp(
                            -sum(t["log_prob"] for t in texts)
                            / sum(len(t["tokens"]) for t in texts)
                        )
                    ),
                    "similarity": float(
                        (_unit(sentence_features(encoder, [t["text"] for t in texts])) * wanted)
                        .sum(axis=1)
                        .mean()
                    ),
                }
                if window is not None:
                    key = key_of(watermark_of(scheme, value, window), config.seed)
                    for attack in ATTACKS:
                        ids = [
                            changed(own, attack, config, around[number], number)
                            for number, own in enumerate(
                                model.tokenizer.encode_batch_behind([t["text"] for t in texts])
                            )
                        ]
                        tests = cg.detect(ids, key=key, by_passage=attack == "in human text")
                        row[attack] = [
                            t.log10_p if t.log10_p_passage is None else t.log10_p_passage
                            for t in tests
                        ]
                found[name] = row
    return found


def _unit(features: np.ndarray) -> np.ndarray:
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def users(config: Config) -> dict[str, Any]:
    """Returns how often the right user among many is named, at two false-positive rates."""
    pages = read_lines(config.web)[: config.texts]
    prompts = [page["prompt"][:300] for page in pages]
    messages = np.random.default_rng(config.seed).integers(0, min(USERS), len(pages)).tolist()
    found = {}
    for scheme, value in (("gumbel", 1.0), ("greenlist", 3.0)):
        name = f"users {scheme} {value}"
        texts = kept(
            config,
            f"texts/{config.texts} of {config.new_tokens} {config.dtype} {name}",
            lambda cell=(scheme, value, 4): written(config, prompts, *cell, message=messages),
        )
        key = key_of(watermark_of(scheme, value, 4), config.seed)
        tokenizer, _ = load_tokenizer()
        for count in USERS:
            tests = cg.detect(
                [text["text"] for text in texts], key=key, tokenizer=tokenizer, messages=count
            )
            right = np.asarray([t.message == m for t, m in zip(tests, messages, strict=True)])
            log10_p = np.asarray([test.log10_p_message for test in tests])
            found[f"{scheme}, {count}"] = {
                f"{fpr:g}": float((right & (log10_p <= np.log10(fpr))).mean())
                for fpr in (1e-3, 1e-6)
            }
    return found


def guided(config: Config) -> dict[str, Any]:
    """Returns which guided texts are on target, and their p-values, with a mark and without one.

    The judge reads other tokens than the guide and was trained on other rows.
    """
    model = cg.load_language_model(dtype=config.dtype)
    guide = cg.load_discriminator("sentiment", language_model=model)
    judge = cg.load_discriminator("sentiment-minilm", language_model=model)
    prompts = [line["text"] for line in read_lines(config.guided)][: config.guided_texts // 2]
    targets = [target for target in ("positive", "negative") for _ in prompts]
    preset = replace(cg.PRESETS["values"], new_tokens=config.guided_tokens)
    found: dict[str, Any] = {}
    key = key_of(cg.Watermark("gumbel", window=4), config.seed)
    for name, mark in (("unmarked", None), ("gumbel", key)):

        def write(mark: cg.WatermarkKey | None = mark) -> list[dict[str, Any]]:
            texts = cg.generate(
                model, prompts * 2, config=preset, discriminator=guide, target=targets,
                watermark=mark, seed=config.seed, batch_size=config.batch_size,
            )  # fmt: skip
            return [{"text": t.text, "tokens": t.tokens, "prompt": t.prompt} for t in texts]

        name_of_file = f"{len(targets)} of {config.guided_tokens} {config.dtype} guided {name}"
        texts = kept(config, f"texts/{name_of_file}", write)
        said = kept(
            config, f"judged/{name_of_file}", lambda texts=texts: judged(model, judge, texts)
        )
        on_target = [one == target for one, target in zip(said, targets, strict=True)]
        tests = cg.detect([t["text"] for t in texts], key=key, tokenizer=model.tokenizer)
        found[name] = {"on_target": on_target, "log10_p": [test.log10_p for test in tests]}
    return found


def judged(
    model: cg.LoadedModel, judge: cg.LoadedDiscriminator, texts: list[dict[str, Any]]
) -> list[str]:
    """Returns the class that a judge finds likeliest in every continuation."""
    config = cg.SamplingConfig(new_tokens=1, rules=cg.Rules(temperature=0.0))
    found = cg.generate(
        model, [text["text"] or "." for text in texts], config=config, discriminator=judge
    )
    return [
        max(text.class_probabilities, key=text.class_probabilities.__getitem__) for text in found
    ]


def cost(config: Config) -> dict[str, Any]:
    """Returns the seconds of a token of a batch, marked and unmarked in turn."""
    model = cg.load_language_model(dtype=config.dtype)
    prompts = ["The weather was", "This film was", "My neighbour is", "In the end"] * 2
    kinds: dict[str, tuple[cg.WatermarkKey | None, int]] = {"unmarked": (None, 0)}
    for scheme in ("greenlist", "gumbel", "permute-flip"):
        kinds[scheme] = key_of(cg.Watermark(scheme), config.seed), 0
    kinds["unmarked, top 50"] = None, 50
    kinds["tournament, top 50"] = key_of(cg.Watermark("tournament"), config.seed), 50
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for repeat in range(6):
        for name, (key, top_k) in kinds.items():
            rules = cg.Rules(top_k=top_k, min_tokens=48)
            settings = cg.SamplingConfig(48, rules=rules)
            times: list[float] = []

            def heard(_: Any, times: list[float] = times) -> None:
                times.append(time.perf_counter())

            more = {"watermark": key, "seed": repeat, "listener": heard}
            cg.generate(model, prompts, config=settings, **more)
            seconds[name].append(float(np.median(np.diff(times))))
    return {name: sorted(values[1:]) for name, values in seconds.items()}


def rates(config: Config) -> dict[str, Any]:
    """Returns how often human text is called marked."""
    tokenizer, _ = load_tokenizer()
    pages = [page["prompt"] + page["continuation"] for page in read_lines(config.web)]
    texts = [ids[:256] for ids in tokenizer.encode_batch_behind(pages)]
    how = RateSettings(config.keys, config.windows, config.seed)
    name = f"rates of {len(texts)} texts by {how.keys} keys"
    found: dict[str, Any] = kept(config, name, lambda: false_positive_rates(texts, how))
    return found


STAGES = {
    "rates": rates, "strength": strength, "users": users, "guided": guided, "cost": cost,
}  # fmt: skip


def main(config: Config) -> None:
    """Runs the stages that are not kept yet, and writes what all of them found."""
    found = {stage: STAGES[stage](config) for stage in config.stages}
    report(config.out, found)


if __name__ == "__main__":
    main(tyro.cli(Config))
