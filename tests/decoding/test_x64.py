"""Decoding where JAX's numbers have 64 bits: the same texts."""

import json
import os
import subprocess
import sys

import pytest

from coopgen_jax.decoding.decode import DECODERS
from tests.decoding import x64_texts

EVERY = {**x64_texts.METHODS, **x64_texts.OF_NETWORKS}
# Methods that count in integers of their own and compile fast.
COUNTING = ("beam", "stochastic beam", "blockwise", "das", "residual smc")
OTHERS = tuple(name for name in EVERY if name not in COUNTING)


def test_every_method_has_its_case():
    assert {type(config) for config in EVERY.values()} == set(DECODERS)


@pytest.mark.parametrize("names", [COUNTING, pytest.param(OTHERS, marks=pytest.mark.slow)])
def test_methods_write_the_same_texts_with_64_bit_numbers(names):
    command = [sys.executable, "-W", "error", "-m", "tests.decoding.x64_texts", *names]
    environment = {**os.environ, "JAX_ENABLE_X64": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        expected = x64_texts.all_texts(names)
        found = json.loads(process.communicate()[0])
    assert found["wide"]
    for name, texts in expected.items():
        assert found["texts"][name] == texts, name
