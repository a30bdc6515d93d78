"""Whether a judge may judge: it must not be trained on the rows that a guide was trained on.

A judge that was trained on the guide's rows shares the guide's mistakes and overrates its texts.
What something was trained on is told by the fingerprint beside its card (data.fingerprint);
where one of two has none, by the half of `data.labelled.half` that both cards name.
"""

import hashlib
import json
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coopgen_jax.data.fingerprint import read_fingerprint
from coopgen_jax.discriminators.host.python_file import file_of, is_python
from coopgen_jax.discriminators.loading import folder_of
from coopgen_jax.errors import UserError

# Of a judge's rows, how many may be the guide's too: a short sentence can stand in two data sets.
TOLERATED = 0.001

# What cards say that were written before they had a key for it.
HALF = re.compile(r"^half ([AB]) of the training rows\b")


@dataclass(frozen=True, eq=False)
class TrainedOn:
    """What is known of how something was trained.

    Attributes:
      name: what it is called.
      weights: hash of its weights, None where there are none.
      rows: `[m]` fingerprint of its training texts, None where it is unknown.
      half: the half of the training rows, "A" or "B", that its card names, or None.
    """

    name: str
    weights: str | None = None
    rows: np.ndarray | None = None
    half: str | None = None


@dataclass(frozen=True)
class Independence:
    """Whether two were trained on different rows.

    Attributes:
      holds: whether they have, as far as is known.
      why: how that is known, as a clause.
      known: whether it is.
    """

    holds: bool
    why: str
    known: bool = True


def trained_on(name_or_folder: str | Path) -> TrainedOn:
    """Returns what is known of how a discriminator, a judge or a language model was trained.

    That is nothing where there is neither such a folder nor such a head in the package. A folder
    without a card, as Hugging Face's have none, says no more than its fingerprint, if it has one.
    Raises UserError where its fingerprint or its card is damaged.
    """
    name = str(name_or_folder)
    if is_python(name):
        return TrainedOn(name, _function(name))
    card, folder = None, Path(name).expanduser()
    with suppress(UserError):
        card = card_of(name, fetch=False)
        folder = card.parent if card else folder_of(name, fetch=False)
    half = _half(card) if card else None
    rows = None if card and _of_unknown_teacher(card) else read_fingerprint(folder)
    return TrainedOn(name, _weights(folder), rows, half)


def _of_unknown_teacher(path: Path) -> bool:
    """Tells whether a card names a teacher whose rows nobody knows."""
    try:
        teacher = json.loads(path.read_text(encoding="utf-8")).get("teacher")
        return teacher is not None and teacher.get("rows") != "known"
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is no card: train anew") from error


def _function(name: str) -> str | None:
    """Returns a hash of a function of a file, None where it is not there."""
    try:
        path, function = file_of(name)
        source = path.read_bytes()
    except (UserError, OSError):
        return None
    return hashlib.sha256(source + b"\0" + function.encode()).hexdigest()


def card_of(name_or_folder: str | Path, *, fetch: bool = True) -> Path | None:
    """Returns the path of the card of a judge or a discriminator.

    It is None of a Hugging Face model, which has none. Raises UserError where there is no such
    judge or discriminator; see `loading.folder_of`.
    """
    path = Path(name_or_folder).expanduser() / "judge.json"
    if path.is_file():
        return path
    card = folder_of(name_or_folder, fetch=fetch) / "card.json"
    return card if card.is_file() else None


def _weights(folder: Path) -> str | None:
    files = sorted(folder.rglob("*.safetensors"))
    if not files:
        return None
    whole = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def _half(path: Path) -> str | None:
    try:
        card: Any = json.loads(path.read_text(encoding="utf-8"))
        said = card.get("half")
        found = HALF.match(card.get("recipe") or "")
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{path} is no card: train anew") from error
    if said is not None and said not in ("A", "B"):
        raise UserError(f"{path} names the half {said!r}: it must be A or B")
    return said or (found[1] if found else None)


def independence(
    judge: TrainedOn, guide: TrainedOn, *, tolerated: float = TOLERATED
) -> Independence:
    """Tells whether a judge and a guide were trained on different rows.

    Their rows are compared where both are known; else the halves that their cards name. Of the
    judge's rows a share of at most `tolerated` may be the guide's too.
    """
    judges, guides = judge.name, f"the guide {guide.name}"
    both = f"{judges} and {guides}"
    if judge.weights is not None and judge.weights == guide.weights:
        return Independence(False, f"{judges} is {guides} itself")
    if judge.rows is not None and guide.rows is not None:
        shared = len(np.intersect1d(judge.rows, guide.rows, assume_unique=True))
        if not shared:
            return Independence(True, f"{both} have no row in common")
        rows = f"{both} were both trained on {shared} of the judge's {len(judge.rows)} rows"
        if shared <= tolerated * len(judge.rows):
            return Independence(True, f"{rows}, at most a share of {tolerated:g}")
        return Independence(False, f"{rows}, more than a share of {tolerated:g}")
    if judge.half is not None and guide.half is not None:
        if judge.half == guide.half:
            return Independence(False, f"{both} were both trained on half {judge.half}")
        halves = f"on half {judge.half} and {guides} on half {guide.half}"
        return Independence(True, f"{judges} was trained {halves}, by their cards")
    lacking = min(judge, guide, key=lambda one: (one.rows is not None, one.half is not None))
    unknown = judges if lacking is judge else guides
    return Independence(False, f"which rows {unknown} was trained on is unknown", known=False)


def require(found: Independence, *, force: bool) -> str:
    """Returns what a report says of it; raises UserError where it neither holds nor is forced."""
    if not found.holds and not force:
        raise UserError(
            f"{found.why}: take a judge that was trained on other rows, or give --force to have it "
            "judge nevertheless"
        )
    return found.why if found.holds else f"forced: {found.why}"
