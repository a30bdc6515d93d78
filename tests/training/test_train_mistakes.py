"""`coopgen train` and `coopgen evaluate`: what is left out or refused, in a sentence."""

import shutil
from pathlib import Path

import pytest

from coopgen_jax.cli import main


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["generator"], "there is nothing called generator to evaluate: give discriminator"),
        (["discriminator", "--data", "x.csv", "--rows", "0"], "--rows is 0: give 1 or more"),
        (
            ["discriminator", "--data", "x.csv", "--picture", "judges.xyz"],
            "--picture judges.xyz must end in .",
        ),
        (
            ["discriminator", "--data", "x.csv", "--calibrate"],
            "sentiment comes with the",
        ),
    ],
)
def test_mistakes_of_an_evaluation_are_told(capsys, monkeypatch, tmp_path, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    Path("x.csv").write_text("good film,positive\n")
    assert main(["evaluate", *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_broken_rows_are_told(places, capsys, tmp_path):
    _, common = places
    loud = [word for word in common if word != "--quiet"]
    job = ["discriminator", *loud, "--label", "class", "--out", str(tmp_path / "x")]
    assert main(["train", *job, "--epochs", "0.25"]) == 0
    told = capsys.readouterr().err
    assert "a.jsonl: 1 rows left out (line 65: no JSON)" in told
    assert "coopgen: compiling the first step\ncoopgen: step 1 of 1, loss " in told
    # Of what is refused, and of what is done already, nothing is compiled.
    assert main(["train", *job, "--epochs", "0.25", "--seed", "1"]) == 2
    told = capsys.readouterr().err
    assert "another batch seed (0, and 1 is asked for)" in told and "compiling" not in told
    assert main(["train", *job, "--epochs", "0.25"]) == 0
    assert "compiling" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--text", "words"], "has no column 'words': its columns are said, class"),
        (["--classes", "high", "other"], "has the class 'low' in line 2: it must be high or other"),
        (["--rename", "high"], "--rename high: give the old name and the new one as OLD=NEW"),
        (["--rename", "high=low"], "has one class only, low: give two or more"),
        (["--rows", "0"], "--rows is 0: give 1 or more"),
        (["--epochs", "0"], "--epochs is 0.0: give a number above 0"),
        (["--kind", "causal", "--rank", "-1"], "--rank is -1: give 1 or more, or 0"),
        (["--pieces", "3"], "16 rows cannot be split into 3 equal micro-batches"),
        (["--learning-rate", "0"], "the learning rate is 0.0: it must be above 0"),
        (["--kind", "causal", "--shortest", "17"], "the shortest cut is 17 tokens: it must be 1"),
        (["--longest", "64"], "texts of 64 tokens exceed the network's context of 64"),
        (["--kind", "causal", "--longest", "64"], "and 1 in front of them exceed the network's"),
        (["--kind", "causal", "--taps", "1"], "unrecognized options: --taps, 1"),
        (["--taps", "1", "9"], "the taps are 1, 9: the language model has the layers 0 to 3"),
        (["--layers", "-1"], "-1 layers with a look-ahead of 0: give 0 or more"),
        (["--width", "40"], "the layers' width is 40: give a multiple of 32"),
        (["--layers", "0", "--look-ahead", "4"], "a look-ahead head stands on layers"),
        (["--dropout", "1"], "--dropout is 1.0: give a share from 0 to below 1"),
        (["--hidden", "0"], "--hidden is 0: give widths of 1 or more"),
        (["--kind", "bidirectional", "--frozen", "--rank", "4"], "that --frozen leaves as it is"),
        (["--rank", "4"], "unrecognized or misplaced options: --rank"),
        (["--coordinator", "auto"], "cannot train a shared-trunk discriminator together"),
        (["--model", "nowhere"], "there is no language model 'nowhere'"),
        (["--devices", "64"], "a mesh of 64 by 1 needs 64 devices"),
    ],
)
def test_mistakes_are_told_and_nothing_is_left_behind(
    places, capsys, tmp_path, arguments, sentence
):
    _, common = places
    out = tmp_path / "x"
    job = ["discriminator", *common, "--label", "class", "--out", str(out), *arguments]
    assert main(["train", *job]) == 2
    told = capsys.readouterr().err
    assert sentence in told and "Traceback" not in told
    assert not out.exists()


@pytest.mark.parametrize("what", ["lm", "causal"])
def test_the_model_itself_is_no_place_for_what_is_trained(places, capsys, tmp_path, what):
    folder, common = places
    base = shutil.copytree(folder / "base", tmp_path / "base")
    before = {path.name: path.read_bytes() for path in base.iterdir()}
    kind = ["lm"] if what == "lm" else ["discriminator", "--kind", what]
    job = [*kind, *common, "--label", "class", "--model", str(base), "--out", str(base)]
    assert main(["train", *job]) == 2
    told = capsys.readouterr().err
    assert "base holds a model already (config.json)" in told and told.count("\n") == 1
    assert {path.name: path.read_bytes() for path in base.iterdir()} == before
