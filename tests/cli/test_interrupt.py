"""Ctrl-C ends a run within seconds, whatever swallows the exception."""

import signal
import subprocess
import sys
import time

import pytest

from coopgen_jax.cli.interrupt import GRACE
from tests.cli.judging import write_head
from tests.models.model_files import hf_model, save

# A loaded machine starts and ends processes slowly.
SLACK = 10.0
BEGIN = """
import hashlib, time
from coopgen_jax.cli.interrupt import check_interrupt, interruptible
def run():
    print("begun", flush=True)
{body}
try:
    with interruptible():
        run()
except KeyboardInterrupt:
    print("raised", flush=True)
"""
SWALLOWING = """
    while True:
        try:
            time.sleep(0.1)
        except KeyboardInterrupt:
            pass
"""
ASKING = SWALLOWING + "        check_interrupt()\n"
# The interpreter stands still, as it does while a program is compiled.
STANDING = '    hashlib.pbkdf2_hmac("sha256", b"a", b"b", 2**31 - 1)\n'
TURNING = """
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        raise RuntimeError("JAX reports the exception of a callback") from None
"""


def interrupted(command: list[str], begun: str, *, times: int = 1, wait: float = 0.3):
    """Runs a command, and presses Ctrl-C a moment after it has printed `begun`."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        seen = ""
        while begun not in seen:
            line = process.stdout.readline()
            assert line, seen
            seen += line
        time.sleep(wait)
        start = time.monotonic()
        for _ in range(times):
            process.send_signal(signal.SIGINT)
            time.sleep(0.2)
        try:
            rest, _ = process.communicate(timeout=GRACE + SLACK)
        except subprocess.TimeoutExpired:
            process.kill()
            pytest.fail("the run goes on")
    return process.returncode, seen + rest, time.monotonic() - start


@pytest.mark.parametrize(
    ("body", "times", "status", "told", "least"),
    [
        (SWALLOWING, 1, 130, "coopgen: interrupted", GRACE),
        (STANDING, 1, 130, "coopgen: interrupted", GRACE),
        (STANDING, 2, 130, "coopgen: interrupted", 0.0),
        (ASKING, 1, 0, "raised", 0.0),
        (TURNING, 1, 0, "raised", 0.0),
    ],
    ids=["swallowed", "standing still", "pressed twice", "asked", "turned into another"],
)
def test_what_swallows_the_exception_does_not_go_on(body, times, status, told, least):
    code = BEGIN.format(body=body)
    found, out, seconds = interrupted([sys.executable, "-c", code], "begun", times=times)
    assert (found, out.splitlines()[-1]) == (status, told)
    assert least <= seconds and "Traceback" not in out
    if times == 2:
        assert seconds < GRACE


@pytest.fixture(scope="module")
def search(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("world")
    save(hf_model("llama"), folder / "base")
    write_head(folder / "guide", folder / "base", 0)
    command = [sys.executable, "-m", "coopgen_jax.cli", "generate", "film", "--target", "good"]
    return [*command, "--model", f"{folder / 'base'}", "--discriminator", f"{folder / 'guide'}"]


def test_ctrl_c_ends_a_search_that_is_compiled(search, tmp_path, monkeypatch):
    monkeypatch.setenv("COOPGEN_CACHE", str(tmp_path))
    status, out, _ = interrupted(search, "compiling the search", wait=1.0)
    assert status == 130 and out.endswith("coopgen: interrupted\n"), out


@pytest.mark.slow
@pytest.mark.parametrize("number", range(10))
def test_ctrl_c_ends_a_search_every_time_of_ten(search, tmp_path, monkeypatch, number):
    monkeypatch.setenv("COOPGEN_CACHE", str(tmp_path))
    # A search that is still going on when the last of them is interrupted, on a fast machine too.
    long = [*search, "--simulations", "1024", "--wave", "1"]
    status, out, _ = interrupted(long, "compiling the search", wait=number / 2)
    assert status == 130 and out.endswith("coopgen: interrupted\n"), out
