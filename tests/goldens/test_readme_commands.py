"""The README's commands write on the default model what they wrote when this was recorded."""

import pytest

from tests.goldens.comparing import CLOSE, differences, recorded
from tests.goldens.readme_cases import GENERATE, chain, processor, written

pytestmark = pytest.mark.default_model

RECORDED = recorded("readme")
# Another processor adds up in another order; training multiplies what that changes.
FAR = 1e-4


def test_every_command_is_recorded():
    assert set(RECORDED) == {"processor", *GENERATE}


@pytest.mark.parametrize("line", GENERATE)
def test_a_command_writes_what_was_recorded(line, tmp_path):
    close = CLOSE if processor() == RECORDED["processor"] else FAR
    assert differences(written(line, tmp_path), RECORDED[line], close=close) == []


def test_the_chain_of_trainings_ends_as_it_was_recorded(tmp_path):
    assert differences(chain(tmp_path), recorded("chain"), close=FAR) == []
