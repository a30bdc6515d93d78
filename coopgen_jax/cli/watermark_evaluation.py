"""The command `coopgen watermark evaluate`."""

import io
import sys
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table

from coopgen_jax.cli.machines import keep_compilations
from coopgen_jax.cli.printing import note
from coopgen_jax.cli.prompts import read_prompts
from coopgen_jax.cli.watermark_options import MarkingOptions
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.decoding.rules.watermark_key import load_key
from coopgen_jax.errors import UserError
from coopgen_jax.files import check_writable, to_json, write_whole
from coopgen_jax.models.pretrained.loaded_model import load
from coopgen_jax.models.pretrained.packaged import cache_folder
from coopgen_jax.text_generation import with_watermark
from coopgen_jax.watermark.evaluation import ATTACKS, LEVELS, figures, write_texts


def run_evaluation(what: MarkingOptions) -> None:
    """Writes marked and unmarked texts, and tests them.

    Raises:
      UserError: an option, a prompt or a file is not as it should be.
    """
    key = load_key(what.key)
    try:
        rules = Rules(temperature=what.temperature, top_k=what.top_k, top_p=what.top_p)
        config = SamplingConfig(what.new_tokens, rules=rules)
    except ValueError as error:
        raise UserError(str(error)) from error
    # What can be refused is refused before anything is loaded.
    with_watermark(config, key)
    for name in ("batch_size", "limit"):
        value = getattr(what, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} is {value}: give 1 or more")
    if not 0 <= what.share <= 1:
        raise UserError(f"--share is {what.share}: give a share from 0 to 1")
    prompts = read_prompts((), what.prompts, partial(note, what.quiet))[: what.limit]
    try:
        what.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{what.out} cannot be made: {error.strerror or error}") from error
    report = what.out / "report.json"
    check_writable(report, "--out")
    keep_compilations(cache_folder() / "compilation")
    model = load(what.model, dtype=what.dtype)
    with_watermark(config, key, model)
    lines = {}
    for name, mark in (("marked", key), ("unmarked", None)):

        def show(batch: int, batches: int, name: str = name) -> None:
            if not what.quiet:
                print(f"coopgen: {name} texts: batch {batch} of {batches}", file=sys.stderr)

        lines[name] = write_texts(
            model,
            prompts,
            what.out / f"{name}.jsonl",
            config=config,
            key=mark,
            seed=what.seed,
            batch_size=what.batch_size,
            on_batch=show,
        )
    found = {
        "key": key.identity,
        "watermark": key.watermark.on_disc(),
        "share": what.share,
        **figures(
            lines["marked"], lines["unmarked"], key=key, model=model, share=what.share,
            seed=what.seed,
        ),
    }  # fmt: skip
    write_whole(report, to_json(found, indent=1) + "\n")
    print(to_json(found, indent=1) if what.json else _table(found))


def _table(found: dict[str, Any]) -> str:
    """Returns what was found, a line a kind of text."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("texts", no_wrap=True)
    shares = [f"found at {level:g}" for level in LEVELS]
    for name in ("perplexity", "ms a token", "median log10 p", *shares):
        table.add_column(name, justify="right", no_wrap=True)
    changed = {"none": "marked", **{name: f"after {name}" for name in ATTACKS[1:]}}
    rows = [("unmarked", found["unmarked"], "none")]
    rows += [(changed[attack], found["marked"], attack) for attack in ATTACKS]
    for label, row, attack in rows:
        cells = [f"{row['perplexity']:.2f}", f"{1000 * row['seconds_per_token']:.1f}"]
        tests = row[attack]
        cells = cells if attack == "none" else ["", ""]
        cells += [f"{tests['median_log10_p']:.1f}"]
        cells += [f"{at['share']:.3f}" for at in tests["found"].values()]
        table.add_row(label, *cells)
    console = Console(file=io.StringIO(), width=200, highlight=False, emoji=False, markup=False)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().rstrip("\n")
