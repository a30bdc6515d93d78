"""A judge whose judgements are kept in a file: what was judged once is not judged again.

A large teacher may take hours for the texts of a training; what is interrupted goes on with what it
has said. Which judge it was is in the file's name, so that no other's words are taken for its own.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.text_judges import DiscriminatorJudge, TextJudge
from coopgen_jax.files import append_bytes


@dataclass(frozen=True, eq=False)
class KeptJudge:
    """A judge that looks a text up before it judges it.

    The texts of one call are judged together or not at all, so that a call gives the same whether
    or not one in front of it was interrupted.

    Attributes:
      judge: what judges.
      path: the file, a line a text: the text's hash and its probabilities.
      known: the probabilities by hash.
    """

    judge: TextJudge
    path: Path
    known: dict[str, list[float]] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the `C` classes."""
        return self.judge.classes

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Returns p(class | text) `[n, C]`.

        Raises:
          UserError: the file cannot be written, or the judge says what is no finite number.
        """
        names = [hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest() for text in texts]
        if not all(name in self.known for name in names):
            said = np.asarray(self.judge.predict_proba(texts), np.float64)
            if not np.isfinite(said).all():
                raise UserError(
                    "a judge says what is no finite number of a text: mend it, or give another"
                )
            new = dict(zip(names, said.tolist(), strict=True))
            new = {name: row for name, row in new.items() if name not in self.known}
            if jax.process_index() == 0:
                self._append(new)
            self.known.update(new)
        found = [self.known[name] for name in names]
        return np.asarray(found, np.float64).reshape(len(texts), len(self.classes))

    def _append(self, rows: dict[str, list[float]]) -> None:
        lines = [json.dumps({"text": name, "shares": row}) for name, row in rows.items()]
        # A line that a killed run left unfinished is closed, and read as none.
        append_bytes(self.path, "".join(f"\n{line}" for line in lines).encode() + b"\n")


def kept(judge: TextJudge, folder: Path, weights: str | None) -> TextJudge:
    """Returns a judge whose judgements are kept in a folder; itself where nobody knows its weights.

    `weights` is their hash. Raises UserError where the file cannot be read.
    """
    if weights is None:
        return judge
    about: list[Any] = [weights, judge.classes]
    if isinstance(judge, DiscriminatorJudge):
        # A temperature stands in the card, beside the weights.
        card = judge.discriminator.card
        about += [judge.model.sha256, judge.model.config.dtype, card.get("temperature")]
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()
    path = folder / f"judgements-{key[:16]}.jsonl"
    try:
        lines = path.read_bytes().split(b"\n") if path.is_file() else []
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    read = (entry for line in lines if (entry := _entry(line, len(judge.classes))))
    return KeptJudge(judge, path, dict(read))


def _entry(line: bytes, classes: int) -> tuple[str, list[float]] | None:
    """Returns a line's hash and probabilities, None where it is no whole line of finite numbers."""
    try:
        value: Any = json.loads(line)
        shares = [float(share) for share in value["shares"]]
        sound = len(shares) == classes and all(map(math.isfinite, shares))
        return (str(value["text"]), shares) if sound else None
    except (ValueError, TypeError, KeyError):
        return None
