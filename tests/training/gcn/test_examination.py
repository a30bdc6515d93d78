"""What speaks for a training that collapses."""

from coopgen_jax.training.gcn.examination import unended, warnings_of
from tests.training.gcn.gcn_worker import END, tokenizer

FIRST = {"loss": 3.0, "self_bleu": 0.2, "distinct": 1.0, "relative_length": 0.9}


def test_a_collapse_is_warned_of_early():
    well = {**FIRST, "loss": 3.5, "self_bleu": 0.3, "distinct": 0.6, "relative_length": 0.3}
    assert warnings_of(FIRST, well, {"effective_share": 0.5}) == []
    bad = {**FIRST, "loss": 4.5, "self_bleu": 0.8}
    found = warnings_of(FIRST, bad, {"effective_share": 0.01})
    assert len(found) == 3
    assert "1%" in found[0] and "1.5 nats" in found[1] and "0.20 to 0.80" in found[2]
    assert warnings_of(FIRST, FIRST, {}) == []
    # What was measured before lengths were.
    old = {"loss": 3.0, "self_bleu": 0.2}
    assert warnings_of(old, old, {}) == []


def test_a_collapse_to_texts_without_words_is_warned_of():
    empty = {"loss": 3.49, "self_bleu": 0.0, "distinct": 1 / 64, "relative_length": 0.0}
    alike, short = warnings_of(FIRST, empty, {"length": 1.0, "effective_share": 1.0})
    assert "100% to 2% of them distinct" in alike and "0% of the tokens" in short
    (short,) = warnings_of(FIRST, {**FIRST, "self_bleu": 0.0, "relative_length": 0.2}, {})
    assert "20% of the tokens of human texts" in short
    # Sources that have few answers begin with few.
    few = {**FIRST, "distinct": 0.1}
    assert warnings_of(few, few, {}) == []


def test_what_ends_a_text_is_no_token_of_it():
    assert unended([3, 4, END], tokenizer()) == [3, 4]
    assert unended([3, 4], tokenizer()) == [3, 4]
    assert unended([END], tokenizer()) == unended([], tokenizer()) == []
