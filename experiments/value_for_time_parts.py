"""What judges that know a class "neither" say of methods' texts, beside what their guide says.

The stage `parts` of `experiments.value_for_time`. A judge misses some human texts too: the stage
has it judge validation texts, cut to as many tokens as the methods write, as a mark for theirs.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from coopgen_jax.bulk.growing_file import rows_in
from coopgen_jax.comparison.method_run import text_files
from coopgen_jax.comparison.tuning import Tuned
from coopgen_jax.data.labelled import Labelled, read_labelled
from coopgen_jax.evaluation.tables import render
from coopgen_jax.evaluation.text_judges import TextJudge
from coopgen_jax.evaluation.texts import judged_parts
from coopgen_jax.evaluation.written_texts import Written
from coopgen_jax.files import write_json
from coopgen_jax.models.pretrained.loaded_model import load, load_tokenizer
from coopgen_jax.tokenizer import Tokenizer
from experiments.sentiment_data import SETS
from experiments.train_heads import evenly
from experiments.value_for_time_figures import (
    cells_of,
    differences,
    figures,
    load_judges,
    mean_by_prompt,
    measured,
    shares,
)

if TYPE_CHECKING:
    from experiments.value_for_time import Config

DEFAULT = "mcts:preset=default:simulations=128:wave=16"
# Of a judge's share of human texts on their class, what texts on target are asked for.
ASKED = 0.95
# And the most that a guide may say of its texts beyond what a judge does.
GAP = 0.05


def write_parts(config: "Config", tuned: Sequence[Tuned]) -> None:
    """Judges the texts of methods and of people, and writes and prints the figures."""
    if config.human is None:
        raise SystemExit("the stage parts reads texts of people: give their folder with --human")
    judges = load_judges(config)
    tokenizer, _ = load_tokenizer(config.model)
    human: dict[str, dict[str, Any]] = {name: {} for name in judges}
    for data in SETS:
        rows = read_labelled(config.human / data / "validation.csv", classes=config.targets)
        texts = shortened(tokenizer, evenly(rows, config.human_rows), config.new_tokens)
        for name, judge in judges.items():
            human[name][data] = of_human(judge, texts)
    oracle = None if config.oracle is None else load(config.oracle)
    runs = [one.run for one in tuned]
    found = {}
    for one, path in zip(tuned, text_files(runs, config.work / "texts"), strict=True):
        lines = rows_in(path)
        found[one.asked] = measured(lines, judges, oracle) | {"guide": guide_of(lines)}
    rows = []
    for one in tuned:
        own = found[one.asked]
        row = {"method": one.asked, "chosen": one.run.name, "texts": len(own["guide"])}
        row |= {"guide": mean_by_prompt(own["asked"], own["guide"])} | figures(own)
        for name, (hits, neither) in own["parts"].items():
            judged = row["judges"][name]
            judged["gap"] = mean_by_prompt(own["asked"], own["guide"] - hits)
            judged["told"] = told_of(own["guide"], hits, neither)
        if DEFAULT in found and one.asked != DEFAULT:
            row["against"] = {DEFAULT: differences(own, found[DEFAULT])}
        rows.append(row)
    names = ("new_tokens", "batch_size", "limit", "tuning_rows", "seed", "oracle", "human_rows")
    about = {name: getattr(config, name) for name in names}
    asked = {name: ASKED * mean_share(sets) for name, sets in human.items()}
    result = {
        "settings": about | {"judges": list(judges)},
        "human": human,
        "asked": asked,
        "most_gap": GAP,
        "methods": rows,
    }
    write_json(config.out / "value_for_time_parts.json", result)
    print(table(rows, asked))


def guide_of(lines: Sequence[dict[str, Any]]) -> np.ndarray:
    """Returns what the guide says of the targets `[n]`, in the order of targets and prompts."""
    lines = sorted(lines, key=lambda line: (line["target"], line["number"]))
    return np.array([line["class_probabilities"][line["target"]] for line in lines])


def told_of(guide: np.ndarray, hits: np.ndarray, neither: np.ndarray) -> dict[str, Any]:
    """Returns what a judge's parts hide, of texts `[n]`.

    Returns:
      `on_target`, the share of the texts in which the judge finds a class that are on target, and
      `guide_of_neither`, the guide's mean probability of the target in the others; each None where
      there are none.
    """
    said = ~neither
    return {
        "on_target": shares(hits[said]) if said.any() else None,
        "guide_of_neither": float(guide[neither].mean()) if neither.any() else None,
    }


def shortened(tokenizer: Tokenizer, data: Labelled, most: int) -> list[Written]:
    """Returns texts cut to so many tokens of the model that writes, as written to their classes."""
    ids = tokenizer.encode_batch([f" {text.strip()}" for text in data.texts])
    texts = [tokenizer.decode(row[:most]) for row in ids]
    classes = [data.classes[label] for label in data.labels]
    return [Written("", text, name) for text, name in zip(texts, classes, strict=True)]


def of_human(judge: TextJudge, texts: Sequence[Written]) -> dict[str, Any]:
    """Returns a judge's shares of human texts in three parts, and how much of every class it finds.

    `recall` has for every class the share of its texts that are found to be of it.
    """
    hits, neither = judged_parts(judge, texts)
    own = np.array([text.target for text in texts])
    recall = {str(name): shares(hits[own == name]) for name in np.unique(own)}
    return {"texts": len(texts)} | cells_of(hits, neither) | {"recall": recall}


def mean_share(sets: dict[str, dict[str, Any]]) -> float:
    """Returns how much of a class a judge finds, the mean over classes and sets."""
    found = [cell["value"] for one in sets.values() for cell in one["recall"].values()]
    return float(np.mean(found))


def table(rows: Sequence[dict[str, Any]], asked: dict[str, float]) -> str:
    """Returns the methods as a table; `asked` is what each judge is to find on target."""
    head = ["method", "guide", "perplexity"]
    for name, share in asked.items():
        head += [f"{name}: on target ({share:.3f} asked)", "neither", "against", "gap"]
    lines = [head]
    for row in rows:
        cells = [row["chosen"], f"{row['guide']['value']:.3f}", f"{row['perplexity']['value']:.2f}"]
        for name in asked:
            judged = row["judges"][name]
            cells += [f"{judged[part]['value']:.3f}" for part in ("on_target", "neither")]
            cells += [f"{judged[part]['value']:.3f}" for part in ("against", "gap")]
        lines.append(cells)
    return render(lines, "text")
