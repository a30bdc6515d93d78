"""Figures of texts against numbers worked out by hand."""

import math
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from coopgen_jax.discriminators.host.function import host_function
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.metrics import self_bleu, seq_rep, wilson_interval
from coopgen_jax.evaluation.oracle import log_likelihoods
from coopgen_jax.evaluation.significance import mcnemar, signed_rank
from coopgen_jax.evaluation.tables import cells, draw, render
from coopgen_jax.evaluation.text_judges import DiscriminatorJudge
from coopgen_jax.evaluation.texts import evaluate_texts, on_target
from coopgen_jax.evaluation.written_texts import Method, Written
from tests.tiny_model import guide, model


class Words:
    """Finds a text good by how much of it is the word good."""

    classes = ("bad", "good")

    def predict_proba(self, texts):
        assert all("prompt" not in text for text in texts), "the prompt was read"
        share = [text.split().count("good") / max(1, len(text.split())) for text in texts]
        return np.stack([1 - np.array(share), share], axis=1)


def written(prompt, text, target="good", **more) -> Written:
    return Written(f"prompt {prompt}", text, target, **more)


GREEDY = Method("greedy", tuple(written(n, "it is so bad") for n in range(8)))
GUIDED = Method(
    "guided",
    (
        *(written(n, "good good it") for n in range(7)),
        written(7, ""),
        written(8, "bad good good good", "bad"),
    ),
)


def row_of(report, name):
    return next(row for row in report["methods"] if row["method"] == name)


def test_accuracy_its_interval_and_its_test():
    told: list[str] = []
    report = evaluate_texts([GREEDY, GUIDED], judge=Words(), listener=told.append)
    assert told == ["greedy", "guided"]
    assert (report["against"], report["unit"]) == ("greedy", "words")
    assert "paired" not in row_of(report, "greedy")
    row = row_of(report, "guided")
    # An empty text is on nobody's target, and the last asks for the other class.
    assert row["accuracy"]["value"] == pytest.approx(7 / 9)
    assert row["accuracy"]["interval"] == list(wilson_interval(7, 9))
    assert row_of(report, "greedy")["accuracy"]["value"] == 0
    # Eight prompts are shared; seven went from miss to hit, none back.
    assert row["paired"]["pairs"] == 8
    assert row["paired"]["accuracy_p"] == pytest.approx(2 / 2**7)
    assert row["paired"]["accuracy_p_holm"] == row["paired"]["accuracy_p"]
    other = evaluate_texts([GREEDY, GUIDED], judge=Words(), against="guided")
    assert row_of(other, "greedy")["paired"]["accuracy_p"] == row["paired"]["accuracy_p"]


def test_an_empty_text_of_an_undecided_judge_is_no_hit():
    texts = [written(0, "", "bad"), written(1, "  ", "bad"), written(2, "it", "bad")]
    assert on_target(Words(), texts).tolist() == [False, False, True]


class Calm:
    """Finds a class in its name alone."""

    classes = ("bad", "neither", "good")

    def predict_proba(self, texts):
        # What it says of an empty text must not count.
        rows = {"good": [0.1, 0.2, 0.7], "bad": [0.6, 0.3, 0.1], "": [0.6, 0.3, 0.1]}
        return np.array([rows.get(text.partition(" ")[0], [0.2, 0.5, 0.3]) for text in texts])


def test_a_judge_who_knows_neither_tells_three_parts():
    texts = [
        written(0, "good it", guide_probability=0.9), written(1, "bad it", guide_probability=0.8),
        written(2, "it is", guide_probability=0.7), written(3, " ", guide_probability=0.6),
        written(4, "bad", "bad", guide_probability=0.5),
    ]  # fmt: skip
    row = evaluate_texts([Method("m", tuple(texts))], judge=Calm())["methods"][0]
    found = {name: row[name]["value"] for name in ("accuracy", "neither", "opposite", "guide_gap")}
    assert found == pytest.approx(
        {"accuracy": 0.4, "neither": 0.4, "opposite": 0.2, "guide_gap": 0.3}
    )
    assert row["neither"]["interval"] == list(wilson_interval(2, 5))
    low, high = row["guide_gap"]["interval"]
    assert -0.5 <= low < 0.3 < high <= 1
    # A text that does not tell its guide's words leaves the gap unknown, a judge of two the parts.
    texts[0] = replace(texts[0], guide_probability=None)
    row = evaluate_texts([Method("m", tuple(texts))], judge=Words())["methods"][0]
    assert not {"neither", "opposite", "guide_gap"} & row.keys()
    table = cells(evaluate_texts([Method("m", tuple(texts))], judge=Calm()))
    assert table[0][2:5] == ["accuracy", "neither", "opposite"]


