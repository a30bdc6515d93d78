"""`python -m tests.goldens.record [NAME ...]` writes the records anew, by the code as it is.

They are there to stay the same: record anew only what is meant to change, and say why.
"""

import os
import sys
import time

from tests.conftest import QUICK

# As the tests compile: programs that are compiled otherwise round otherwise.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}".strip()

from tests.goldens import command_cases, decoder_cases
from tests.goldens.comparing import FOLDER, record
from tests.goldens.flat import comparing, generating
from tests.goldens.resolved_cases import COMPARE, GENERATE


def timed(what, names):
    """Returns what there is of every name, and says how long each has taken."""
    found = {}
    for name in names:
        start = time.perf_counter()
        found[name] = what(name)
        print(f"{time.perf_counter() - start:6.2f} {name}", file=sys.stderr, flush=True)
    return found


def resolved():
    """Returns what command lines resolve to."""
    os.chdir(FOLDER)
    found = {f"generate {line}": generating(f"text {line}") for line in GENERATE}
    targets = "--target positive negative"
    methods = {f"compare {line}": f"text --methods '{line}' {targets}" for line in COMPARE}
    return found | {name: comparing(line) for name, line in methods.items()}


RECORDS = {
    "decoders": lambda: timed(decoder_cases.figures, decoder_cases.CASES),
    "commands": lambda: timed(command_cases.written, command_cases.LINES),
    "resolved": resolved,
}

if __name__ == "__main__":
    for name in sys.argv[1:] or RECORDS:
        record(name, RECORDS[name]())
