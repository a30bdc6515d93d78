"""What marks do to texts' uses: passages, paraphrases, and answers to questions."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import coopgen_jax as cg
from coopgen_jax.evaluation.sentence_features import sentence_features
from coopgen_jax.models.pretrained.loaded_model import load_encoder, load_tokenizer
from experiments.watermark_texts import (
    Config,
    kept,
    key_of,
    named,
    perplexity,
    read_lines,
    unit,
    watermark_of,
    written,
)

PARAPHRASED = (("gumbel", 1.0), ("greenlist", 4.0))
# Scheme, strength and window of the answers; a greenlist's temperature is drawn at without a mark.
ANSWERED: tuple[tuple[str, float, int | None], ...] = (
    ("greenlist", 0.0, None), ("gumbel", 0.8, 0), ("gumbel", 0.8, 1), ("gumbel", 0.8, 4),
    ("greenlist", 2.0, 0), ("greenlist", 2.0, 4), ("greenlist", 4.0, 0), ("greenlist", 4.0, 4),
)  # fmt: skip
ANSWER_TOKENS = 16
# Every key marks the answers to a part of the questions, for one key may favour an answer.
ANSWER_KEYS = 4
SHOTS = 4
CAPITALS = """
    France Paris, Italy Rome, Germany Berlin, Spain Madrid, Japan Tokyo, China Beijing, Egypt Cairo,
    Russia Moscow, Greece Athens, Norway Oslo, Kenya Nairobi, Cuba Havana, Poland Warsaw,
    Sweden Stockholm, Iraq Baghdad, Peru Lima, Finland Helsinki, Denmark Copenhagen, Ireland Dublin,
    Belgium Brussels, Turkey Ankara, Iran Tehran, Syria Damascus, Lebanon Beirut, Thailand Bangkok,
    Vietnam Hanoi, Indonesia Jakarta, Philippines Manila, Cambodia Phnom Penh, Nepal Kathmandu,
    Afghanistan Kabul, Bangladesh Dhaka, Ethiopia Addis Ababa, Ghana Accra, Senegal Dakar,
    Nigeria Abuja, Algeria Algiers, Tunisia Tunis, Morocco Rabat, Libya Tripoli, Sudan Khartoum,
    Argentina Buenos Aires, Chile Santiago, Colombia Bogota, Venezuela Caracas, Ecuador Quito,
    Uruguay Montevideo, Jamaica Kingston, Canada Ottawa, Australia Canberra, Romania Bucharest,
    Bulgaria Sofia, Serbia Belgrade, Croatia Zagreb, Ukraine Kyiv, Latvia Riga, Estonia Tallinn
"""
OPPOSITES = """
    big small, good bad, old new, young old, fast slow, light dark, rich poor, early late, near far,
    high low, long short, open closed, empty full, strong weak, happy sad, true false, wet dry,
    heavy light, hard soft, loud quiet, cheap expensive, first last, right wrong, black white,
    clean dirty, deep shallow, dead alive, easy difficult, inside outside, left right, love hate,
    north south, east west, summer winter, day night, war peace, buy sell, win lose, push pull,
    start finish
"""


def squad(config: Config) -> dict[str, Any]:
    """Returns perplexity and p-values of passages' continuations, with and without a mark."""
    if config.squad is None:
        raise ValueError("the stage squad needs --squad, a JSONL file of passages")
    passages = list(dict.fromkeys(line["context"] for line in read_lines(config.squad)))
    prompts, found = passages[: config.texts], {}
    for scheme, value in PARAPHRASED:
        for window in (None, 4):
            name = f"{scheme} {value} {'unmarked' if window is None else f'h {window}'}"
            texts = kept(
                config,
                named(config, f"texts/squad {name}", prompts),
                lambda cell=(scheme, value, window): written(config, prompts, *cell),
            )
            # Without a mark these are the p-values of a key that nothing was marked with.
            key = key_of(watermark_of(scheme, value, 4), config.seed)
            found[name] = {"perplexity": perplexity(texts), "log10_p": log10_p(texts, key)}
    return found


def log10_p(texts: list[dict[str, Any]], key: cg.WatermarkKey) -> list[float]:
    """Returns the p-values of texts."""
    tokenizer, _ = load_tokenizer()
    return [
        test.log10_p
        for test in cg.detect([text["text"] for text in texts], key=key, tokenizer=tokenizer)
    ]


def paraphrase(config: Config) -> dict[str, Any]:
    """Returns the p-values of marked texts behind a paraphrase by the language model itself.

    The paraphrase is drawn without a mark; `similarity` is its own with the text that it is of.
    """
    prompts = [page["prompt"][:300] for page in read_lines(config.web)[: config.texts]]
    tokenizer, _ = load_tokenizer()
    encoder, found = load_encoder(), {}
    for scheme, value in PARAPHRASED:
        for window in config.windows:
            name = f"{scheme} {value} h {window}"
            size = f"{config.texts} of {config.new_tokens} {config.dtype}"
            texts = kept(
                config,
                f"texts/{size} {name}",
                lambda cell=(scheme, value, window): written(config, prompts, *cell),
            )
            asked = [
                tokenizer.chat_ids(f"Say the same in other words.\n\n{text['text'].strip()}")
                for text in texts
            ]
            others = kept(
                config,
                named(config, f"texts/{name} paraphrased", asked),
                lambda asked=asked: written(config, asked, "greenlist", 0.0, None),
            )
            key = key_of(watermark_of(scheme, value, window), config.seed)
            one, other = (
                unit(sentence_features(encoder, [text["text"] for text in kind]))
                for kind in (texts, others)
            )
            found[name] = {
                "before": log10_p(texts, key),
                "behind": log10_p(others, key),
                "similarity": float((one * other).sum(axis=1).mean()),
            }
    return found


def tasks(config: Config) -> dict[str, Any]:
    """Returns which questions are answered rightly, with a mark and without one.

    The answers stand in whole sentences, so that their words lie behind a window of 4.
    """
    asked = {"facts": facts()}
    for what, kind in (("sentiment", "Review"), ("topic", "News")):
        paths = getattr(config, what)
        if paths is not None:
            asked[what] = classified(paths, kind, what, config.questions)
    found: dict[str, Any] = {}
    for task, (prompts, right) in asked.items():
        for scheme, value, window in ANSWERED:
            name = "unmarked" if window is None else f"{scheme} {value} h {window}"
            texts = kept(
                config,
                named(config, f"answers/{task} {name}", prompts),
                lambda cell=(scheme, value, window), prompts=prompts: answers(
                    config, prompts, *cell
                ),
            )
            found.setdefault(task, {})[name] = [
                is_right(text["text"]) for is_right, text in zip(right, texts, strict=True)
            ]
    return found


def answers(
    config: Config, prompts: list[str], scheme: str, strength: float, window: int | None
) -> list[dict[str, Any]]:
    """Returns answers in the order of their questions, marked by one of several keys."""
    found: dict[int, dict[str, Any]] = {}
    for seed in range(ANSWER_KEYS):
        own = list(range(len(prompts)))[seed::ANSWER_KEYS]
        part = replace(config, seed=config.seed + seed, batch_size=len(own))
        texts = written(
            part, [prompts[number] for number in own], scheme, strength, window,
            new_tokens=ANSWER_TOKENS,
        )  # fmt: skip
        found |= dict(zip(own, texts, strict=True))
    return [found[number] for number in sorted(found)]


Asked = tuple[list[str], list[Callable[[str], bool]]]


def facts() -> Asked:
    """Returns questions for capitals and opposites behind three answered ones, and their judges."""
    prompts, right = [], []
    for table, ask, tell, shots in (
        (CAPITALS, "What is the capital of {}?", "The capital of {} is",
         "Austria Vienna, Portugal Lisbon, Hungary Budapest"),
        (OPPOSITES, "What is the opposite of {}?", "The opposite of {} is",
         "hot cold, up down, wide narrow"),
    ):  # fmt: skip
        pairs = [entry.strip().split(maxsplit=1) for entry in table.split(",")]
        front = "".join(
            f"Question: {ask.format(one)}\nAnswer: {tell.format(one)} {other}.\n\n"
            for one, other in (entry.split() for entry in shots.split(","))
        )
        for one, other in pairs:
            prompts.append(f"{front}Question: {ask.format(one)}\nAnswer:")
            right.append(lambda text, word=other: word in first_line(text))
    # As many as the keys divide.
    count = len(prompts) // ANSWER_KEYS * ANSWER_KEYS
    return prompts[:count], right[:count]


def classified(paths: tuple[Path, Path], kind: str, what: str, count: int) -> Asked:
    """Returns questions for the classes of texts behind answered ones, and their judges."""
    shots, rows = (table(path) for path in paths)
    labels = list(dict.fromkeys(row["label"] for row in shots))
    short = [row for row in shots if len(row["text"]) < 160]
    chosen = [
        [row for row in short if row["label"] == label][number]
        for number in range(SHOTS // 2)
        for label in labels
    ]
    told = "Answer: The {} of this {} is {}."
    front = "".join(
        f"{kind}: {row['text']}\n{told.format(what, kind.lower(), row['label'])}\n\n"
        for row in chosen
    )
    order = np.random.default_rng(0).permutation(len(rows))[:count].tolist()
    prompts = [f"{front}{kind}: {rows[number]['text']}\nAnswer:" for number in order]

    def says(text: str, label: str) -> bool:
        line = first_line(text)
        there = {one: line.find(one) for one in labels if one in line}
        return bool(there) and min(there, key=there.__getitem__) == label

    return prompts, [lambda text, row=rows[number]: says(text, row["label"]) for number in order]


def table(path: Path) -> list[dict[str, str]]:
    """Returns the rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def first_line(text: str) -> str:
    """Returns the first line of an answer that has anything on it."""
    return text.strip().partition("\n")[0]
