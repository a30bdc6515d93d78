"""The README's commands write on the default model what they wrote when this was recorded."""

import pytest

from tests.goldens.comparing import CLOSE, differences, recorded
from tests.goldens.readme_cases import FAR, GENERATE, processor, written

pytestmark = pytest.mark.default_model

RECORDED = recorded("readme")


def test_every_command_is_recorded():
    assert set(RECORDED) == {"processor", *GENERATE}


@pytest.mark.parametrize("line", GENERATE)
def test_a_command_writes_what_was_recorded(line, tmp_path):
    close = CLOSE if processor() == RECORDED["processor"] else FAR
    assert differences(written(line, tmp_path), RECORDED[line], close=close) == []