def test_diversity_is_that_of_one_target():
    texts = [
        written(n, text, target)
        for target in ("good", "bad")
        for n, text in enumerate(["a b c d e f", "a b c d e g", "a b a b a b"])
    ]
    row = row_of(evaluate_texts([Method("m", tuple(texts))]), "m")
    one = [text.text for text in texts[:3]]
    assert row["self_bleu_5"]["value"] == pytest.approx(self_bleu(one))
    assert row["distinct_1"]["value"] == pytest.approx(7 / 18)
    assert row["distinct_2"]["value"] == pytest.approx(7 / 15)
    assert row["distinct_3"]["value"] == pytest.approx(7 / 12)
    # Of the last text's three 4-grams the third is the first.
    assert row["seq_rep_4"]["value"] == pytest.approx((0 + 0 + 1 / 3) / 3)
    assert row["length"]["value"] == 6


def test_repetition_counts_tokens_where_they_are_known():
    assert seq_rep([1, 2, 3, 1, 2, 3, 1], 3) == pytest.approx(2 / 5)
    texts = (written(0, "x", tokens=(1, 2, 1, 2, 1, 2)), written(1, "y", tokens=(1, 2)))
    report = evaluate_texts([Method("m", texts)])
    assert report["unit"] == "tokens"
    assert report["methods"][0]["seq_rep_4"]["value"] == pytest.approx(1 / 6)
    assert report["methods"][0]["length"]["value"] == 4
    # Tokens of growing runs are all different: the text tells.
    runs = Method("m", (texts[0], written(1, "# ## ### ####", tokens=(1, 2, 3, 4))))
    row = evaluate_texts([runs])["methods"][0]
    assert row["seq_rep_4"]["value"] == pytest.approx((1 / 3 + 6 / 7) / 2)
    mixed = Method("m", (texts[0], written(1, "y z")))
    assert evaluate_texts([mixed])["methods"][0]["length"]["value"] == 1.5


def test_self_bleu_takes_the_first_texts():
    texts = ["a b c d e f", "a b c d e g", "x y z x y z"]
    assert self_bleu(texts, most=2) == self_bleu(texts[:2]) > self_bleu(texts)


def test_cost_is_the_median_over_batches():
    texts = tuple(
        written(n, "x", tokens=(1, 2), seconds=seconds, batch=batch, model_tokens=6)
        for n, (batch, seconds) in enumerate([(0, 9.0), (0, 9.0), (1, 0.2), (1, 0.4), (2, 0.4)])
    )
    row = evaluate_texts([Method("m", texts)])["methods"][0]
    found = row["seconds_per_token"]
    assert found["value"] == pytest.approx(0.175) and found["batches"] == 2
    assert found["range"] == pytest.approx([0.15, 0.2])
    assert row["calls_per_token"]["value"] == 3
    # The first batch of every width waits for a compilation; where there is no other, it counts.
    wide = [replace(text, width=16 if text.batch == 2 else 32) for text in texts]
    for kept, batches in ((wide, [0.15]), (wide[:2] + wide[4:], [0.2, 4.5])):
        found = evaluate_texts([Method("m", tuple(kept))])["methods"][0]["seconds_per_token"]
        assert found["range"] == pytest.approx([batches[0], batches[-1]])
    untimed = Method("m", (*texts, written(9, "x", tokens=(1,))))
    row = evaluate_texts([untimed])["methods"][0]
    assert "seconds_per_token" not in row and "calls_per_token" not in row


def test_perplexity_is_the_oracles():
    oracle = model()
    one = Method("one", tuple(Written("so", text) for text in (" good", "", " it is bad")))
    other = Method("other", tuple(Written("so", text) for text in (" goo", " x", " it is so")))
    report = evaluate_texts([one, other], oracle=oracle)
    log_p, counts = log_likelihoods(oracle, ["so"] * 3, [text.text for text in one.texts])
    row = row_of(report, "one")
    assert row["perplexity"]["value"] == pytest.approx(np.exp(-log_p.sum() / counts.sum()))
    low, high = row["perplexity"]["interval"]
    assert low <= row["perplexity"]["value"] <= high
    theirs, lengths = log_likelihoods(oracle, ["so"] * 3, [text.text for text in other.texts])
    both = [0, 2]
    expected = signed_rank((theirs / lengths)[both], log_p[both] / counts[both])
    assert row_of(report, "other")["paired"]["perplexity_p"] == pytest.approx(expected)


