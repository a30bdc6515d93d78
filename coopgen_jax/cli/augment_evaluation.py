"""The command `coopgen augment evaluate`."""

from typing import Any

from rich.console import Console
from rich.table import Table

from coopgen_jax.augmentation.leakage import check_enough, leakage
from coopgen_jax.augmentation.memorisation import memorisation
from coopgen_jax.augmentation.usefulness import FIGURES, check_sets, usefulness
from coopgen_jax.cli.augment_options import SyntheticOptions
from coopgen_jax.cli.train_data import pair
from coopgen_jax.cli.train_progress import check_numbers, tell, tell_broken
from coopgen_jax.data.labelled import Labelled, read_labelled
from coopgen_jax.errors import UserError
from coopgen_jax.files import check_apart, check_writable, to_json, write_whole

# A table that is not cut to a terminal's width.
WIDTH = 160
LABELS = {"micro_f1": "micro F1", "macro_f1": "macro F1", "mcc": "MCC"}


def run_augment_evaluation(what: SyntheticOptions) -> None:
    """Rates a synthetic training set; raises UserError where something is of no use."""
    check_numbers(what, "seeds")
    if what.seed < 0:
        raise UserError(f"--seed is {what.seed}: give 0 or more")
    for share in what.shares:
        if not 0 < share <= 1:
            raise UserError(f"--shares has {share}: give shares above 0, at most 1")
    if what.out:
        check_writable(what.out, "--out")
        inputs = {"--data": what.data, "--synthetic": what.synthetic, "--test": what.test}
        check_apart(what.out, inputs)
    originals = _read(what, what.data, None)
    if len(originals.classes) < 2:
        raise UserError(f"{what.data} has one class, {originals.classes[0]}: give two or more")
    synthetic, test = (
        _read(what, where, originals.classes) for where in (what.synthetic, what.test)
    )
    check_sets(originals, synthetic, test, what.shares, what.seeds)
    check_enough(test, synthetic)
    rows = usefulness(
        originals, synthetic, test, shares=what.shares, seeds=what.seeds, seed=what.seed,
        listener=lambda training: tell(what, f"trained on {training}"),
    )  # fmt: skip
    report = {
        "classifier": "bag of words",
        "seeds": what.seeds,
        "texts": {"data": len(originals.texts), "synthetic": len(synthetic.texts),
                  "test": len(test.texts)},
        "training": rows,
        "leakage": leakage(test, synthetic, seed=what.seed),
        "memorisation": memorisation(synthetic.texts, originals.texts),
        "test_memorisation": memorisation(synthetic.texts, test.texts),
    }  # fmt: skip
    if what.out:
        write_whole(what.out, to_json(report, indent=1) + "\n")
    if what.json:
        print(to_json(report, indent=1))
    else:
        _print(report)


def _read(what: SyntheticOptions, where: str, classes: tuple[str, ...] | None) -> Labelled:
    """Returns labelled texts; those of --synthetic have the columns that `augment` writes."""
    named = {"text": what.text, "label": what.label} if where != what.synthetic else {}
    rename = dict(map(pair, what.rename)) if where != what.synthetic else {}
    data = read_labelled(where, rename=rename, classes=classes, **named)
    tell_broken(what, where, data.broken)
    return data


def _print(report: dict[str, Any]) -> None:
    console = Console(width=WIDTH, highlight=False, soft_wrap=True, markup=False)
    table = Table(title="classifiers of words, by what they were trained on", box=None,
                  title_justify="left", pad_edge=False)  # fmt: skip
    for column in ("training", "originals", "texts", *LABELS.values(), "gain in macro F1"):
        table.add_column(column, justify="left" if column == "training" else "right")
    for row in report["training"]:
        share = "" if row["share"] is None else f"{row['share']:.0%}"
        gain = "" if row["gain"] is None else _cell(row["gain"]["macro_f1"], "+")
        figures = [_cell(row[name]) for name in FIGURES]
        table.add_row(row["training"], share, f"{row['texts']:.0f}", *figures, gain)
    console.print(table)
    found = report["leakage"]
    parts = [f"{name} {_cell(row)}" for name, row in found["classes"].items()]
    console.print(
        f"AUC of written texts against those of --test: {', '.join(parts)}, all "
        f"{_cell(found['all'])}; classes differ by {found['difference']:.2f}"
    )
    for name, where in (("memorisation", "--data"), ("test_memorisation", "--test")):
        copies = report[name]
        console.print(
            f"of {copies['texts']} written texts {copies['with_run']} share {copies['run']} words "
            f"in a row with one of {where} and {copies['near_copies']} are near-copies"
        )


def _cell(value: dict[str, Any], sign: str = "") -> str:
    low, high = value["interval"]
    centre = value.get("value", value.get("auc"))
    return f"{centre:{sign}.3f} [{low:.3f}, {high:.3f}]"
