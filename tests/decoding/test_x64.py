"""Decoding where JAX's numbers have 64 bits: the same texts."""

import json
import os
import subprocess
import sys

from coopgen_jax.decoding.decode import DECODERS
from tests.decoding import x64_texts


def test_every_method_writes_the_same_texts_with_64_bit_numbers():
    asked = (*x64_texts.METHODS.values(), *x64_texts.OF_NETWORKS.values())
    assert {type(config) for config in asked} == set(DECODERS)
    command = [sys.executable, "-W", "error", "-m", "tests.decoding.x64_texts"]
    environment = {**os.environ, "JAX_ENABLE_X64": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        expected = x64_texts.all_texts()
        found = json.loads(process.communicate()[0])
    assert found["wide"]
    for name, texts in expected.items():
        assert found["texts"][name] == texts, name
