"""A training's claim to a folder: nothing else is trained in it, and no other model is lost."""

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
from coopgen_jax.training.folder_lock import lock

# Seconds after which a file of another machine counts as one that this machine does not see.
PATIENCE = 60.0
WAY_OUT = "put a whole copy in its place, or give another folder"
# Names in folders and cards that stay what they were when settings are renamed, by their new names.
KEPT_NAMES = {
    "micro_batches": "pieces",
    "prefixes": "beginnings",
    "discriminator_steps": "judge_steps",
    "first_discriminator_steps": "first_judge_steps",
    "discriminator_rows": "judge_rows",
    "discriminator_learning_rate": "judge_learning_rate",
}


def kept_names(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns settings, nested ones too, under the names that folders and cards keep them by."""
    return {
        KEPT_NAMES.get(name, name): kept_names(value) if isinstance(value, dict) else value
        for name, value in settings.items()
    }


def claim(
    folder: Path, kind: str, source: str, config: Any, rows: tuple[Any, Any], **more: Any
) -> None:
    """Locks a folder, and notes in it what is trained there or checks that it is the same.

    Several processes that train as one check that they train the same in the same folder.

    Args:
      folder: the training's.
      kind: of what is trained.
      source: hash of the weights that the training begins with or reads through.
      config: a dataclass with a `loop`.
      rows: what it is trained and validated on, dataclasses.
      more: other settings that decide what comes out.

    Raises:
      UserError: another process trains in the folder, something else is trained there, it holds a
        model that no training of this library has begun there, it cannot be written, or processes
        differ in what they train or where.
    """
    digest = hashlib.sha256(json.dumps([asdict(part) for part in rows]).encode()).hexdigest()
    wanted: dict[str, Any] = {"kind": kind, "model_sha256": source, "rows_sha256": digest}
    wanted |= kept_names(json.loads(json.dumps(asdict(config) | more)))
    agree(wanted)
    # How long one run lasts, what lies on which device and what is computed twice change nothing
    # about the result.
    del wanted["loop"]["budget_minutes"]
    for name in ("sharded_optimiser", "sharded_parameters", "remat"):
        del wanted[name]
    path = folder / "training.json"
    reserve(folder)
    if path.is_file():
        _check_same(folder, read_json(path, way_out=WAY_OUT), wanted)
    elif jax.process_index() == 0:
        write_json(path, wanted)
    _check_shared(folder)


def reserve(folder: Path, *names: str) -> None:
    """Locks a folder for a training that has begun in it or is going to; see `claim`.

    Raises:
      UserError: it holds a model that no training has begun there, or a training without the
        settings `names`, or another process trains in it.
    """
    check_empty(folder)
    path = folder / "training.json"
    if names and path.is_file():
        found = read_json(path, way_out=WAY_OUT)
        if any(found.get(name) is None for name in names):
            raise UserError(f"{folder} holds a training of another kind: give another folder")
    lock(folder)


def begun_dtype(folder: Path) -> str | None:
    """Returns the dtype of the training that a folder holds, None where it holds none."""
    path = folder / "training.json"
    return read_json(path, way_out=WAY_OUT).get("dtype") if path.is_file() else None


def _check_same(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    other = {name for name, value in wanted.items() if found.get(name) != value}
    # Learning rates that nobody has chosen depend on what is trained.
    rates = {"learning_rate", "judge_learning_rate"}
    if "lora" in other and other <= {"lora", *rates} and not found.get("lora"):
        raise UserError(f"{folder} holds a training of everything: give --rank 0 to go on with it")
    if other:
        raise UserError(
            f"{folder} holds a training with another {_difference(found, wanted)}: give an empty "
            "folder, or the settings and data that it was begun with"
        )


def agree(settings: dict[str, Any]) -> None:
    """Raises UserError where processes that train as one were given different plain settings."""
    if jax.process_count() > 1:
        digest = hashlib.sha256(json.dumps(settings).encode()).digest()
        found = multihost_utils.process_allgather(np.frombuffer(digest, np.uint8))
        if (found != found[0]).any():
            raise UserError(
                "the machines were given different settings, texts or models: start all of them "
                "with the same command and the same files"
            )


def _check_shared(folder: Path) -> None:
    if jax.process_count() == 1:
        return
    number = multihost_utils.broadcast_one_to_all(np.int32(secrets.randbits(30)))
    mark = folder / f".shared-{number}"
    if jax.process_index() == 0:
        mark.touch()
    multihost_utils.sync_global_devices("marked")
    # A network file system may show a new file late.
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


def check_empty(folder: Path) -> None:
    """Raises UserError where a folder holds a model and nothing of this library began it there."""
    if (folder / "training.json").is_file():
        return
    files = [folder / "config.json", folder / "card.json", *sorted(folder.glob("*.safetensors"))]
    if found := next((path.name for path in files if path.exists()), None):
        raise UserError(
            f"{folder} holds a model already ({found}), which a training would write over: give "
            "another folder"
        )


def _difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    pairs = ((name, found.get(name), value) for name, value in wanted.items())
    different = [entry for pair in pairs for entry in _differences(*pair)]
    # Settings of two kinds say less than a name that tells the kinds apart.
    different.sort(key=lambda entry: isinstance(entry[1], dict) and isinstance(entry[2], dict))
    name, there, asked = different[0]
    if name.endswith("_sha256"):
        named = {
            "rows_sha256": "set of texts", "judge_sha256": "model for the discriminator",
            "searched_sha256": "set of searched texts", "features_sha256": "set of features",
            "captioned_sha256": "set of images and captions",
            "base_sha256": "model or encoder to begin with",
        }  # fmt: skip
        return named.get(name, "model to begin with")
    new_names = {old: new for new, old in KEPT_NAMES.items()}
    name = " ".join(new_names.get(word, word) for word in name.split()).replace("_", " ")
    if isinstance(there, dict) and isinstance(asked, dict):
        return name
    return f"{name} ({_in_words(there)}, and {_in_words(asked)} is asked for)"


def _differences(name: str, found: Any, wanted: Any) -> list[tuple[str, Any, Any]]:
    """Returns the name and both values of every setting that differs; of records, their fields."""
    if isinstance(found, dict) and isinstance(wanted, dict) and found.keys() == wanted.keys():
        return [
            entry
            for field, value in wanted.items()
            for entry in _differences(f"{name} {field}", found[field], value)
        ]
    return [] if found == wanted else [(name, found, wanted)]


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return "some"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
