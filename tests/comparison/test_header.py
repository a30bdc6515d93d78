"""Headers name settings as those of commit 67dcb48 do, so that older files are gone on with."""

import json
from pathlib import Path

import pytest

from coopgen_jax.cli.compare_methods import runs_of
from coopgen_jax.cli.compare_options import CompareOptions
from coopgen_jax.comparison.header import method_of, settings_of
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.decoding.names_on_disc import settings_on_disc
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.decoding.rules.watermark import Watermark
from coopgen_jax.files import to_json

HERE = Path(__file__).parent
# The settings in the headers of `coopgen compare --seed 3 --batch-size 4 --new-tokens 8 --target
# good bad`, by method; made at commit 67dcb48.
SETTINGS = json.loads((HERE / "settings.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("method", SETTINGS)
def test_settings_have_the_names_that_older_files_have(method):
    options = CompareOptions(
        method, Path("x"), target=("positive", "negative"), new_tokens=8, seed=3, batch_size=4
    )
    (run,) = runs_of(options)
    found = settings_of(
        run.config, target=["good", "bad"], seed=3, batch_size=4, dtype="float32", chat=False,
        method=run.method, preset=run.preset, steering=run.steering, reference=run.reference,
    )  # fmt: skip
    found |= {"kept": "one by weight"} if run.config.weighted else {}
    found = {name: value for name, value in found.items() if (name, value) != ("reference", None)}
    assert json.loads(to_json(found)) == SETTINGS[method]


@pytest.mark.parametrize("method", SETTINGS)
def test_a_config_tells_the_name_of_its_method(method):
    (run,) = runs_of(CompareOptions(method, Path("x"), target=("positive",)))
    greedy = {"greedy": "sample"}
    assert method_of(run.config) == greedy.get(str(run.method), run.method)


def test_a_watermark_is_named_by_its_settings():
    plain = settings_on_disc(SamplingConfig())
    hard = Watermark(window=2, delta=float("inf"))
    marked = settings_on_disc(SamplingConfig(rules=Rules(watermark=hard)))
    assert marked == plain | {
        "watermark": {
            "scheme": "greenlist", "window": 2, "gamma": 0.25, "delta": "infinity", "layers": 30,
            "mark_repeats": False,
        }
    }  # fmt: skip
    assert json.loads(to_json(marked)) == json.loads(to_json(plain)) | {
        "watermark": marked["watermark"]
    }
