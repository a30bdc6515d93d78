"""Every command and every Python block of the README and of the site's pages runs."""

import contextlib
import importlib
import io
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import coopgen_jax as cg
from coopgen_jax.cli import main
from tests.docs.page_runs import run_page, search_little, stand_in
from tests.docs.pages import LANGUAGES, ROOT, blocks, commands, inline_code, name_of, paths
from tests.docs.tiny_world import build

PAGES = {name_of(path): path for path in paths()}
RUN = [
    name for name, path in PAGES.items() if {b.language for b in blocks(path)} & {"bash", "python"}
]
# Pages that train, or whose many methods compile for long.
SLOW = {
    "contribute/new_decoder.md",
    "explanations/draws_of_known_probability.md",
    "how-to/bring_your_classifier.md",
    "how-to/choose_a_method.md",
    "how-to/combine_models.md",
    "how-to/compare_and_rate.md",
    "how-to/guides_and_judges.md",
    "how-to/several_devices.md",
    "how-to/write_captions.md",
    "tutorials/first_text.md",
    "tutorials/train_a_guide.md",
    "tutorials/writer_and_critic.md",
    "tutorials/your_own_classifier.md",
}
DEVICES = {"how-to/several_devices.md"}
SLOWLY = [pytest.param(name, marks=pytest.mark.slow) for name in RUN if name in SLOW - DEVICES]
QUICKLY = [name for name in RUN if name not in SLOW]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("world"))


