"""What is written of a head: half precision where it does no harm, and a temperature that stays."""

import json

import numpy as np
from safetensors.numpy import load_file

from coopgen_jax.training.card import save_head

PARAMS = {
    "entrance": {
        "centre": np.float32([4097.3]),
        "scale": np.float32([3e5]),
        "projection": {"kernel": np.float32([[0.1]]), "bias": np.float32([0.2])},
    },
    "log_prior": np.float32([-0.1, -2.4]),
}
CARD = {"kind": "test", "name": "ä"}


def test_standardisations_and_priors_are_kept_in_single_precision(tmp_path):
    save_head(tmp_path / "head", PARAMS, CARD)
    stored = load_file(tmp_path / "head" / "head.safetensors")
    kinds = {name: array.dtype.name for name, array in stored.items()}
    assert kinds == {
        "entrance.centre": "float32",
        "entrance.scale": "float32",
        "entrance.projection.kernel": "float16",
        "entrance.projection.bias": "float16",
        "log_prior": "float32",
    }
    assert stored["entrance.scale"] == PARAMS["entrance"]["scale"]
    assert not list((tmp_path / "head").glob("*.part"))


def test_a_temperature_stays_with_the_weights_that_it_is_of(tmp_path):
    save_head(tmp_path, PARAMS, CARD)
    path = tmp_path / "card.json"
    path.write_text(json.dumps(CARD | {"temperature": 1.7}))
    save_head(tmp_path, PARAMS, CARD)
    assert json.loads(path.read_text(encoding="utf-8")) == CARD | {"temperature": 1.7}
    save_head(tmp_path, PARAMS | {"log_prior": np.float32([0, 0])}, CARD)
    assert json.loads(path.read_text(encoding="utf-8")) == CARD
