"""Training steps compiled for a TPU that is not there: what they keep and what they send."""

import json

import pytest

from tests.tpu import last_line_of, needs_libtpu


@pytest.mark.slow
@needs_libtpu
def test_a_step_for_a_tpu_keeps_and_sends_less():
    found = json.loads(last_line_of("tests.training.tpu_worker"))
    kept, default = found["kept"], found["default"]
    assert default["temporary"] < 0.8 * kept["temporary"], found
    # A quarter of parameters and optimiser state, and a device's share of the texts.
    assert default["arguments"] < 0.3 * default["state"], found
    assert set(default["gathered"]) == {"bf16"}, found
