"""Files of texts that commit 67dcb48 wrote are gone on with: their headers stay as they were."""

import json
from pathlib import Path

import pytest

from coopgen_jax.cli.compare_methods import runs_of
from coopgen_jax.cli.compare_options import CompareOptions
from coopgen_jax.comparison.header import settings_of, weighted
from coopgen_jax.comparison.writing import compare
from coopgen_jax.evaluation.independence import learnt
from coopgen_jax.files import to_json
from coopgen_jax.models.pretrained.loaded_model import load
from tests.cli.judging import write_all

HERE = Path(__file__).parent
# The settings in the headers of `coopgen compare --seed 3 --batch-size 4 --new-tokens 8 --target
# good bad`, by method; made at commit 67dcb48.
SETTINGS = json.loads((HERE / "settings.json").read_text(encoding="utf-8"))
PROMPTS = ["so", "a", "bad", "it is a long prompt", "film"]
# What the networks of the files in `written` were then.
BASE = "53823bc5cb75dee81f18aa2e1588bcfc206331c8e5555890701b6b24c53a22bb"
GUIDE = "55b731bfcaa6839d918df29a4306961dc351c3b1c7a2db549f69756ba06413fa"
METHODS = ("greedy", "smc:samples=2", "mcts:simulations=2:wave=1:candidates=2:depth=2")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The networks of the files in `written`, by the relative names that the files have."""
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_all(Path())
    return folder


@pytest.mark.parametrize("method", SETTINGS)
def test_settings_have_the_names_that_older_files_have(method):
    options = CompareOptions(
        method, Path("x"), target=("good", "bad"), new_tokens=8, seed=3, batch_size=4
    )
    (run,) = runs_of(options)
    found = settings_of(
        run.config, target=["good", "bad"], seed=3, batch_size=4, dtype="float32", chat=False,
        method=run.method, preset=run.preset, steering=run.steering, reference=run.reference,
    )  # fmt: skip
    found |= {"kept": "one by weight"} if weighted(run.config) else {}
    found = {name: value for name, value in found.items() if (name, value) != ("reference", None)}
    assert to_json(found) == to_json(SETTINGS[method])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kept", [0.4, 0.8, 1.0])
def test_a_file_of_an_older_version_is_gone_on_with(world, tmp_path, monkeypatch, method, kept):
    monkeypatch.chdir(world)
    name = method.replace(":", "-").replace("=", "-") + ".jsonl"
    there = (HERE / "written" / name).read_text(encoding="utf-8")
    # Random numbers of another version of PyTorch make other networks.
    there = there.replace(BASE, load("base").sha256)
    content = there.replace(GUIDE, str(learnt("guide").weights)).encode()
    path = tmp_path / name
    path.write_bytes(content[: int(kept * len(content))])
    (run,) = runs_of(
        CompareOptions(method, tmp_path, target=("good", "bad"), new_tokens=3, model="base",
                       discriminator="guide")
    )  # fmt: skip
    (found,) = compare([run], PROMPTS, ["good", "bad"], folder=tmp_path, batch_size=4)
    old, new = (data.splitlines() for data in (content, path.read_bytes()))
    batches = [json.loads(line)["batch"] for line in old[1:]]
    complete = content[: int(kept * len(content))].count(b"\n")
    complete = 1 + max(n for n in (0, 4, 8, 10) if n < complete)
    assert batches == [0] * 4 + [1] * 4 + [2] * 2
    # What stood there stands there, byte for byte.
    assert new[:complete] == old[:complete]
    assert [json.loads(line)["tokens"] for line in new[1:]] == [
        json.loads(line)["tokens"] for line in old[1:]
    ]
    assert [text.target for text in found.texts] == [json.loads(line)["target"] for line in old[1:]]
