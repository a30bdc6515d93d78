"""Every decoder writes on the toy language what it wrote when this was recorded."""

import pytest

from tests.goldens.comparing import differences, recorded
from tests.goldens.decoder_cases import CASES, figures

RECORDED = recorded("decoders")


def test_every_case_is_recorded():
    assert set(CASES) == set(RECORDED)


@pytest.mark.parametrize("name", CASES)
def test_a_decoder_writes_what_was_recorded(name):
    assert differences(figures(name), RECORDED[name]) == []
