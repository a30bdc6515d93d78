"""Marked sampling compiled for a TPU that is not there: a mark adds no sort and no host call."""

import json

import pytest

from tests.tpu import last_line_of, needs_libtpu


@pytest.mark.slow
@needs_libtpu
def test_a_mark_adds_no_sort_and_no_host_call():
    found = json.loads(last_line_of("tests.watermark.marked_programs"))
    # What is counted is there to be counted.
    assert found.pop("n-grams")["sorts"] > 0
    for name, row in found.items():
        base = found["unmarked, top 50" if "top 50" in name else "unmarked"]
        assert row == base and row["host"] == 0, (name, found)
