"""The command `coopgen augment`."""

import hashlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from coopgen_jax.augmentation.augmentation_settings import (
    AugmentationSettings,
    Filter,
    check_classes,
)
from coopgen_jax.augmentation.filters import FilterSettings
from coopgen_jax.augmentation.named_entities import load_namer
from coopgen_jax.augmentation.substitution import Private, private_content
from coopgen_jax.augmentation.synthetic_set import (
    in_csv,
    in_json_lines,
    set_report,
    training_rows,
)
from coopgen_jax.augmentation.synthetic_texts import WrittenSoFar, write_synthetic
from coopgen_jax.cli.ask import spelt
from coopgen_jax.cli.augment_options import AugmentOptions
from coopgen_jax.cli.compare_methods import method_config
from coopgen_jax.cli.machines import keep_compilations
from coopgen_jax.cli.train_data import pair
from coopgen_jax.cli.train_progress import tell, tell_broken
from coopgen_jax.data.labelled import Labelled, read_labelled
from coopgen_jax.decoding.rules.watermark import Watermark
from coopgen_jax.decoding.rules.watermark_key import WatermarkKey, load_key, new_key, save_key
from coopgen_jax.discriminators.loading import load_discriminator
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.independence import trained_on
from coopgen_jax.evaluation.text_judges import load_text_judge
from coopgen_jax.evaluation.tfidf_judge import fit_judge
from coopgen_jax.files import check_apart, check_writable, to_json, write_whole
from coopgen_jax.models.pretrained.combined_model import network_of
from coopgen_jax.models.pretrained.loaded_model import LoadedModel, load
from coopgen_jax.models.pretrained.packaged import cache_folder
from coopgen_jax.text_generation import with_watermark

# Fewer originals of a class than these say too little of it.
FEWEST = 4
ORIGINALS, NONE = "originals", "none"


def run_augment(what: AugmentOptions) -> None:
    """Writes a training set; raises UserError where something is of no use."""
    try:
        _augment(what)
    except UserError as error:
        names = vars(what).keys()
        raise UserError(spelt(str(error), names)) from error


def _augment(what: AugmentOptions) -> None:
    what = replace(what, classes=tuple(dict.fromkeys(what.classes)))
    settings = _settings(what)
    if what.out.suffix not in (".csv", ".jsonl"):
        raise UserError(f"--out {what.out} must end in .csv or .jsonl")
    if what.watermark and what.no_watermark:
        raise UserError(
            "--watermark marks texts and --no-watermark does not: leave out one of them"
        )
    _check_out(what)
    data = read_originals(what)
    judged_by = _filter(what, data)
    private: Private | None = None
    if what.substitute:
        private = private_content(data.texts, load_namer(what.language))
        tell(what, f"{len(private.names)} names and {len(private.numbers)} numbers stay private")
    keep_compilations(cache_folder() / "compilation")
    model = load(what.model, dtype=what.dtype)
    guide = load_discriminator(what.discriminator, language_model=model)
    check_classes(what.classes or data.classes, data, guide, judged_by)
    key = None if what.no_watermark else _key(what, model)
    with_watermark(settings.decoder, key, model)
    if not settings.decoder.draws:
        tell(
            what,
            "this method takes its best token, so that an opening gives one text: fudge and "
            "mcts:preset=values draw",
        )
    rows = write_synthetic(
        model, guide, data, _tries(what.out), settings,
        classes=what.classes or None, judged_by=judged_by, private=private, key=key,
        begin=lambda: _keep_key(what, key), guide_name=what.discriminator,
        guide_weights=trained_on(what.discriminator).weights,
        budget_seconds=None if what.budget_minutes is None else 60 * what.budget_minutes,
        listener=lambda progress: tell(what, _progress(progress, what.per_class)),
    )  # fmt: skip
    report = _asked(what) | set_report(
        rows, data, near=what.near, key=key, tokenizer=model.tokenizer
    )
    report["key_file"] = None if key is None else str(what.watermark or _beside(what.out))
    kept = training_rows(rows)
    write_whole(what.out, in_csv(kept) if what.out.suffix == ".csv" else in_json_lines(kept))
    write_whole(what.out.with_suffix(".report.json"), to_json(report, indent=1) + "\n")
    if what.json:
        print(to_json(report, indent=1))
    else:
        _print(what, report, what.classes or data.classes)


def _settings(what: AugmentOptions) -> AugmentationSettings:
    budget = what.budget_minutes
    if budget is not None and not budget >= 0:
        raise UserError(f"--budget-minutes is {budget}: give 0 or more")
    names = ("threshold", "least_words", "most_words", "repetition", "near")
    filters = FilterSettings(**{name: getattr(what, name) for name in names})
    if what.filter == NONE and what.threshold:
        raise UserError(
            "--threshold is for a filter, and --filter none leaves it out: leave out one of them"
        )
    decoder = method_config(what.method, new_tokens=what.new_tokens, samples=1, source="--method")
    return AugmentationSettings(
        per_class=what.per_class,
        tries=what.tries,
        opening_words=what.opening_words,
        decoder=decoder,
        filters=filters,
        batch=what.batch_size,
        seed=what.seed,
    )


def _check_out(what: AugmentOptions) -> None:
    """Raises UserError where --out, or what stands beside it, cannot be written or is of others."""
    check_writable(what.out, "--out")
    inputs = {"--data": what.data, "--watermark": what.watermark}
    tries = _tries(what.out)
    for written in (what.out, tries, what.out.with_suffix(".report.json")):
        check_apart(written, inputs)
    if what.out.exists() and not tries.exists():
        raise UserError(
            f"--out {what.out} is there, and {tries.name} is not beside it, so that this command "
            "did not write it: name another file"
        )