@pytest.fixture
def here(world, tmp_path, monkeypatch) -> Path:
    """A folder with the files that the pages speak of, to work in."""
    shutil.copytree(world, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("COOPGEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "here"


@pytest.mark.parametrize("page", [*QUICKLY, *SLOWLY])
def test_every_block_of_a_page_runs(page, here, world, monkeypatch):
    stand_in(monkeypatch, world)
    search_little(monkeypatch)
    run_page(PAGES[page])


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(DEVICES))
def test_every_block_of_a_page_runs_on_eight_devices(page, here, world):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "tests.docs.page_runs", PAGES[page], world],
        env={**os.environ, "XLA_FLAGS": flags.strip(), "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.default_model
def test_every_block_of_the_readme_runs_with_the_default_model(here, monkeypatch):
    monkeypatch.delenv("COOPGEN_CACHE")
    search_little(monkeypatch)
    run_page(PAGES["README.md"])


@pytest.mark.parametrize("page", list(PAGES))
def test_every_block_says_what_it_is(page):
    for block in blocks(PAGES[page]):
        assert block.language in LANGUAGES, f"{page}:{block.line}: {block.language!r}"


@cache
def help_of(words: tuple[str, ...]) -> str:
    """Returns what a command of `coopgen` prints for `--help`."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit):
        main([*words, "--help"])
    return printed.getvalue()


def options_of(words: tuple[str, ...]) -> set[str]:
    """Returns the options that the help of a command, and of its method, lists."""
    deep = 3 if words[1:2] == ("annotate",) else 2
    named = {"train": 2, "watermark": 2, "evaluate": deep}
    named["explain"] = 2 if words[1:2] in (("show",), ("evaluate",)) else 1
    named["augment"] = 2 if words[1:2] == ("evaluate",) else 1
    asked = [words[: named.get(words[0], 1)]]
    if words[0] == "generate":
        method = words[words.index("--method") + 1] if "--method" in words else "mcts"
        asked.append(("generate", "--method", method))
    return {"--method"}.union(*(re.findall(r"--[\w-]+", help_of(one)) for one in asked))


@pytest.mark.parametrize("page", RUN)
def test_every_option_of_a_command_is_in_its_help(page):
    for block in blocks(PAGES[page]):
        if block.language != "bash":
            continue
        for command in commands(block):
            if command.words[0] != "coopgen":
                continue
            words = command.words[1:]
            unknown = {word for word in words if word.startswith("--")} - options_of(words)
            assert not unknown, f"{command}: {unknown}"


def modules_asked() -> list[tuple[str, str, list[str]]]:
    """Returns page, module and arguments of every `python -m` of the pages, prose included."""
    found = []
    for page, path in PAGES.items():
        spans = [command.words for block in blocks(path) if block.language == "bash"
                 for command in commands(block)]  # fmt: skip
        spans += [tuple(code.split()) for code in inline_code(path)]
        found += [
            (page, words[2], list(words[3:])) for words in spans if words[:2] == ("python", "-m")
        ]
    return found


def test_every_experiment_and_benchmark_that_a_page_names_takes_its_options():
    asked = modules_asked()
    assert {name for _, name, _ in asked} >= {"benchmarks", "experiments.polarity"}
    for page, name, words in asked:
        path = ROOT.joinpath(*name.split("."))
        assert path.is_dir() or path.with_suffix(".py").is_file(), f"{page}: no module {name}"
        source = "".join(map(Path.read_text, (ROOT / name.split(".")[0]).glob("*.py")))
        flags = [word for word in words if word.startswith("--") and word != "--help"]
        for flag in flags:
            field = flag.removeprefix("--").replace("-", "_")
            assert re.search(rf"^    {field}: ", source, re.M), f"{page}: {name} has no {flag}"
        named = words[: words.index(flags[0])] if flags else words
        for word in named if name == "benchmarks" else ():
            known = word.endswith(".json") or f'"{word}"' in source
            assert known, f"{page}: there is no benchmark {word}"


def test_every_python_name_that_the_prose_names_exists():
    for page, path in PAGES.items():
        for code in inline_code(path):
            for name in re.findall(r"\bcg\.(\w+)", code):
                known = name in dir(cg) or name in ("NAME", "testing")
                assert known, f"{page}: there is no cg.{name}"


def test_every_module_that_the_prose_names_exists():
    for page, path in PAGES.items():
        for code in inline_code(path):
            if re.fullmatch(r"coopgen_jax/[\w/]+\.py", code):
                assert (ROOT / code).is_file(), f"{page}: there is no {code}"
            if re.fullmatch(r"coopgen_jax(\.\w+)+", code):
                assert found(code), f"{page}: there is no {code}"


def found(path: str) -> bool:
    """Says whether a dotted path is that of a module or of something in one."""
    module, names = path, list[str]()
    while module:
        with contextlib.suppress(ModuleNotFoundError):
            there = importlib.import_module(module)
            return all(hasattr(there, name) for name in names)
        module, _, name = module.rpartition(".")
        names = [name, *names]
    return False


def test_the_reference_of_the_command_line_has_every_command(capsys):
    commands = import_hook("commands").COMMANDS
    for group, words in (("", "known are"), ("train", "give"), ("evaluate", "give")):
        assert main([*group.split(), "nothing"]) == 2
        names = re.split(", | or ", capsys.readouterr().err.strip().rpartition(f"{words} ")[2])
        assert len(names) > 3
        for name in names:
            full = f"{group} {name}".strip()
            assert any(known == full or known.startswith(f"{full} ") for known in commands), full


def import_hook(name):
    """Imports what the site's pages are made by."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "docs" / "hooks"))
        return importlib.import_module(name)


def test_the_readme_is_short():
    assert len(PAGES["README.md"].read_text(encoding="utf-8").split()) <= 900


def test_the_readme_keeps_its_two_commands():
    text = PAGES["README.md"].read_text(encoding="utf-8")
    assert 'pip install . && coopgen generate "This film was" --target positive' in text
    assert "pip install '.[test]' && pytest" in text


def test_every_link_of_the_readmes_leads_somewhere():
    for page in ("README.md", "experiments/README.md", "benchmarks/README.md"):
        path = PAGES[page]
        for link in re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8")):
            assert (path.parent / link).exists(), f"{page}: {link}"
