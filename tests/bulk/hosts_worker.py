"""`coopgen` in a process of its own, with a tiny model: run by test_hosts.py.

The first argument says what goes wrong: "nothing", "load" or "vanish", on process 1.
"""

import os
import sys

import coopgen_jax.cli.generate as command
from coopgen_jax.bulk import hosts
from coopgen_jax.cli import main
from coopgen_jax.errors import UserError
from tests.parallel.parallel_models import model

hosts.PATIENCE = 4.0


def load(name: str, *, dtype: str):
    if "1" in sys.argv[-1]:
        if sys.argv[1] == "load":
            raise UserError("weights.gguf is damaged")
        if sys.argv[1] == "vanish":
            os._exit(9)
    return model()


command.load = load
command.keep_compilations = lambda folder: None

if __name__ == "__main__":
    sys.exit(main(sys.argv[2:]))
