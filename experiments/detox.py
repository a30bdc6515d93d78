"""Detoxification by a classifier of one's own, measured under another one.

    python -m experiments.detox --prompts toxicity.jsonl --out experiments/results

Prompts are objects with a "text" and its "toxicity", or null (RealToxicityPrompts; Gehman et al.,
Findings of EMNLP 2020, arXiv 2009.11462). The guide, words and pairs of words, learns from half A
of them; the judge, pieces of words, from half B, of which the toxic ones are continued.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

import coopgen_jax as cg
from coopgen_jax.data.labelled import half_of
from coopgen_jax.evaluation.metrics import bootstrap_interval, perplexity

CLASSES = ("civil", "toxic")


@dataclass(frozen=True)
class Config:
    """What to continue, and where the figures go.

    Attributes:
      prompts: A JSONL file with "text" and "toxicity".
      out: Folder of the JSON file.
      limit: Toxic prompts that are continued, evenly spread.
      new_tokens: Tokens of every text.
      batch_size: Prompts worked on at once.
    """

    prompts: Path
    out: Path = Path("experiments/results")
    limit: int = 48
    new_tokens: int = 20
    batch_size: int = 48


def classifier(rows: list[dict[str, Any]], **features: Any) -> Pipeline:
    """Returns a classifier of texts, toxic where their toxicity is above one half."""
    texts, toxic = [row["text"] for row in rows], [row["toxicity"] > 0.5 for row in rows]
    model = LogisticRegression(C=10, max_iter=1000, class_weight="balanced")
    return make_pipeline(TfidfVectorizer(sublinear_tf=True, **features), model).fit(texts, toxic)


def main(config: Config) -> None:
    """Writes with and without the guide and prints what the judge says."""
    lines = config.prompts.read_text(encoding="utf-8").splitlines()
    # Some texts have not been rated.
    rows = [row for row in map(json.loads, lines) if row["toxicity"] is not None]
    learn, held = ([row for row in rows if half_of(row["text"]) == part] for part in "AB")
    guide_model = classifier(learn, ngram_range=(1, 2))
    judge = classifier(held, analyzer="char_wb", ngram_range=(2, 5))
    toxic = [row["text"] for row in held if row["toxicity"] > 0.5]
    count = min(config.limit, len(toxic))
    prompts = [toxic[number * len(toxic) // count] for number in range(count)]
    model = cg.load_language_model()
    guide = cg.host_function(guide_model.predict_proba, classes=CLASSES, tokenizer=model.tokenizer)
    search = cg.PRESETS["default"].with_settings(
        new_tokens=config.new_tokens, simulations=32, wave=8
    )
    methods: dict[str, Any] = {
        "nucleus 0.9": cg.SamplingConfig(new_tokens=config.new_tokens, rules=cg.Rules(top_p=0.9)),
        "greedy": cg.SamplingConfig(new_tokens=config.new_tokens, rules=cg.Rules(temperature=0.0)),
        "FUDGE": cg.FudgeConfig(new_tokens=config.new_tokens),
        "MCTS, 32 simulations": search,
    }
    found = []
    for name, settings in methods.items():
        start = time.perf_counter()
        texts = cg.generate(
            model, prompts, config=settings, discriminator=guide, target="civil",
            batch_size=config.batch_size,
        )  # fmt: skip
        seconds = time.perf_counter() - start
        said = judge.predict_proba([text.text for text in texts])[:, 1]
        row = {
            "method": name,
            "texts": len(texts),
            "toxic": float((said > 0.5).mean()),
            "p_toxic": float(said.mean()),
            "interval": list(bootstrap_interval(said)),
            "guide_p_toxic": float(guide_model.predict_proba([t.text for t in texts])[:, 1].mean()),
            "perplexity": perplexity([t.log_prob for t in texts], [len(t.tokens) for t in texts]),
            "seconds_per_text": seconds / len(texts),
        }
        found.append(row)
        low, high = row["interval"]
        print(
            f"{name:22} p(toxic) {row['p_toxic']:.3f} [{low:.3f}, {high:.3f}], judged toxic "
            f"{row['toxic']:.2f}, perplexity {row['perplexity']:.1f}",
            flush=True,
        )
    hits = judge.predict([row["text"] for row in learn]) == [r["toxicity"] > 0.5 for r in learn]
    print(
        f"the judge is right about {np.mean(hits):.3f} of the {len(learn)} texts of the other half"
    )
    config.out.mkdir(parents=True, exist_ok=True)
    report = {"judge_accuracy": float(np.mean(hits)), "methods": found}
    text = json.dumps(report, indent=2) + "\n"
    (config.out / "detox.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Config))
