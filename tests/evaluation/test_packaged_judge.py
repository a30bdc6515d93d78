"""The judge that comes with the library: whom it judges unasked, and when it stays silent."""

import json

import pytest

from coopgen_jax.data.fingerprint import fingerprint, write_fingerprint
from coopgen_jax.discriminators import loading
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation import report as reporting
from coopgen_jax.evaluation.packaged_judge import packaged_judge, sentence_on
from coopgen_jax.evaluation.report import ReportSettings, check_methods, report_on
from coopgen_jax.evaluation.written_texts import Method, Written
from tests.docs.pages import ROOT
from tests.evaluation.word_judge import WordJudge

CLASSES = WordJudge.classes


@pytest.fixture
def heads(tmp_path, monkeypatch):
    """A guide, another one, and their judge of words, as they would come with the library."""
    accuracy = {"sst2": {"24": 0.8125, "whole": 0.9}}
    cards = {
        "guide": {"classes": list(CLASSES[:2])},
        "other": {"classes": ["joy"]},
        "words": {"classes": list(CLASSES), "judges": ["guide"], "accuracy": accuracy},
    }
    for name, card in cards.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "card.json").write_text(json.dumps(card))
        write_fingerprint(tmp_path / name, fingerprint([f"a row of {name}"]))
    monkeypatch.setattr(loading, "PACKAGED", tmp_path)
    asked = []

    def load(name, *, model):
        asked.append(name)
        return WordJudge()

    monkeypatch.setattr(reporting, "load_text_judge", load)
    return tmp_path, asked


def method(name="m", guide="guide", target="positive", told=True) -> Method:
    texts = [Written("so", text, target) for text in ("good", "bad", "a table", "")]
    return Method(name, tuple(texts), guide, told)


def test_guides_of_the_package_have_its_judge(heads):
    _, asked = heads
    report = report_on([method()], ReportSettings())
    row = report["methods"][0]
    assert asked == ["words"] and report["judge"] == "words"
    assert [row[n]["value"] for n in ("accuracy", "neither", "opposite")] == [0.25, 0.5, 0.25]
    said = "; ".join(report["notes"])
    assert "the packaged judge words tells who is on target" in said and "0.81 of sst2" in said
    assert "words and the guide guide have no row in common" in said
    beside = [method(), method("greedy", None)]
    assert report_on(beside, ReportSettings())["judge"] == "words"


@pytest.mark.parametrize(
    ("methods", "how"),
    [
        ([method()], ReportSettings(judge="none")),
        ([method(guide="other", target="joy")], ReportSettings()),
        ([method(guide=None)], ReportSettings()),
        ([method(), method("n", "other")], ReportSettings()),
        ([method(target="glad")], ReportSettings()),
        ([method(guide="./guide")], ReportSettings()),
    ],
)
def test_others_have_none(heads, methods, how):
    report = report_on(methods, how)
    assert report["judge"] is None and not heads[1]
    assert "accuracy" not in report["methods"][0]
    assert not any("packaged judge" in note for note in report["notes"])


def test_what_is_renamed_may_have_it(heads):
    how = ReportSettings(rename=(("glad", "positive"),))
    assert report_on([method(target="glad")], how)["judge"] == "words"


def test_nothing_is_refused_for_the_sake_of_a_judge_that_nobody_named(heads, monkeypatch):
    folder, asked = heads
    unknown = [method(), method("n", None, told=False)]
    _, notes = check_methods(unknown, ReportSettings())
    assert "may not judge: nobody says what guided" in notes[0]
    write_fingerprint(folder / "words", fingerprint(["a row of guide"]))
    report = report_on([method()], ReportSettings())
    assert report["judge"] is None and "both trained on 1 of" in report["notes"][0]
    with pytest.raises(UserError, match="both trained on 1 of"):
        report_on([method()], ReportSettings(judge="words"))
    assert report_on([method()], ReportSettings(force=True))["judge"] == "words"
    assert asked == ["words"]
    write_fingerprint(folder / "words", fingerprint(["a row of words"]))

    def fail(name, *, model):
        raise UserError("the encoder is not there")

    monkeypatch.setattr(reporting, "load_text_judge", fail)
    report = report_on([method()], ReportSettings())
    assert report["judge"] is None and "is not there: the encoder" in report["notes"][0]
    with pytest.raises(UserError, match="the encoder is not there"):
        report_on([method()], ReportSettings(judge="words"))


def test_the_judge_of_the_library_judges_its_heads_of_sentiment_alone():
    name, card = packaged_judge(["sentiment", "sentiment-distilled", "sentiment-minilm"])
    assert (name, card["classes"]) == ("sentiment-judge", list(CLASSES))
    assert f"{card['accuracy']['sst2']['24']:.2f} of sst2" in sentence_on(name, card)
    assert packaged_judge(["topic"]) is packaged_judge(["sentiment", "topic"]) is None
    page = (ROOT / "docs" / "reference" / "cards.md").read_text(encoding="utf-8")
    for figures in card["accuracy"].values():
        assert all(f" {share:.3f}".replace(" 0", " ") in page for share in figures.values())
    assert packaged_judge([]) is None and packaged_judge([name]) is None
