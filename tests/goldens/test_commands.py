"""`coopgen generate` writes on tiny networks what it wrote when this was recorded."""

import pytest

from tests.goldens.command_cases import LINES, written
from tests.goldens.comparing import differences, recorded

RECORDED = recorded("commands")


def test_every_command_line_is_recorded():
    assert list(LINES) == list(RECORDED)


@pytest.mark.parametrize("line", LINES)
def test_a_command_line_writes_what_was_recorded(line):
    assert differences(written(line), RECORDED[line]) == []
