"""Files that the library made at commit 67dcb48 load, and what was half done is gone on with."""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import coopgen_jax as cg
import coopgen_jax.cli.compare as command
from coopgen_jax.cli import main
from tests.goldens.comparing import differences

FOLDER = Path(__file__).parent.parent / "data" / "made_before"
# The command lines by which they were made. The trainings were stopped as if a budget were spent.
SMALL = (
    "--data train.jsonl --validation dev.jsonl --model base --rows 8 --longest 12 --quiet --json"
)
OFTEN = "--learning-rate 1e-2 --validate-every 4"
TRAININGS = {
    "lm_half": f"lm {SMALL} {OFTEN} --rank 2 --epochs 3",
    "trunk_half": f"discriminator {SMALL} {OFTEN} --layers 0 --epochs 3",
    "gcn_half": "gcn --data pairs.jsonl --validation pairs.jsonl --source source --text text"
    " --template {}: --model base --rank 2 --rounds 4 --new-tokens 4 --source-tokens 6 --sources 2"
    " --samples 2 --judge-rows 4 --judge-steps 1 --first-judge-steps 2 --replay-rows 4"
    " --sample-texts 2 --validation-rows 4 --validate-every 2 --learning-rate 1e-2 --quiet --json",
}
TREE = "simulations=4:wave=2:candidates=4:depth=2"
COMPARISONS = {
    "compare_done": f"greedy,mcts:{TREE}",
    "compare_half": "greedy,sample:top_p=0.9:samples=2,smc:samples=2,fudge:candidates=3,"
    f"mcts:preset=values:{TREE.replace('wave=2:', '')}",
}
# Losses and norms: sums over texts and weights whose roundings training multiplies, and processors
# with registers of different width round otherwise.
CLOSE = 1e-3
EXPECTED = json.loads((FOLDER / "expected.json").read_text("utf-8"))


@pytest.fixture(autouse=True)
def world(tmp_path, monkeypatch) -> Path:
    """A copy of everything, in the folder from which the command lines were said."""
    folder = shutil.copytree(FOLDER, tmp_path / "world")
    for path in folder.glob("*.tar.gz"):
        with tarfile.open(path) as archive:
            archive.extractall(folder, filter="data")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(command, "keep_compilations", lambda folder: None)
    return folder


def compare_line(name: str) -> list[str]:
    where = (
        f"--prompts prompts.txt --target high low --model base --discriminator head --out {name}"
    )
    return [
        "compare", "--methods", COMPARISONS[name], *where.split(), "--new-tokens", "3",
        "--batch-size", "2", "--quiet",
    ]  # fmt: skip


def weights(folder: Path) -> dict[str, list[float]]:
    """The sum and the norm of every tensor of a folder."""
    found = {}
    for path in sorted(folder.rglob("*.safetensors")):
        for name, tensor in load_file(path).items():
            values = tensor.astype(np.float64)
            key = f"{path.relative_to(folder).as_posix()}/{name}"
            found[key] = [float(values.sum()), float(np.sqrt((values**2).sum()))]
    return found


def trained(name: str) -> dict:
    """Goes on with a training and returns its figures as they end."""
    assert main(["train", *TRAININGS[name].split(), "--out", name]) == 0
    lines = (Path(name) / "metrics.jsonl").read_text().splitlines()
    card = json.loads((Path(name) / "card.json").read_text())
    return {
        "metrics": [untimed(json.loads(line)) for line in lines],
        "weights": weights(Path(name)),
        "ended": {key: card.get(key) for key in ("steps", "rounds", "stopped", "best")},
    }


def untimed(row: dict) -> dict:
    return {key: value for key, value in row.items() if "seconds" not in key}


def compared(name: str) -> dict[str, list[dict]]:
    """Goes on with a comparison and returns the rows of its files without their seconds."""
    assert main(compare_line(name)) == 0
    return {
        path.name: [untimed(json.loads(line)) for line in path.read_text().splitlines()]
        for path in sorted(Path(name).glob("*.jsonl"))
    }


def judged() -> list[dict]:
    """What is written under the head, and what the head says of it."""
    model = cg.load_language_model("base")
    guide = cg.load_discriminator("head", language_model=model)
    config = cg.SamplingConfig(new_tokens=6, rules=cg.Rules(temperature=0.5))
    texts = cg.generate(model, ["so", "a film"], config=config, discriminator=guide, seed=1)
    return [
        {"text": text.text, "tokens": text.tokens, "classes": text.class_probabilities}
        for text in texts
    ]


def test_a_head_is_loaded_and_judges_as_it_did():
    assert differences(judged(), EXPECTED["head"], close=CLOSE) == []


TRAINED = [
    pytest.param(name, marks=pytest.mark.slow) if name == "gcn_half" else name for name in TRAININGS
]


@pytest.mark.parametrize("name", TRAINED)
def test_a_half_done_training_ends_as_it_would_have(name, capsys):
    before = (Path(name) / "metrics.jsonl").read_text()
    done = max(int(path.name) for path in (Path(name) / "checkpoints").iterdir())
    found = trained(name)
    # Gone on with, and not begun anew.
    assert (Path(name) / "metrics.jsonl").read_text().startswith(before)
    assert EXPECTED[name]["done"] == done
    expected = {key: value for key, value in EXPECTED[name].items() if key != "done"}
    assert differences(found, expected, close=CLOSE) == []


@pytest.mark.parametrize("name", COMPARISONS)
def test_a_comparison_is_gone_on_with(name, capsys):
    before = {path: path.read_bytes() for path in Path(name).glob("*.jsonl")}
    assert differences(compared(name), EXPECTED[name], close=CLOSE) == []
    for path, content in before.items():
        assert path.read_bytes().startswith(standing(content)), path
    assert Path(name, "greedy.jsonl").read_bytes() == before[Path(name, "greedy.jsonl")]


def standing(content: bytes) -> bytes:
    """The header of a file and its batches but for the last, which may be broken off."""
    header, *rows = content[: content.rfind(b"\n") + 1].splitlines(keepends=True)
    batches = [json.loads(row)["batch"] for row in rows]
    return header + b"".join(
        row for row, batch in zip(rows, batches, strict=True) if batch < max(batches)
    )


def test_nothing_names_the_machine_that_made_them(world):
    files = [path for path in world.rglob("*") if path.is_file() and path.suffix != ".gz"]
    assert len(files) > 40
    for path in files:
        content = path.read_bytes()
        for name in (b"/tmp", b"/root", b"/home", b"/work"):
            assert name not in content, path
