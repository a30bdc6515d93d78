"""Tables of tensors in torch's first format: they are read, and nothing that is in them runs."""

import io
import os
import pickle
import pickletools
import subprocess
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from coopgen_jax.errors import UserError
from coopgen_jax.models.pretrained.torch_file import KNOWN, MAGIC, VERSION, TorchFile


def save(table: object, path: Path) -> Path:
    torch.save(table, path, _use_new_zipfile_serialization=False)
    return path


def file_of(table: bytes, path: Path, keys: object = (), storages: bytes = b"") -> Path:
    """Writes a file whose third part is the bytes of a pickle."""
    parts = [MAGIC, VERSION, {"little_endian": True}]
    content = b"".join(pickle.dumps(part, 2) for part in parts) + table
    path.write_bytes(content + pickle.dumps(list(keys), 2) + storages)
    return path


def test_tensors_are_those_that_torch_reads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = torch.randn(4, 6)
    table = OrderedDict(a=torch.randn(3), b=base, c=base.T, d=base[1:, 2], e=torch.tensor(2.5))
    table["number"] = torch.tensor(7)
    # What torch notes of a module's version beside its tensors.
    table._metadata = {"": {"version": 1}}
    found = TorchFile(save(table, tmp_path / "it.pth"))
    for name in "abcde":
        assert found.find(name) == name and found.shape(name) == tuple(table[name].shape)
        np.testing.assert_array_equal(found.read(name), table[name].numpy())
    assert found.find("f") is None
    with pytest.raises(UserError, match=r"tensor 'number' of .* holds whole numbers"):
        found.read("number")


class Runs:
    """What a hostile pickle holds: a call of a function of the writer's choice."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("function", "named"),
    [(os.system, "system"), (os.mkdir, "mkdir"), (subprocess.check_call, "check_call")],
)
def test_nothing_that_a_file_asks_for_is_run(
    function: object, named: str, protocol: int, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    arguments = {
        "system": (f"touch {victim}",),
        "mkdir": (str(victim),),
        "check_call": (["touch", str(victim)],),
    }[named]
    hostile = pickle.dumps({"a": Runs(function, *arguments)}, protocol)
    with pytest.raises(UserError, match=rf"it asks for \w+\.{named}"):
        TorchFile(file_of(hostile, tmp_path / "it.pth"))
    assert not victim.exists()
    # It would have run, had a plain pickle been read.
    pickle.loads(hostile)
    assert victim.exists()


def test_the_other_parts_of_a_file_name_nothing_at_all(tmp_path: Path) -> None:
    path = tmp_path / "it.pth"
    path.write_bytes(pickle.dumps(OrderedDict(), 2))
    with pytest.raises(UserError, match=r"it asks for collections\.OrderedDict"):
        TorchFile(path)
    with pytest.raises(UserError, match=r"it asks for collections\.OrderedDict"):
        TorchFile(file_of(pickle.dumps({}, 2), path, keys=[OrderedDict()]))


def test_what_is_known_cannot_be_changed_by_a_file(tmp_path: Path) -> None:
    # BUILD with two tables of attributes: of an object's dictionary, and of the object itself.
    build = b"\x80\x02c%s\n%s\n(N}U\x01xU\x01ysbt" + b"."
    for module, name in KNOWN:
        own = build.replace(b"(N}", b"N}").replace(b"sbt.", b"s\x86b.")
        content = own % (module.encode(), name.encode())
        assert [op.name for op, *_ in pickletools.genops(content)][-2:] == ["BUILD", "STOP"]
        with pytest.raises(UserError, match="damaged"):
            TorchFile(file_of(content, tmp_path / "it.pth"))
        assert not hasattr(KNOWN[module, name], "x")


def raw(shape: tuple, steps: tuple, offset: int = 0, size: int = 4) -> bytes:
    """A pickle of one tensor, whatever its numbers."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> object:
            kind = torch.FloatStorage
            return ("storage", kind, "0", "cpu", size, None) if value == "here" else None

    class View:
        def __reduce__(self) -> tuple:
            arguments = ("here", offset, shape, steps, False, OrderedDict())
            return torch._utils._rebuild_tensor_v2, arguments

    buffer = io.BytesIO()
    Pickler(buffer, 2).dump({"a": View()})
    return buffer.getvalue()


FOUR = (4).to_bytes(8, "little") + np.arange(4, dtype="<f4").tobytes()


def test_a_tensor_stays_in_its_storage(tmp_path: Path) -> None:
    path = tmp_path / "it.pth"
    whole = TorchFile(file_of(raw((2, 2), (2, 1)), path, ["0"], FOUR))
    np.testing.assert_array_equal(whole.read("a"), [[0, 1], [2, 3]])
    for shape, steps, offset in (
        ((5,), (1,), 0),
        ((2,), (1,), 3),
        ((2,), (-1,), 2),
        ((2,), (1,), -1),
        ((3, 2), (2**63, 2**63), 0),
        ((2, 2), (1,), 0),
        ((0,), (1,), 9),
    ):
        with pytest.raises(UserError, match="damaged"):
            TorchFile(file_of(raw(shape, steps, offset), path, ["0"], FOUR))


def test_a_damaged_file_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = save({"a": torch.randn(50)}, tmp_path / "it.pth")
    content = path.read_bytes()
    others = [content[:cut] for cut in range(0, len(content), 37)]
    others += [b"<html>", pickle.dumps(5), raw((2,), (1,))]
    others.append(file_of(pickle.dumps([1], 2), path).read_bytes())
    others.append(file_of(pickle.dumps({"a": 1}, 2), path).read_bytes())
    others.append(file_of(raw((2,), (1,), size=9), path, ["0"], FOUR).read_bytes())
    torch.save({"a": torch.randn(3)}, path)
    others.append(path.read_bytes())
    for other in others:
        path.write_bytes(other)
        with pytest.raises(UserError, match="damaged") as refused:
            TorchFile(path)
        assert "\n" not in str(refused.value)
