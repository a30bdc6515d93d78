"""The README's commands write on the default model what they wrote when this was recorded."""

import pytest

from tests.goldens.comparing import CLOSE, differences, recorded
from tests.goldens.readme_cases import FAR, GENERATE, processor, written

pytestmark = pytest.mark.default_model

RECORDED = recorded("readme")
# A search with all that is shown of it, prompts from a file, a chat and what takes two models; the
# methods are the same as the toy's in `test_decoders`, which every run checks.
QUICK = ("--trace", "--prompts", "--chat", "--negative-prompt")


def test_every_command_is_recorded():
    assert set(RECORDED) == {"processor", *GENERATE}


@pytest.mark.parametrize(
    "line",
    [
        line if any(flag in line for flag in QUICK) else pytest.param(line, marks=pytest.mark.slow)
        for line in GENERATE
    ],
)
def test_a_command_writes_what_was_recorded(line, tmp_path):
    close = CLOSE if processor() == RECORDED["processor"] else FAR
    assert differences(written(line, tmp_path), RECORDED[line], close=close) == []