def read_originals(what: AugmentOptions) -> Labelled:
    """Returns the originals.

    Raises:
      UserError: they cannot be read, have one class, or too few texts of one.
    """
    rename = dict(map(pair, what.rename))
    data = read_labelled(what.data, text=what.text, label=what.label, rename=rename)
    tell_broken(what, what.data, data.broken)
    if len(data.classes) < 2:
        raise UserError(
            f"{what.data} has one class, {data.classes[0]}: texts are written towards one class "
            "and away from another, give two or more"
        )
    for name in what.classes:
        if name not in data.classes:
            known = ", ".join(data.classes)
            raise UserError(f"--classes names {name}, which no text of {what.data} has: {known}")
    counts = np.bincount(data.labels, minlength=len(data.classes))
    for name, count in zip(data.classes, counts.tolist(), strict=True):
        if count < FEWEST:
            raise UserError(
                f"the class {name} has too few texts in {what.data} ({count}): give {FEWEST} or "
                "more of each class"
            )
    return data


def _filter(what: AugmentOptions, data: Labelled) -> Filter | None:
    """Returns the classifier that filters, trained on the originals where that is asked for."""
    if what.filter == NONE:
        return None
    if what.filter != ORIGINALS:
        judge = load_text_judge(what.filter, model=what.model)
        return Filter(judge, what.filter, trained_on(what.filter).weights)
    try:
        trained = fit_judge(data, None)
    except ValueError as error:
        raise UserError(
            f"the texts of {what.data} have too few words in common to train a filter on: name one "
            "with --filter, or give --filter none"
        ) from error
    weights = hashlib.sha256(np.ascontiguousarray(trained.weights).tobytes()).hexdigest()
    return Filter(trained, ORIGINALS, weights)


def _key(what: AugmentOptions, model: LoadedModel) -> WatermarkKey:
    """Returns the key that is named, or the one beside --out, or a new one; see `_keep_key`."""
    path = what.watermark or _beside(what.out)
    if what.watermark is None and not path.exists():
        return new_key(
            Watermark("greenlist"),
            tokenizer=model.tokenizer,
            vocab_size=network_of(model).vocab_size,
            model=what.model,
        )
    return load_key(path)


def _keep_key(what: AugmentOptions, key: WatermarkKey | None) -> None:
    """Writes a new key beside --out, behind all checks, so that a mistake leaves none behind."""
    path = _beside(what.out)
    if key is not None and what.watermark is None and not path.exists():
        save_key(key, path)
        tell(what, f"{path}: a new watermark key, {key.identity}; keep it, for without it nobody "
                   "can recognise the texts")  # fmt: skip


def _tries(out: Path) -> Path:
    return out.with_suffix(".tries.jsonl")


def _beside(out: Path) -> Path:
    return out.with_suffix(".key")


def _asked(what: AugmentOptions) -> dict[str, Any]:
    """Returns what was asked for, as the report has it."""
    asked = {
        name: value
        for name, value in asdict(what).items()
        if name not in ("json", "quiet", "budget_minutes")
    }
    parsed = {name: str(value) if isinstance(value, Path) else value
              for name, value in asked.items()}  # fmt: skip
    return {"asked": parsed, "made_by": "a language model: this text is synthetic"}


def _progress(progress: WrittenSoFar, per_class: int) -> str:
    parts = [
        f"{progress.kept.get(name, 0)} of {per_class} {name} ({tried} tried)"
        for name, tried in progress.tried.items()
    ]
    return f"{', '.join(parts)}, {progress.seconds / 60:.1f} minutes"


def _print(what: AugmentOptions, report: dict[str, Any], classes: tuple[str, ...]) -> None:
    console = Console(highlight=False, soft_wrap=True, markup=False)
    table = Table(box=None, pad_edge=False)
    for column in ("class", "kept", "tried", "left out"):
        table.add_column(column, justify="right" if column in ("kept", "tried") else "left")
    found = report["classes"]
    for name in classes:
        row = found.get(name, {"kept": 0, "tried": 0, "left_out": {}})
        left = ", ".join(f"{count} {why}" for why, count in row["left_out"].items())
        table.add_row(name, str(row["kept"]), str(row["tried"]), left)
    console.print(table)
    copies = report["memorisation"]
    console.print(
        f"of {copies['texts']} kept texts {copies['with_run']} share {copies['run']} words in a "
        f"row with an original and {copies['near_copies']} are near-copies; the longest shared run "
        f"has {copies['longest']} words"
    )
    if (mark := report["watermark"]) is not None:
        console.print(
            f"the mark of key {mark['key']} has log10 p {mark['log10_p']:.1f} in all texts "
            f"together, and is found in {mark['recognised']} of {mark['texts']} alone, at a "
            f"false-positive rate of {mark['fpr']:g}"
        )
    lacking = [name for name in classes if found.get(name, {"kept": 0})["kept"] < what.per_class]
    most = -(-what.tries * what.per_class // what.batch_size) * what.batch_size
    spent = [name for name in lacking if found.get(name, {"tried": 0})["tried"] >= most]
    if spent:
        console.print(f"{', '.join(spent)}: every try was used (--tries {what.tries})")
    if len(spent) < len(lacking):
        console.print("the budget is spent: start the same command again to go on")
    console.print(f"{what.out}, {what.out.with_suffix('.report.json')}")
