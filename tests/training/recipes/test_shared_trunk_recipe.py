"""The standardisation of a shared trunk's inputs against means and deviations by hand."""

import numpy as np
import pytest

from coopgen_jax.data.batches import BatchConfig
from coopgen_jax.errors import UserError
from coopgen_jax.training.loop import LoopConfig
from coopgen_jax.training.recipes.shared_trunk_recipe import TrunkConfig, _standard
from coopgen_jax.training.run import RecipeConfig, Rows

TABLE = (np.random.default_rng(0).normal(2, 3, (12, 2, 5)) * [1, 9, 1, 1, 0]).astype(np.float16)
# A batch holds every row, so that each is counted as often as any other.
ROWS = Rows([[0, 1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11]], [0, 1, 0])
CONFIG = RecipeConfig(LoopConfig(1), BatchConfig(rows=3, longest=16, shortest=None), lora=None)


@pytest.mark.parametrize("layers", [0, 1])
def test_inputs_are_standardised_by_what_is_seen_in_training(layers):
    found = _standard(CONFIG, TrunkConfig((1, 2), layers), TABLE, ROWS)
    states = TABLE.astype(np.float64)
    seen = []
    for row in ROWS.ids:
        for end in range(len(row)):
            last, mean = states[row[end]], states[row[: end + 1]].mean(axis=0)
            seen.append(last.ravel() if layers else np.concatenate([last, mean], -1).ravel())
    np.testing.assert_allclose(found["centre"], np.mean(seen, axis=0), rtol=1e-3, atol=1e-5)
    spread = np.std(seen, axis=0)
    moves = spread > 0
    np.testing.assert_allclose(1 / found["scale"][moves], spread[moves], rtol=1e-3)
    # What never changes must not be divided by nothing.
    assert np.isfinite(found["scale"]).all() and not moves.all()


def test_without_taps_there_is_nothing_to_read():
    with pytest.raises(UserError, match="wants taps: give one layer or more"):
        TrunkConfig(())
