"""A training's claim to a folder: nothing else is trained there, and no other model is lost."""

import hashlib
import json
import secrets
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from coopgen_jax.errors import UserError
from coopgen_jax.files import read_json, write_json

# Seconds until a file of another machine is taken for one that this machine does not see.
PATIENCE = 60.0


def claim(
    folder: Path,
    kind: str,
    source: str,
    config: Any,
    rows: tuple[Any, Any],
    **more: Any,
) -> None:
    """Notes in a folder what is trained there, or checks that it is the same.

    Several processes that train as one find out that they train the same in the same folder.

    Args:
      folder: the training's.
      kind: of what is trained.
      source: hash of the weights that it begins with or stands on.
      config: how it is trained, a dataclass with a `loop`.
      rows: what it learns from and is validated on, dataclasses.
      more: what else decides what comes out.

    Raises:
      UserError: something else is trained there, it holds a model that no training of this library
        has begun there, it cannot be written, or processes differ in what they train or where.
    """
    digest = hashlib.sha256(json.dumps([asdict(part) for part in rows]).encode()).hexdigest()
    wanted: dict[str, Any] = {"kind": kind, "model_sha256": source, "rows_sha256": digest}
    wanted |= json.loads(json.dumps(asdict(config) | more))
    agree(wanted)
    # How long one run lasts, and where its moments lie, changes nothing about what comes out.
    del wanted["loop"]["budget_minutes"], wanted["sharded_optimiser"]
    path = folder / "training.json"
    if path.is_file():
        found = read_json(path, way_out="put a whole copy in its place, or give another folder")
        other = {name for name, value in wanted.items() if found.get(name) != value}
        rates = {"learning_rate", "judge_learning_rate"}
        # The rates that nobody has chosen depend on what is trained.
        if "lora" in other and other <= {"lora", *rates} and not found.get("lora"):
            raise UserError(
                f"{folder} holds a training of everything: give --rank 0 to go on with it"
            )
        if other:
            raise UserError(
                f"{folder} holds a training with another {_difference(found, wanted)}: give an "
                "empty folder, or the settings and data that it was begun with"
            )
    else:
        _check_empty(folder)
        if jax.process_index() == 0:
            write_json(path, wanted)
    _check_shared(folder)


def agree(settings: dict[str, Any]) -> None:
    """Finds out that processes which train as one were told the same.

    Args:
      settings: plain values.

    Raises:
      UserError: they were not.
    """
    if jax.process_count() > 1:
        digest = hashlib.sha256(json.dumps(settings).encode()).digest()
        found = multihost_utils.process_allgather(np.frombuffer(digest, np.uint8))
        if (found != found[0]).any():
            raise UserError(
                "the machines were given different settings, texts or models: start all of them "
                "with the same command and the same files"
            )


def _check_shared(folder: Path) -> None:
    """Raises UserError where processes that train as one do not see the same folder."""
    if jax.process_count() == 1:
        return
    number = multihost_utils.broadcast_one_to_all(np.int32(secrets.randbits(30)))
    mark = folder / f".shared-{number}"
    if jax.process_index() == 0:
        mark.touch()
    multihost_utils.sync_global_devices("marked")
    # A folder that is shared by a network may show a new file late.
    end = time.monotonic() + PATIENCE
    while not (seen := mark.is_file()) and time.monotonic() < end:
        time.sleep(1.0)
    all_see = multihost_utils.process_allgather(np.asarray(seen)).all()
    if jax.process_index() == 0:
        mark.unlink()
    if not all_see:
        raise UserError(
            f"{folder} is not the same folder on all machines: give one that all of them see"
        )


def _check_empty(folder: Path) -> None:
    """Raises UserError where a folder that no training has claimed holds a model or a head."""
    files = [folder / "config.json", folder / "card.json", *sorted(folder.glob("*.safetensors"))]
    if found := next((path.name for path in files if path.exists()), None):
        raise UserError(
            f"{folder} holds a model already ({found}), which a training would write over: give "
            "another folder"
        )


def _difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Returns the name of a setting that differs, and both its values."""
    pairs = ((name, found.get(name), value) for name, value in wanted.items())
    different = [one for pair in pairs for one in _differences(*pair)]
    # Settings of two kinds say less than a name that tells the kinds apart.
    different.sort(key=lambda one: isinstance(one[1], dict) and isinstance(one[2], dict))
    name, there, asked = different[0]
    if name.endswith("_sha256"):
        said = {"rows_sha256": "set of texts", "judge_sha256": "model for the discriminator"}
        return said.get(name, "model to begin with")
    name = name.replace("_", " ")
    if isinstance(there, dict) and isinstance(asked, dict):
        return name
    return f"{name} ({_said(there)}, and {_said(asked)} is asked for)"


def _differences(name: str, found: Any, wanted: Any) -> list[tuple[str, Any, Any]]:
    """Returns the names and both values of what differs, from the inside where fields are alike."""
    if isinstance(found, dict) and isinstance(wanted, dict) and found.keys() == wanted.keys():
        return [
            one
            for field, value in wanted.items()
            for one in _differences(f"{name} {field}", found[field], value)
        ]
    return [] if found == wanted else [(name, found, wanted)]


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return "some"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
