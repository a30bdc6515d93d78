"""The page and the chart of an explanation."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from coopgen_jax.errors import UserError
from coopgen_jax.explanation.explained import explain_texts
from coopgen_jax.explanation.explanation_page import bar_chart, render_explanation, sentence
from coopgen_jax.explanation.surrogate import SurrogateSettings
from tests.explanation.small_explanation import CLASSES, LABELS, TEXTS, made


class Reader(HTMLParser):
    """The tags of a page, checked to be closed in their order, and its text."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def read(page):
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


def test_the_page_has_words_with_bars_texts_with_marks_and_what_it_cost():
    page = render_explanation(made(), top=3, contrast=CLASSES, title="A <title>")
    reader = read(page)
    assert "__" not in re.sub(r"<style>.*?</style>", "", page, flags=re.S)
    for part in ("A <title>", *CLASSES, "sun", "moon", "+1.25", "seconds", "4,000", "tiny"):
        assert part in reader.text, part
    assert f"{CLASSES[0]} against {CLASSES[1]}" in reader.text
    bars = [attrs for tag, attrs in reader.tags if attrs.get("class") == "bar"]
    assert len(bars) >= 8 and all(re.fullmatch(r"--w:[01]\.\d{3}", bar["style"]) for bar in bars)
    ranges = [attrs["style"] for _, attrs in reader.tags if attrs.get("class") == "range"]
    for style in ranges:
        low, high = map(float, re.findall(r"[\d.]+", style))
        assert 0 <= low <= high <= 1
    assert [attrs for tag, attrs in reader.tags if attrs.get("class") == "still"]
    assert reader.text.count("sun") > 6, "the marked word stays in its texts"


def test_the_page_needs_nothing_else_and_runs_nothing():
    reader = read(render_explanation(made()))
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in reader.tags}
    assert not [attrs for _, attrs in reader.tags if {"src", "href"} & attrs.keys()]
    assert "<script>alert(1)</script>" in reader.text


def test_a_title_that_looks_like_a_mark_is_a_title():
    reader = read(render_explanation(made(), title="__SETTINGS__ of __WORDS__"))
    assert "__SETTINGS__ of __WORDS__" in reader.text
    assert reader.text.count("simulations") == 1


def test_without_intervals_and_reactions_there_are_none():
    plain = explain_texts(
        TEXTS, LABELS, np.full((12, 2), 0.5), CLASSES, SurrogateSettings(bootstrap=0, unseen=0.0)
    )
    reader = read(render_explanation(plain))
    assert not [attrs for _, attrs in reader.tags if attrs.get("class") in ("range", "still")]
    assert "unseen" not in sentence(plain)


def test_a_contrast_of_an_unknown_class_is_told():
    with pytest.raises(UserError, match="there is no class grey"):
        render_explanation(made(), contrast=("grey", CLASSES[0]))


def test_the_chart_has_the_words_and_their_weights():
    found = made()
    figure = bar_chart(found, top=2)
    assert [axes.get_title() for axes in figure.axes] == list(CLASSES)
    axes = figure.axes[0]
    words = found.top_words(CLASSES[0], 2)[::-1]
    assert [label.get_text() for label in axes.get_yticklabels()] == [word.term for word in words]
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == pytest.approx([word.weight for word in words])
