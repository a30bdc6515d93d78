r"""Watermarks: how often tests are wrong, how strong marks are, what they survive and cost.

    python -m experiments.watermarks --web WEB.jsonl --guided GUIDED.jsonl --work FOLDER \
        --squad SQUAD.jsonl --sentiment SHOTS.csv REVIEWS.csv --topic SHOTS.csv NEWS.csv

The web file has lines with "prompt" and "continuation", the guided one lines with "text", the squad
file lines with "context", and the tables have "text" and "label". Texts and rates are kept in the
work folder, and an interrupted run continues. Smaller `--texts`, `--keys`, `--questions` and
`--new-tokens` make a run shorter.
"""

import time
from dataclasses import replace
from typing import Any

import numpy as np
import tyro

import coopgen_jax as cg
from coopgen_jax.evaluation.sentence_features import sentence_features
from coopgen_jax.models.pretrained.loaded_model import load_encoder, load_tokenizer
from coopgen_jax.watermark.evaluation import attacked
from experiments.watermark_figures import report
from experiments.watermark_rates import RateSettings, false_positive_rates
from experiments.watermark_tasks import paraphrase, squad, tasks
from experiments.watermark_texts import (
    VOCABULARY,
    Config,
    kept,
    key_of,
    perplexity,
    read_lines,
    unit,
    watermark_of,
    written,
)

ATTACKS = ("none", "substitution", "deletion", "in human text")
USERS = (10, 100, 1_000, 10_000)


def changed(
    ids: list[int], attack: str, config: Config, human: list[int], number: int
) -> list[int]:
    """Returns the tokens of a text after an attack, or in the middle of human text."""
    if attack == "in human text":
        half = len(ids)
        return [*human[:half], *ids, *human[half : 2 * half]]
    rng = np.random.default_rng((config.seed, number))
    return attacked(ids, attack, share=config.share, vocab_size=VOCABULARY, rng=rng)


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
    wanted = unit(sentence_features(encoder, human))
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
                    "perplexity": perplexity(texts),
                    "similarity": float(
                        (unit(sentence_features(encoder, [t["text"] for t in texts])) * wanted)
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
    for seed in range(config.seed, config.seed + config.guided_keys):
        key = key_of(cg.Watermark("gumbel", window=4), seed)
        for name, mark in (("unmarked", None), ("gumbel", key)):

            def write(
                mark: cg.WatermarkKey | None = mark, seed: int = seed
            ) -> list[dict[str, Any]]:
                texts = cg.generate(
                    model, prompts * 2, config=preset, discriminator=guide, target=targets,
                    watermark=mark, seed=seed, batch_size=config.batch_size,
                )  # fmt: skip
                return [{"text": t.text, "tokens": t.tokens, "prompt": t.prompt} for t in texts]

            size = f"{len(targets)} of {config.guided_tokens} {config.dtype}"
            file = f"{size} guided {name}" + (f" {seed}" if seed else "")
            texts = kept(config, f"texts/{file}", write)
            said = kept(config, f"judged/{file}", lambda texts=texts: judged(model, judge, texts))
            tests = cg.detect([t["text"] for t in texts], key=key, tokenizer=model.tokenizer)
            row = found.setdefault(name, {"on_target": [], "log10_p": []})
            row["on_target"] += [one == wish for one, wish in zip(said, targets, strict=True)]
            row["log10_p"] += [test.log10_p for test in tests]
    for row in found.values():
        row["keys"] = config.guided_keys
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
    "rates": rates, "strength": strength, "squad": squad, "paraphrase": paraphrase, "users": users,
    "tasks": tasks, "guided": guided, "cost": cost,
}  # fmt: skip


def main(config: Config) -> None:
    """Runs the stages that are not kept yet, and writes what all of them found."""
    found = {stage: STAGES[stage](config) for stage in config.stages}
    report(config.out, found)


if __name__ == "__main__":
    main(tyro.cli(Config))
