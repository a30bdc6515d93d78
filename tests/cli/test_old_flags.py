"""Flags of earlier releases go on working, and help shows the present ones alone."""

import pytest

from coopgen_jax.cli import _parse_generate, _parse_train
from coopgen_jax.cli.old_flags import TRAININGS, renamed
from coopgen_jax.errors import UserError

GCN = ["gcn", "--data", "a.txt", "--validation", "b.txt", "--out", "c"]
VALUES = {
    "--pieces": "2", "--judge-steps": "3", "--first-judge-steps": "5", "--judge-rows": "6",
    "--judge-reads": "beginnings", "--judge-model": "other", "--judge-dropout": "0.3",
    "--judge-learning-rate": "1e-3",
}  # fmt: skip


@pytest.mark.parametrize("form", ["{} {}", "{}={}"])
def test_an_old_command_line_is_the_new_one(form):
    assert set(VALUES) == set(TRAININGS)
    old = " ".join(form.format(*item) for item in VALUES.items()).split(" ")
    under = [old[0], *(word.replace("judge-", "judge_") for word in old[1:])]
    new = [
        "--micro-batches", "2", "--discriminator-steps", "3", "--first-discriminator-steps", "5",
        "--discriminator-rows", "6", "--discriminator-reads", "prefixes", "--discriminator-model",
        "other", "--discriminator-dropout", "0.3", "--discriminator-learning-rate", "1e-3",
    ]  # fmt: skip
    wanted = _parse_train([*GCN, *new])
    assert _parse_train([*GCN, *old]) == _parse_train([*GCN, *under]) == wanted
    assert wanted != _parse_train(GCN)


def test_only_the_values_of_their_own_flag_are_renamed():
    told = ["--text", "beginnings", "--judge-reads", "texts", "--out=beginnings"]
    assert renamed(told, TRAININGS) == [
        "--text", "beginnings", "--discriminator-reads", "texts", "--out=beginnings"
    ]  # fmt: skip


def test_help_shows_the_present_names(capsys):
    for kind in ("gcn", "discriminator", "lm"):
        with pytest.raises(SystemExit):
            _parse_train([kind, "--help"])
        shown = capsys.readouterr().out
        assert "--micro-batches" in shown
        assert not [flag for flag in TRAININGS if flag in shown] and "beginnings" not in shown


def test_underscores_in_a_flag_of_a_method_are_hyphens():
    text = ["film_one", "--target", "a_b", "--method"]
    under = [*text, "sample", "--top_p", "0.1", "--bad_words=a_b", "--new_tokens", "5"]
    found = _parse_generate(under)
    assert found == _parse_generate([*text, "sample", "--top-p", "0.1", "--bad-words", "a_b",
                                     "--new-tokens", "5"])  # fmt: skip
    assert found.settings == {"top_p": 0.1} and found.words == {"bad_words": ("a_b",)}
    assert (found.texts, found.target, found.new_tokens) == (("film_one",), "a_b", 5)
    with pytest.raises(UserError, match="--top-p means nothing to --method beam"):
        _parse_generate([*text, "beam", "--top_p", "0.1"])
