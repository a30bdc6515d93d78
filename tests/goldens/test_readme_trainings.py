"""The README's chain of trainings, and what is done with them, end as they did when recorded."""

import pytest

from tests.goldens.comparing import differences, recorded
from tests.goldens.readme_cases import FAR, chain

pytestmark = [pytest.mark.default_model, pytest.mark.slow]


def test_the_chain_of_trainings_ends_as_it_was_recorded(tmp_path):
    assert differences(chain(tmp_path), recorded("chain"), close=FAR) == []
