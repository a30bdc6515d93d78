"""Runs a page from its first block to its last: with tiny networks, tiny data and few steps."""

import contextlib
import io
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

import coopgen_jax as cg
import coopgen_jax.cli.compare
import coopgen_jax.cli.generate
from coopgen_jax.cli import main
from coopgen_jax.comparison.tuning_grid import GRIDS
from coopgen_jax.discriminators import loading
from coopgen_jax.models.pretrained import hub, image_networks, loaded_model
from tests.docs.pages import ROOT, Block, Command, blocks, commands
from tests.docs.tiny_world import (
    CLASSES,
    CLASSIFIERS,
    CLIPS,
    FOLDERS,
    TINY_LITE,
    VISION_LANGUAGE,
    fill_sheet,
    write_head,
)

SEARCH = {"--simulations": "4", "--wave": "2", "--candidates": "4", "--depth": "3"}
FEW = {
    "generate": {"--new-tokens": "3", "--batch-size": "2"},
    "compare": {"--new-tokens": "3", "--batch-size": "2", "--quiet": None},
    "train discriminator": {"--epochs": "1", "--rows": "4", "--longest": "8", "--quiet": None},
    "train lm": {"--epochs": "1", "--rows": "4", "--longest": "8", "--quiet": None},
    "train gcn": {
        "--rounds": "1", "--sources": "2", "--samples": "2", "--new-tokens": "16",
        "--source-tokens": "12", "--discriminator-steps": "1", "--first-discriminator-steps": "1",
        "--discriminator-rows": "4", "--replay-rows": "4", "--sample-texts": "2",
        "--validation-rows": "4", "--quiet": None,
    },
    "train captioner": {
        "--epochs": "1", "--rows": "4", "--longest": "24", "--vocabulary": "280", "--layers": "1",
        "--width": "64", "--quiet": None,
    },
    "train captioner by rewards": {
        "--rounds": "1", "--round-images": "2", "--new-tokens": "3", "--longest": "24",
        "--quiet": None,
    },
    "caption": {"--new-tokens": "3", "--quiet": None},
    "train clip": {"--epochs": "1", "--rows": "4", "--width": "4", "--quiet": None},
    "evaluate discriminator": {"--quiet": None},
    "evaluate captions": {"--quiet": None},
    "evaluate texts": {"--quiet": None},
    "watermark evaluate": {"--new-tokens": "8", "--quiet": None},
    "augment": {
        "--per-class": "5", "--tries": "1", "--new-tokens": "6", "--batch-size": "5",
        "--filter": "none", "--least-words": "1", "--repetition": "1", "--quiet": None,
    },
    "augment evaluate": {"--seeds": "1", "--quiet": None},
    "explain": {
        "--texts": "4", "--new-tokens": "6", "--batch-size": "4", "--tried": "2",
        "--min-count": "1", "--quiet": None,
    },
    # No token of the tiny model is a word, so none was considered.
    "explain show": {"--by": "weight"},
    "explain evaluate": {"--quiet": None},
    "mismatch": {
        "--folds": "2", "--hardness": "hard", "--image-ceiling": "1", "--text-ceiling": "1",
        "--quiet": None,
    },
    "plan": {"--bandwidth": "10", "--rate": "0.1"},
}  # fmt: skip
# Options that only some commands have, made small where they stand.
SMALLER = {
    "--of": "2",
    "--beams": "2",
    "--min-tokens": "2",
    "--vocabulary": "300",
    "--messages": "100",
}
# What rounds of writing and training take.
ROUNDS = {"--rounds": "1", "--on-policy-texts": "4", "--new-tokens": "2", "--search": "fudge"}
# What the continuous run of the project does itself, on a clean checkout.
DONE_BY_CI = {"pytest", "mkdocs"}


def stand_in(patch: pytest.MonkeyPatch, world: Path) -> None:
    """Has the names of the default model, its head and models of the hub mean the tiny ones."""
    name = loaded_model.DEFAULT_MODEL
    entry = replace(loaded_model.PACKAGED[name], weights="model.safetensors")
    patch.setitem(loaded_model.PACKAGED, name, entry)
    kinds = {"image network": "backbone", "encoder": "encoder"}
    patch.setattr(loaded_model, "fetch", lambda packaged: world / kinds.get(packaged.kind, "model"))
    patch.setattr(hub, "snapshot_download", lambda name, **_: str(world / "oracle"))
    patch.setattr(image_networks, "LITE0", TINY_LITE)
    patch.setattr(loading, "PACKAGED", world / "heads")
    for module in list(sys.modules.values()):
        if module.__name__.startswith("coopgen_jax.cli") and hasattr(module, "keep_compilations"):
            patch.setattr(module, "keep_compilations", lambda folder: None)


