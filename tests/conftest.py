"""Settings of the whole suite."""

import os

os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--default-model",
        action="store_true",
        help="run the tests of the default language model too; fetches it once (98 MB)",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--default-model"):
        return
    chosen = [item for item in items if "default_model" not in item.keywords]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen
