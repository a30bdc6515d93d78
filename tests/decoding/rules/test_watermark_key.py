"""Key files: who can read them, what is refused, and that no message gives the secret away."""

import dataclasses
import json
import math
import os
import re
import stat
import traceback
import warnings

import pytest

from coopgen_jax.decoding.rules.watermark import Watermark
from coopgen_jax.decoding.rules.watermark_key import WatermarkKey, load_key, new_key, save_key
from coopgen_jax.errors import UserError
from tests.byte_tokenizer import make_tokenizer

SECRET = (0xDEADBEEF, 0x01234567, 0x89ABCDEF, 0x0BADF00D)
HEX = "deadbeef0123456789abcdef0badf00d"
posix = pytest.mark.skipif(os.name == "nt", reason="modes of files are POSIX's")


def make_key(**changes: object) -> WatermarkKey:
    key = WatermarkKey(Watermark(), SECRET, 258, make_tokenizer().identity, "bytes")
    return dataclasses.replace(key, **changes)


def gives_away(text: str) -> bool:
    words = [*map(str, SECRET), *(HEX[at : at + 8] for at in range(0, 32, 8))]
    return any(word in text.lower() for word in words)


@pytest.mark.parametrize(
    "watermark",
    [
        Watermark(),
        Watermark(delta=math.inf, gamma=0.1),
        Watermark("gumbel", window=0, mark_repeats=True),
        Watermark("tournament", window=2, layers=7),
    ],
)
def test_a_key_comes_back_from_its_file(tmp_path, watermark):
    key = new_key(watermark, tokenizer=make_tokenizer(), vocab_size=300, model="some/model")
    save_key(key, tmp_path / "key.json")
    assert load_key(tmp_path / "key.json") == key
    assert load_key(str(tmp_path / "key.json")).identity == key.identity
    text = (tmp_path / "key.json").read_text()
    assert "Infinity" not in text and [path.name for path in tmp_path.iterdir()] == ["key.json"]


def test_every_new_key_has_another_secret():
    keys = [
        new_key(Watermark(), tokenizer=make_tokenizer(), vocab_size=258, model="m")
        for _ in range(4)
    ]
    assert len({word for key in keys for word in key.secret}) == 16


def test_the_identity_is_of_the_secret_and_the_settings():
    key = make_key()
    others = [
        make_key(secret=(*SECRET[:3], 1)),
        make_key(watermark=Watermark(delta=2.5)),
        make_key(vocab_size=259),
        make_key(tokenizer="0" * 64),
    ]
    assert re.fullmatch("[0-9a-f]{12}", key.identity)
    assert len({key.identity, *(other.identity for other in others)}) == 5
    assert make_key(model="elsewhere").identity == key.identity
    assert not gives_away(f"{key!r} {key} {key.identity}")


def test_a_key_is_for_one_tokenizer():
    make_key().check(make_tokenizer())
    with pytest.raises(UserError, match=r"tokens of bytes.*give the tokenizer of bytes"):
        make_key(tokenizer="0" * 64).check(make_tokenizer())


@posix
def test_the_owner_alone_can_read_a_key_file(tmp_path):
    path = tmp_path / "key.json"
    before = os.umask(0)
    try:
        save_key(make_key(), path)
        save_key(make_key(), path, overwrite=True)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_key(path)
    for mode in (0o644, 0o640, 0o602):
        path.chmod(mode)
        with pytest.warns(UserWarning, match=f"run chmod 600 {re.escape(str(path))}") as told:
            assert load_key(path) == make_key()
        assert not gives_away(str(told[0].message))


@posix
def test_a_key_is_closed_to_others_before_it_has_content(tmp_path, monkeypatch):
    modes = []

    def sync(handle: int) -> None:
        modes.append(stat.S_IMODE(os.fstat(handle).st_mode))

    monkeypatch.setattr(os, "fsync", sync)
    save_key(make_key(), tmp_path / "key.json")
    assert modes == [0o600]


def no_links(*_: object) -> None:
    raise PermissionError("no links here")


@pytest.mark.parametrize("links", [True, False])
def test_a_key_file_is_never_overwritten_unasked(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr("pathlib.Path.hardlink_to", no_links)
    path = tmp_path / "key.json"
    save_key(make_key(), path)
    before = path.read_bytes()
    other = make_key(secret=(1, 2, 3, 4))
    with pytest.raises(UserError, match="exists, and texts marked with a lost key") as told:
        save_key(other, path)
    assert path.read_bytes() == before and not gives_away(str(told.value))
    save_key(other, path, overwrite=True)
    assert load_key(path) == other
    assert [path.name for path in tmp_path.iterdir()] == ["key.json"]


def test_a_key_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="is a folder"):
        save_key(make_key(), tmp_path)
    with pytest.raises(UserError, match="cannot be written"):
        save_key(make_key(), tmp_path / "none" / "key.json")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        save_key(make_key(), tmp_path / "key.json")
    assert list(tmp_path.iterdir()) == []


def changed(**entries: object) -> str:
    """Returns a key file's text with other entries, without those that are None."""
    content = {
        "format": "coopgen_jax watermark key",
        "version": 1,
        "watermark": dataclasses.asdict(Watermark()),
        "secret": HEX,
        "vocab_size": 258,
        "tokenizer": "0" * 64,
        "model": "bytes",
    }
    content |= entries
    return json.dumps({name: value for name, value in content.items() if value is not None})


def mark(**entries: object) -> str:
    settings = dataclasses.asdict(Watermark()) | entries
    kept = {name: value for name, value in settings.items() if value is not None}
    return changed(watermark=kept)


FAULTS = {
    "": "not a JSON object",
    changed()[:-20]: "not a JSON object",
    changed() + "}": "not a JSON object",
    f'["{HEX}"]': "not a JSON object",
    "[" * 100_000: "not a JSON object",
    f'{{"secret": "{HEX}"}}': "no watermark key",
    changed(format=HEX): "no watermark key",
    changed(version=2): "another version than 1",
    changed(version=True): '"version" is not a whole number',
    changed(version=None): '"version" is missing',
    changed(watermark=None): '"watermark" is missing',
    changed(watermark=HEX): '"watermark" is not an object',
    changed(secret=None): '"secret" is missing',
    changed(secret=HEX[:-1]): '"secret" is not 32 hexadecimal digits',
    changed(secret=HEX + "0"): '"secret" is not 32 hexadecimal digits',
    changed(secret="x" + HEX[1:]): '"secret" is not 32 hexadecimal digits',
    changed(secret=list(SECRET)): '"secret" is not a text',
    changed(vocab_size=0): '"vocab_size" is not a number from 1',
    changed(vocab_size=2**31 + 1): '"vocab_size" is not a number from 1',
    changed(vocab_size=258.0): '"vocab_size" is not a whole number',
    changed(tokenizer=5): '"tokenizer" is not a text',
    changed(model=None): '"model" is missing',
    mark(scheme=HEX): '"scheme" is none of greenlist, gumbel, permute-flip, tournament',
    mark(scheme=None): '"scheme" is missing',
    mark(window=9): "window is 9: give 0 to 8 tokens",
    mark(window="4"): '"window" is not a whole number',
    mark(layers=33): "layers is 33",
    mark(gamma=0.0): "gamma is 0.0",
    mark(gamma="infinity"): "gamma is inf",
    mark(gamma=HEX): '"gamma" is not a number',
    mark(gamma=True): '"gamma" is not a number',
    mark(delta=-1): "delta is -1",
    mark(delta=math.nan): '"delta" is not a number',
    mark(delta=math.inf): '"delta" is not a number',
    mark(delta=10**400): '"delta" is too large',
    mark(mark_repeats=1): '"mark_repeats" is not true or false',
    mark(scheme="tournament", window=0): "every window would be a repeat",
}


@pytest.mark.parametrize("text", FAULTS, ids=[str(place) for place in range(len(FAULTS))])
def test_a_fault_of_a_key_file_is_one_sentence_without_the_secret(tmp_path, text):
    path = tmp_path / "key.json"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(UserError, match=re.escape(FAULTS[text])) as told:
        load_key(path)
    message = str(told.value)
    assert str(path) in message and "\n" not in message and ". " not in message
    # The whole chain, as a log would have it.
    chain = traceback.TracebackException.from_exception(told.value)
    assert chain.exc_type is UserError
    while chain is not None:
        assert not gives_away("".join(chain.format_exception_only()))
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)


def test_what_is_no_file_of_text(tmp_path):
    with pytest.raises(UserError, match=r"there is no key file .*none\.json"):
        load_key(tmp_path / "none.json")
    with pytest.raises(UserError, match="is a folder"):
        load_key(tmp_path)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00" * 9)
    (tmp_path / "bytes").chmod(0o600)
    with pytest.raises(UserError, match="not a JSON object"):
        load_key(tmp_path / "bytes")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"secret": (1, 2, 3)}, "four words"),
        ({"secret": (*SECRET[:3], 2**32)}, "four words"),
        ({"secret": (*SECRET[:3], -1)}, "four words"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"vocab_size": 2**31 + 1}, "vocab_size"),
    ],
)
def test_a_key_is_checked_when_it_is_made(changes, why):
    with pytest.raises(UserError, match=why) as told:
        make_key(**changes)
    assert not gives_away(str(told.value))