def search_little(patch: pytest.MonkeyPatch) -> None:
    """Has every preset search little and write few tokens, and tuning try little."""
    for preset, config in cg.PRESETS.items():
        wave = min(config.search.wave, 2)
        search = replace(config.search, simulations=16, wave=wave, candidates=16, depth=3)
        patch.setitem(cg.PRESETS, preset, replace(config, new_tokens=3, search=search))
    # Tuning tries one setting, at its smallest size.
    for method, grid in GRIDS.items():
        few = replace(grid, sizes=grid.sizes[:1], settings=grid.settings[:1])
        patch.setitem(GRIDS, method, few)


def run_page(path: Path) -> None:
    """Runs every block of a page in the current folder, which holds its files."""
    found = blocks(path)
    assert found, f"{path} has no blocks"
    for folder, base in FOLDERS.get(found[0].page, {}).items():
        write_head(Path(folder), Path(base), 2, "a guide's own row")
    if found[0].page in CLASSIFIERS:
        # The import takes seconds, and one page needs it.
        from tests.models.classifier_files import save_classifier

        # One that finds both classes in corpus.txt.
        how = {"seed": 23, "num_labels": 2, "id2label": dict(enumerate(CLASSES))}
        save_classifier("roberta", Path(CLASSIFIERS[found[0].page]), **how)
    if found[0].page in CLIPS:
        from tests.models.clip_files import save_clip

        save_clip("clip", Path(CLIPS[found[0].page]))
    if found[0].page in VISION_LANGUAGE:
        from tests.models.vision_language_files import save_vlm

        save_vlm("smolvlm", Path(VISION_LANGUAGE[found[0].page]))
    for block in found:
        if block.language == "python":
            run_python(block)
        elif block.language == "bash":
            for command in commands(block):
                run_command(command)


def run_python(block: Block) -> None:
    code = compile(block.text, f"{block.page}:{block.line}", "exec")
    exec(code, {"__name__": "docs_block"})


def run_command(command: Command) -> None:
    program, *words = command.words
    if program == "coopgen" and "--coordinator" not in words:
        run_coopgen(command, small(words))
    elif program == "pip":
        check_pip(command)
    elif program in DONE_BY_CI:
        assert program in (ROOT / ".ci" / "run").read_text(encoding="utf-8"), str(command)


def run_coopgen(command: Command, words: list[str]) -> None:
    if words[:3] == ["evaluate", "annotate", "read"]:
        for rating, sheet in enumerate(word for word in words if word.endswith(".csv")):
            fill_sheet(Path("sheet.csv"), Path(sheet), rating)
    given = io.TextIOWrapper(io.BytesIO((command.given or "").encode()), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", given)
        assert main(words) == 0, str(command)


def small(words: list[str]) -> list[str]:
    """Returns the arguments of `coopgen` with options that leave little to do."""
    deeper = ("train", "evaluate", "watermark", "explain", "augment")
    deep = words[0] in deeper and words[1][0] != "-"
    kind = " ".join(words[:2] if deep else words[:1])
    if kind == "train captioner" and "--objective" in words:
        kind += " by rewards"
    few = dict(FEW.get(kind, {}))
    if kind == "train clip" and "--clip" in words:
        # Tiny: it reads twelve tokens.
        few = {"--epochs": "1", "--rows": "4", "--longest": "12", "--quiet": None}
    if (kind == "generate" or "--among" in words) and "--method" not in words:
        few |= SEARCH
    if kind == "train lm" and "--from-scratch" in words:
        few |= {"--layers": "1", "--width": "64", "--context": "64"}
    if kind == "train discriminator" and "--kind" not in words:
        few["--width"] = "32"
    if "--on-policy" in words:
        few |= ROUNDS
    few |= {flag: value for flag, value in SMALLER.items() if flag in words}
    for flag, value in few.items():
        own = [flag] if value is None else [flag, value]
        if flag in words:
            at = words.index(flag)
            words = [*words[:at], *own, *words[at + len(own) :]]
        else:
            words = [*words, *own]
    return words


def check_pip(command: Command) -> None:
    """Checks that what is installed exists: this project, with extras that it has."""
    action, target = command.words[1:]
    assert action == "install", str(command)
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    assert target.startswith("."), str(command)
    for extra in filter(None, target[1:].strip("[]").split(",")):
        assert extra in extras, f"{command}: there is no extra {extra}"


def main_of_subprocess() -> None:
    """Runs `python -m tests.docs.page_runs PAGE WORLD`, for pages that need several devices."""
    page, world = map(Path, sys.argv[1:])
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        stand_in(patch, world)
        search_little(patch)
        run_page(page)


if __name__ == "__main__":
    main_of_subprocess()