def test_a_discriminator_reads_the_continuation_alone_and_whole():
    asked = []

    def judge(texts):
        asked.extend(texts)
        return [min(0.9, len(text) / 20) for text in texts]

    tokenizer = model().tokenizer
    loaded = host_function(judge, classes=("short", "long"), tokenizer=tokenizer)
    found = DiscriminatorJudge(model(), loaded, batch=2).predict_proba([" abc", "", "abcdefg  "])
    np.testing.assert_allclose(found[:, 1], [4 / 20, 0.5, 8 / 20], atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    assert not any("\n" in text for text in asked)
    assert DiscriminatorJudge(model(), guide()).predict_proba([]).shape == (0, 2)


def test_mauve_is_asked_with_features(monkeypatch):
    heard = []

    def compute_mauve(**options):
        heard.append(options)
        return SimpleNamespace(mauve=0.5)

    monkeypatch.setitem(sys.modules, "mauve", SimpleNamespace(compute_mauve=compute_mauve))
    report = evaluate_texts(
        [GREEDY], reference=["human"], features=lambda texts: np.full((len(texts), 2), len(texts))
    )
    assert report["methods"][0]["mauve"]["value"] == 0.5
    assert (heard[0]["p_features"] == 8).all() and heard[0]["q_features"].shape == (1, 2)
    monkeypatch.setitem(sys.modules, "mauve", None)
    with pytest.raises(UserError, match="pip install mauve-text"):
        evaluate_texts([GREEDY], reference=["human"], features=lambda texts: np.zeros((1, 2)))


@pytest.mark.parametrize(
    ("methods", "options", "told"),
    [
        ([GREEDY, GREEDY], {}, "two methods are called greedy: name one of them as NAME=FILE"),
        ([GREEDY], {"against": "x"}, "no method 'x' to compare with: greedy"),
        ([replace(GREEDY, texts=(Written("a", "b"),))], {}, "say no target"),
        (
            [replace(GREEDY, texts=(Written("a", "b", "joy"),))],
            {},
            "'joy', and the judge knows",
        ),
    ],
)
def test_mistakes_are_told(methods, options, told):
    with pytest.raises(UserError, match=told):
        evaluate_texts(methods, judge=Words(), **options)


TABLE = [["method", "a|b"], ["x_1", "12 %"], ["longer", "3"]]


def test_tables():
    assert render(TABLE, "text") == "method   a|b\nx_1     12 %\nlonger     3\n"
    assert render(TABLE, "markdown") == (
        "| method | a\\|b |\n| --- | ---: |\n| x_1 | 12 % |\n| longer | 3 |\n"
    )
    assert render(TABLE, "latex") == (
        "\\begin{tabular}{lr}\n\\toprule\nmethod & a|b \\\\\n\\midrule\n"
        "x\\_1 & 12 \\% \\\\\nlonger & 3 \\\\\n\\bottomrule\n\\end{tabular}\n"
    )


def test_what_is_nowhere_known_has_no_column(tmp_path):
    report = evaluate_texts([GREEDY, GUIDED], judge=Words())
    head, greedy, guided = cells(report)
    assert head[:3] == ["method", "texts", "accuracy"] and "s/token" not in head
    assert head[-1] == "p (accuracy)" and (greedy[-1], guided[-1]) == ("-", "0.016")
    low, high = wilson_interval(7, 9)
    assert guided[2] == f"0.778 [{low:.3f}, {high:.3f}]"
    with pytest.raises(UserError, match="there is nothing to draw"):
        draw(report, tmp_path / "x.png")
    timed = replace(GREEDY, texts=tuple(replace(text, seconds=0.1) for text in GREEDY.texts))
    draw(evaluate_texts([timed], judge=Words()), tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_tells_what_is_unknown():
    texts = (written(0, "one"),)
    head, row = cells(evaluate_texts([Method("m", texts)]))
    assert row[head.index("5-self-BLEU")] == "-"
    assert math.isclose(mcnemar([1], [0]), 1)
