"""Every decoder writes on the toy language what it wrote when this was recorded."""

from dataclasses import fields
from typing import Any

import jax
import numpy as np
import pytest

from tests.goldens.comparing import differences, plain, recorded
from tests.goldens.decoder_cases import CASES, written

FIELDS = (
    "tokens", "length", "log_prob", "log_proposal", "log_weight", "log_class", "simulations",
    "model_tokens",
)  # fmt: skip


def figures(name: str) -> dict[str, Any]:
    """Returns a case's record as JSON."""
    generation = jax.device_get(written(name))
    assert set(FIELDS) <= {field.name for field in fields(generation)}
    return plain({field: np.asarray(getattr(generation, field)).tolist() for field in FIELDS})


RECORDED = recorded("decoders")


def test_every_case_is_recorded():
    assert set(CASES) == set(RECORDED)


@pytest.mark.parametrize("name", CASES)
def test_a_decoder_writes_what_was_recorded(name):
    assert differences(figures(name), RECORDED[name]) == []
