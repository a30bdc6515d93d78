"""What is written of a head: half precision where it does no harm, and a temperature that stays."""

import json

import numpy as np
from safetensors.numpy import load_file

from coopgen_jax.training.card import save_head, write_card

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


def test_a_page_has_a_table_of_accuracy_and_one_of_rounds(tmp_path):
    entry = {"round": 0, "rows": 0, "guide": 0.9, "teacher": 0.5, "gap": 0.4, "agreement": 0.75}
    length = {"guide": 0.6, "teacher": 0.5, "error": 0.1, "error_before": 0.2}
    report = {"search": "mcts", "rounds": [entry], "by_tokens_read": {"1-4": length}}
    accuracy = {"validation": {"1": 0.5, "whole": 1.0}}
    write_card(tmp_path, {"kind": "x", "accuracy": accuracy, "on_policy": report})
    page = (tmp_path / "card.md").read_text().split("\n")
    for line in (
        "- **kind**: x",
        "| 1 | whole |",
        "| 0.500 | 1.000 |",
        "- **search**: mcts",
        "| 0 | 0 | 0.900 | 0.500 | 0.400 | 0.750 |",
        "| 1-4 | 0.600 | 0.500 | 0.100 | 0.200 |",
    ):
        assert line in page
    assert not any("by_tokens_read" in line for line in page)
