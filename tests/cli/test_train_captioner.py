"""`coopgen train captioner`: from pictures to a captioner, and every mistake gets its sentence."""

import json
import shutil

import pytest

import coopgen_jax as cg
import coopgen_jax.cli.train_captioner as command
from tests.cli.running import SMALL_CAPTIONER, run, sentence


def test_pictures_become_a_captioner_that_goes_on(capsys, pictures, tmp_path):
    (pictures / "images" / "lamp.jpg").write_bytes(b"<html>")
    # One picture under two names, in both files.
    shutil.copy(pictures / "images" / "film.jpg", pictures / "images" / "again.jpg")
    with (pictures / "validation.csv").open("a") as file:
        file.write("again.jpg,A film once more\n")
    out = tmp_path / "captioner"
    ask = ("train", "captioner", "--data", pictures, "--out", out, *SMALL_CAPTIONER)
    status, printed, err = run(capsys, *ask)
    assert status == 0
    assert "captioner, 5 steps" in printed and "perplexity of validation captions" in printed
    assert "train.csv: 1 image left out (lamp.jpg: it is not a picture that can be read)" in err
    assert "1 of 3 validation images are trained on too" in err
    card = json.loads((out / "card.json").read_text())
    captioner = cg.load_captioner(out)
    assert captioner.vision["backbone"] == "efficientnet-lite0" and captioner.prefix.tokens == 2
    captioner.check_backbone(cg.load_backbone())
    # What is finished is found so.
    again = run(capsys, *ask, "--json", "--quiet")
    assert again[0] == 0 and json.loads(again[1]) == card
    # A trained language model gets additions of low rank.
    other = ("train", "captioner", "--data", pictures, "--out", tmp_path / "other", "--quiet")
    trained = ("--model", out / "network", "--rank", "2", "--epochs", "1", "--longest", "24")
    assert run(capsys, *other, *trained)[0] == 0
    card = json.loads((tmp_path / "other" / "card.json").read_text())
    assert card["trained"] == "LoRA of rank 2" and card["tokens"] == 8


def test_a_run_that_stops_early_says_how_to_go_on(capsys, pictures, tmp_path):
    ask = ("train", "captioner", "--data", pictures, "--out", tmp_path / "out", *SMALL_CAPTIONER)
    status, printed, _ = run(capsys, *ask, "--quiet", "--budget-minutes", "1e-9")
    assert status == 0 and "the budget is spent: start the same command again" in printed
    assert "perplexity" not in printed
    assert run(capsys, *ask, "--quiet")[0] == 0


@pytest.mark.parametrize("kind", ["captioner", "clip"])
def test_a_seed_below_0_leaves_nothing(capsys, pictures, tmp_path, kind):
    ask = ("train", kind, "--data", pictures, "--out", tmp_path / "out", "--quiet")
    assert "seed is -1: give a number from 0" in sentence(capsys, *ask, "--seed", "-1")
    assert not (tmp_path / "out").exists()


def test_mistakes_are_named_before_anything_is_read(capsys, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "load_backbone", lambda name: pytest.fail("it was loaded"))
    ask = ("train", "captioner", "--data", pictures, "--out", tmp_path / "out")
    for wrong, said in (
        (("--rows", "0"), "--rows is 0"),
        (("--longest", "2"), "--longest is 2"),
        (("--epochs", "nan"), "--epochs is nan"),
        (("--rank", "-1"), "--rank is -1"),
        (("--rank", "4"), "--rank adds to a trained language model: name one by --model"),
        (("--model", "x", "--width", "64"), "--width shapes a new language model"),
        (("--offset", "1"), "--offset says nothing to --objective mle"),
    ):
        assert said in sentence(capsys, *ask, *wrong)
    nowhere = ("train", "captioner", "--data", tmp_path / "nothing", "--out", tmp_path / "out")
    assert "is neither a file nor a folder here" in sentence(capsys, *nowhere)
    assert not (tmp_path / "out").exists()


def test_rewards_go_on_from_references(capsys, pictures, tmp_path):
    """Every objective trains, from the folder of `train clip`, and tells its scorer's measures."""
    data = ("--data", pictures, "--quiet")
    forced, clip = tmp_path / "captioner", tmp_path / "clip"
    assert run(capsys, "train", "captioner", *data, "--out", forced, *SMALL_CAPTIONER)[0] == 0
    few = ("--epochs", "1", "--rows", "4", "--width", "4")
    assert run(capsys, "train", "clip", *data, "--out", clip, *few)[0] == 0
    ask = (
        "train", "captioner", *data, "--captioner", forced, "--reward", clip, "--rounds", "1",
        "--round-images", "2", "--new-tokens", "3", "--longest", "24", "--proposal", "beam:beams=2",
    )  # fmt: skip
    for objective, more, wanted in (
        ("wtf-rl", (), ("wtf-rl", "contrastive", "none", "discriminator", 0.94)),
        ("scst", ("--regulariser", "grammar"), ("rl", "clip-s", "greedy", "grammar", 0.94)),
        ("rl", ("--regulariser", "none", "--similarity", "one-way"),
         ("rl", "one-way", "none", "discriminator", 1.0)),
    ):  # fmt: skip
        out = tmp_path / objective
        status, printed, _ = run(capsys, *ask, "--out", out, "--objective", objective, *more)
        assert status == 0 and f"captioner, {objective}, 1 rounds" in printed
        reward = json.loads((out / "card.json").read_text())["reward"]
        names = ("objective", "similarity", "baseline", "regulariser", "alpha")
        assert tuple(reward[name] for name in names) == wanted
        assert cg.load_captioner(out).vision == cg.load_captioner(forced).vision
        # Cosines are divided by what this CLIP divides them by.
        assert reward["temperature"] == cg.load_clip_vectors(clip).temperature != 0.01
    rl = (*ask, "--out", tmp_path / "out", "--objective", "rl")
    for wrong, said in (
        (("--epochs", "3"), "--epochs says nothing to --objective rl"),
        (("--proposal", "mcts"), "a round's captions are written without a guide"),
        (("--proposal", "beam:model=x"), "so model says nothing to it"),
        (("--captioner", clip), "holds a clip-heads, no captioner"),
        (("--reward", forced), "'captioner'"),
        (("--alpha", "2"), "alpha is 2"),
        (("--offset", "nan"), "offset is nan"),
        (("--rows", "9"), "--rows says nothing to --objective rl"),
        (("--regulariser", "none", "--alpha", "0.5"), "--alpha says nothing to --regulariser none"),
    ):
        assert said in sentence(capsys, *rl, *wrong), said
    without = ("train", "captioner", *data, "--out", tmp_path / "out", "--objective", "rl")
    assert "--objective rl needs --captioner" in sentence(capsys, *without)
    assert not (tmp_path / "out").exists()
