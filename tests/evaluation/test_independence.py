"""Who may judge whom: by rows, by halves, or not known."""

import json

import pytest

from coopgen_jax.data.fingerprint import fingerprint, write_fingerprint
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.independence import TrainedOn, independence, require, trained_on


def known(name, *texts, half=None, weights=None) -> TrainedOn:
    return TrainedOn(name, weights or name, fingerprint(texts) if texts else None, half)


@pytest.mark.parametrize(
    ("judge", "guide", "holds", "why"),
    [
        (known("j", "a", "b"), known("g", "c", "d"), True, "have no row in common"),
        (known("j", "a", "b"), known("g", "B ", "d"), False, "on 1 of the judge's 2 rows"),
        # Rows are better known than halves.
        (known("j", "a", half="A"), known("g", "b", half="A"), True, "have no row in common"),
        (known("j", "a", half="A"), known("g", "a", half="B"), False, "on 1 of the judge's"),
        (known("j", half="B"), known("g", half="A"), True, "half B and the guide g on half A"),
        (known("j", "a", half="B"), known("g", half="B"), False, "both trained on half B"),
        (known("j", "a"), known("g", half="A"), False, "the guide g was trained on is unknown"),
        (known("j", half="A"), known("g", "a"), False, "rows j was trained on is unknown"),
        (known("j"), known("g", "a", half="A"), False, "rows j was trained on is unknown"),
        (known("j"), known("g"), False, "rows j was trained on is unknown"),
        (known("j", "a", weights="w"), known("g", "b", weights="w"), False, "is the guide g"),
    ],
)
def test_who_is_independent(judge, guide, holds, why):
    found = independence(judge, guide)
    assert found.holds == holds and why in found.why
    if holds:
        assert require(found, force=False) == require(found, force=True) == found.why
        return
    with pytest.raises(UserError, match="give --force"):
        require(found, force=False)
    assert require(found, force=True).startswith("forced: ")


@pytest.mark.parametrize(("tolerated", "holds"), [(0.0, False), (0.009, False), (0.01, True)])
def test_a_small_share_of_common_rows_is_tolerated_and_named(tolerated, holds):
    judge = known("j", "seen by both", *map(str, range(99)))
    found = independence(judge, known("g", "Seen by both", "other"), tolerated=tolerated)
    assert found.holds == holds
    assert "1 of the judge's 100 rows" in found.why and f"share of {tolerated:g}" in found.why
    assert independence(judge, known("g", "Seen by both")).holds is False


def card(folder, name="card.json", **entries):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(entries))
    return folder


def test_a_folder_says_what_it_has_learnt_from(tmp_path):
    folder = card(tmp_path / "x", half="A")
    write_fingerprint(folder, fingerprint(["a"]))
    (folder / "head.safetensors").write_bytes(b"weights")
    found = trained_on(folder)
    assert found.half == "A" and found.rows.tolist() == fingerprint(["a"]).tolist()
    copy = card(tmp_path / "y", "judge.json", classes=[])
    (copy / "network").mkdir()
    (copy / "network" / "model.safetensors").write_bytes(b"other")
    assert trained_on(copy).weights not in (None, found.weights)
    (copy / "network" / "model.safetensors").write_bytes(b"weights")
    assert trained_on(copy).weights == found.weights and trained_on(copy).rows is None


@pytest.mark.parametrize(
    "name", ["sentiment", "sentiment-distilled", "sentiment-minilm", "emotion", "topic"]
)
def test_heads_of_the_package_name_their_half_and_their_rows(name):
    found = trained_on(name)
    assert found.half == "A" and found.weights and len(found.rows) > 4000


def test_the_packaged_judge_may_judge_all_packaged_heads():
    judge = trained_on("sentiment-judge")
    assert judge.half == "B" and len(judge.rows) > 4000
    for name in ("sentiment", "sentiment-distilled", "sentiment-minilm", "emotion", "topic"):
        assert independence(judge, trained_on(name)).holds


def test_heads_of_one_data_set_share_rows_and_others_do_not():
    one, other = trained_on("sentiment"), trained_on("sentiment-minilm")
    assert not independence(one, other).holds
    assert independence(one, trained_on("topic")).holds
    nobody = trained_on("no such thing")
    assert nobody.half is nobody.rows is nobody.weights is None


@pytest.mark.parametrize(
    ("content", "told"),
    [('{"half": "C"}', "it must be A or B"), ("[1]", "is no card"), ("{", "is no card")],
)
def test_damaged_cards_are_told(tmp_path, content, told):
    (tmp_path / "card.json").write_text(content)
    with pytest.raises(UserError, match=told):
        trained_on(tmp_path)
