"""Training steps compiled for a TPU that is not there: what they keep and what they send."""

import importlib.util
import json
import subprocess
import sys

import pytest

from tests.processes import ROOT, environment

FOR_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="there is no libtpu")
def test_a_step_for_a_tpu_keeps_and_sends_less():
    worker = ROOT / "tests" / "training" / "tpu_worker.py"
    done = subprocess.run(
        [sys.executable, str(worker)], env=environment(1) | FOR_TPU | {"XLA_FLAGS": ""}, cwd=ROOT,
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    kept, default = found["kept"], found["default"]
    assert default["temporary"] < 0.8 * kept["temporary"], found
    # A quarter of parameters and optimiser state, and a device's share of the texts.
    assert default["arguments"] < 0.3 * default["state"], found
    assert set(default["gathered"]) == {"bf16"}, found
