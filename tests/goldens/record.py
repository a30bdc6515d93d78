"""`python -m tests.goldens.record [NAME ...]` writes the records anew, by the code as it is.

They are there to stay the same: record anew only what is meant to change, and say why.
"""

import os
import sys

from tests.conftest import QUICK

# As the tests compile: programs that are compiled otherwise round otherwise.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}".strip()

from tests.goldens import decoder_cases
from tests.goldens.comparing import record


def decoders() -> None:
    from tests.goldens.test_decoders import figures

    record("decoders", {name: figures(name) for name in decoder_cases.CASES})


RECORDS = {"decoders": decoders}

if __name__ == "__main__":
    for name in sys.argv[1:] or RECORDS:
        RECORDS[name]()
