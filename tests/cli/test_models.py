"""`coopgen models`, the help and the version."""

import json
import subprocess
import sys

import pytest

import coopgen_jax.cli.models as listing
from coopgen_jax.cli import main
from coopgen_jax.cli.options import GenerateOptions
from coopgen_jax.decoding.presets import PRESETS
from tests.cli.running import run, sentence


def test_models_lists_what_there_is_and_where(capsys, tmp_path):
    status, out, _ = run(capsys, "models", "--json")
    assert status == 0
    entries = {entry["name"]: entry for entry in json.loads(out)}
    assert entries["smollm2-135m"]["kind"] == "language model"
    assert entries["smollm2-135m"]["cached"] is None
    assert entries["smollm2-135m"]["licence"] == "Apache-2.0"
    assert {"kind", "name", "size", "cached", "licence", "terms"} == set(entries["minilm-l6"])
    _, table, _ = run(capsys, "models")
    for name, entry in entries.items():
        assert name in table
        assert f"{entry['size'] / 1e6:.1f} MB" in table
    assert "not yet" in table


def test_models_tells_the_terms_of_a_heads_data(capsys, monkeypatch, tmp_path):
    folder = tmp_path / "research" / "mood"
    folder.mkdir(parents=True)
    card = {"terms": "research only", "data": {"a": "reviews of A", "b": "reviews of B"}}
    (folder / "card.json").write_text(json.dumps(card))
    (folder / "head.safetensors").write_bytes(b"x" * 300)
    monkeypatch.setattr(listing, "HEADS", tmp_path)
    (entry,) = (e for e in json.loads(run(capsys, "models", "--json")[1]) if "head" in e["kind"])
    assert (entry["name"], entry["size"], entry["cached"]) == ("mood", 300, str(folder))
    assert entry["terms"] == "research only: reviews of A; reviews of B"


def test_models_fetches_by_name(capsys, monkeypatch):
    fetched = []
    monkeypatch.setattr(listing, "fetch", lambda model: fetched.append(model.name))
    assert run(capsys, "models", "--fetch", "minilm-l6")[0] == 0
    assert fetched == ["minilm-l6"]
    assert "choose one of smollm2-135m" in sentence(capsys, "models", "--fetch", "nothing")


def test_help_explains_every_option_and_ends_with_examples(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["generate", "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for name in GenerateOptions.__dataclass_fields__:
        assert (
            name in ("texts", "settings", "words", "wishes") or "--" + name.replace("_", "-") in out
        )
    assert "coopgen generate" in out.split("examples:")[1]
    with pytest.raises(SystemExit):
        main(["generate", "--method", "mcts", "--help"])
    assert ",".join(PRESETS) in capsys.readouterr().out


def test_help_and_version_wait_for_no_network_library():
    code = (
        "import sys; from coopgen_jax.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print('jax' in sys.modules, 'transformers' in sys.modules)"
    )
    for argument in ("--help", "--version"):
        done = subprocess.run(
            [sys.executable, "-c", code, argument], capture_output=True, text=True, check=True
        )
        assert done.stdout.endswith("False False\n"), done.stdout
        assert "coopgen" in done.stdout
