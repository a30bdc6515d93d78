"""`python -m tests.goldens.record [NAME ...]` writes the records anew, by the code as it is.

They are there to stay the same: record anew only what is meant to change, and say why.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.conftest import QUICK, SAME
from tests.goldens.comparing import FOLDER, record

NAMES = ("decoders", "commands", "resolved", "readme", "chain")


def timed(what, names):
    """Returns what there is of every name, and says how long each has taken."""
    found = {}
    for name in names:
        start = time.perf_counter()
        found[name] = what(name)
        print(f"{time.perf_counter() - start:6.2f} {name}", file=sys.stderr, flush=True)
    return found


def decoders():
    from tests.goldens import decoder_cases

    return timed(decoder_cases.figures, decoder_cases.CASES)


def commands():
    from tests.goldens import command_cases

    return timed(command_cases.written, command_cases.LINES)


def resolved():
    """Returns what command lines resolve to."""
    from tests.goldens.flat import comparing, generating
    from tests.goldens.resolved_cases import COMPARE, GENERATE

    os.chdir(FOLDER)
    found = {f"generate {line}": generating(f"text {line}") for line in GENERATE}
    targets = "--target positive negative"
    methods = {f"compare {line}": f"text --methods '{line}' {targets}" for line in COMPARE}
    return found | {name: comparing(line) for name, line in methods.items()}


def readme():
    from tests.goldens import readme_cases

    with tempfile.TemporaryDirectory() as folder:
        found = timed(lambda line: readme_cases.written(line, Path(folder)), readme_cases.GENERATE)
    return {"processor": readme_cases.processor(), **found}


def chain():
    from tests.goldens import readme_cases

    with tempfile.TemporaryDirectory() as folder:
        return readme_cases.chain(Path(folder))


def main(names):
    """Records in a process for each, since how programs are compiled is settled at its start."""
    if len(names) > 1:
        for name in names:
            subprocess.run([sys.executable, "-m", "tests.goldens.record", name], check=True)
        return
    # As the tests compile: programs that are compiled otherwise round otherwise.
    quick = "" if names[0] in ("readme", "chain") else QUICK
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {SAME} {quick}".strip()
    record(names[0], globals()[names[0]]())


if __name__ == "__main__":
    main(sys.argv[1:] or NAMES)
