"""A frozen language model's states of texts, read once and trained on many times.

The states of all tokens stand in one table. A text is then a row of places in it, which batches,
cuts and shuffles like a row of token ids, and a loss looks the states up.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np

from coopgen_jax.data.batches import filled
from coopgen_jax.errors import UserError
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.models.reading import read
from coopgen_jax.models.transformer import DecoderConfig, tapped
from coopgen_jax.parallel.platform import activation_dtype

# Lengths of what is read at once are multiples of this, so that few of them are compiled.
LENGTH_STEP = 8
# So many rows are read, and kept, together: what is added to them behind does not have them read
# again, and a reading that was broken off goes on.
PART = 512
# A table of more bytes is refused; what a machine has for it is not known.
LARGEST = 16 << 30
HALF = "float16"


def front_of(model: LoadedModel) -> list[int]:
    """Returns the tokens that stand in front of every text that is read.

    The first token of all takes part in none of them: its state is like no other's, and a text that
    is judged in a search has a prompt in front of it.
    """
    return list(model.tokenizer.begin_tokens) or model.tokenizer.encode("\n")


@partial(jax.jit, static_argnums=(0, 1, 2))
def _states(
    config: DecoderConfig,
    taps: tuple[int, ...],
    dtype: str,
    params: Any,
    tokens: jax.Array,
    mask: jax.Array,
) -> jax.Array:
    embedded, _, streams, _ = read(config, params, tokens, mask)
    return tapped(config, params, embedded, streams, taps).astype(dtype)


def read_states(
    model: LoadedModel,
    taps: tuple[int, ...],
    rows: Sequence[Sequence[int]],
    *,
    batch: int = 32,
    front: Sequence[int] | None = None,
    dtype: str = HALF,
    folder: Path | None = None,
    listener: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:
    """Reads texts behind some tokens and returns the states of all their own.

    Args:
      model: the language model.
      taps: the `J` layers whose states are kept, numbered as `LanguageModel.taps`.
      rows: token ids.
      batch: rows read at once, those of like length together.
      front: the tokens that stand in front of every row, None for `front_of(model)`.
      dtype: number format of the table: float16, or float32 for states as they are.
      folder: where the table is kept for the next time, a file for every `PART` rows, None to keep
        it nowhere.
      listener: called after each batch: how many of how many rows have been read.

    Returns:
      `[tokens of all rows, J, E]`, row by row; the states of row `i` begin at the sum of
      the lengths of the rows in front of it. Values that half precision cannot hold are cut.

    Raises:
      UserError: see `check_room`.
    """
    check_room(model, taps, rows, folder=folder, dtype=dtype)
    table = np.empty((sum(map(len, rows)), len(taps), model.config.width), dtype)
    # What training asks for is named as it always was.
    more = [] if front is None and dtype == HALF else [front and list(front), dtype]
    network = cache(lambda: _up_to(model, max(taps)))
    start = 0
    for at in range(0, len(rows), PART):
        part = rows[at : at + PART]
        path = folder and folder / f"states-{_digest(model, taps, part, *more)}.npy"
        own = table[start : start + sum(map(len, part))]
        start += len(own)
        if path and path.is_file():
            own[:] = np.load(path)
            continue
        before = front_of(model) if front is None else front
        for done in _read_part(network(), taps, part, own, batch=batch, front=before):
            listener(at + done, len(rows))
        if path:
            unfinished = path.with_suffix(f".part{jax.process_index()}")
            with unfinished.open("wb") as file:
                np.save(file, own)
            unfinished.replace(path)
    return table


def _read_part(
    network: tuple[DecoderConfig, Any],
    taps: tuple[int, ...],
    rows: Sequence[Sequence[int]],
    table: np.ndarray,
    *,
    batch: int,
    front: Sequence[int],
) -> Iterator[int]:
    """Fills the table of some rows; yields how many have been read, batch by batch."""
    config, params = network
    dtype = str(table.dtype)
    lengths = [len(row) for row in rows]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    order = sorted(range(len(rows)), key=lambda number: lengths[number])
    limit = float(np.finfo(dtype).max)
    for at in range(0, len(order), batch):
        numbers = order[at : at + batch]
        width = -(-(len(front) + lengths[numbers[-1]]) // LENGTH_STEP) * LENGTH_STEP
        whole = [[*front, *rows[number]] for number in numbers]
        tokens, mask = filled(whole + [[]] * (batch - len(numbers)), width)
        found = np.asarray(_states(config, taps, dtype, params, tokens, mask))
        for place, number in enumerate(numbers):
            own = found[place, len(front) : len(front) + lengths[number]]
            table[starts[number] : starts[number + 1]] = np.clip(own, -limit, limit)
        yield min(at + batch, len(rows))


def check_room(
    model: LoadedModel,
    taps: tuple[int, ...],
    rows: Sequence[Sequence[int]],
    *,
    folder: Path | None,
    dtype: str = HALF,
) -> None:
    """Raises UserError where a table exceeds 16 GiB, or its folder, which is made, is of no use."""
    tokens = sum(len(row) for row in rows)
    size = np.dtype(dtype).itemsize * tokens * len(taps) * model.config.width
    if size > LARGEST:
        raise UserError(
            f"the states of {tokens} tokens at {len(taps)} taps take {size / 2**30:.0f} GiB: give "
            "fewer texts, shorter ones or fewer taps, or train a causal discriminator"
        )
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"the states cannot be kept in {folder}: {error}") from error


def _up_to(model: LoadedModel, highest: int) -> tuple[DecoderConfig, Any]:
    """Returns the network without most layers above the highest tap, which nobody reads.

    One stays, since the last layer's state is normalised.
    """
    count = min(highest + 1, model.config.layers)
    layers = model.params["layers"]
    separate = isinstance(layers, tuple)
    kept = layers[:count] if separate else jax.tree.map(lambda leaf: leaf[:count], layers)
    return replace(model.config, layers=count), {**model.params, "layers": kept}


def _digest(
    model: LoadedModel, taps: tuple[int, ...], rows: Sequence[Sequence[int]], *more: Any
) -> str:
    formats = model.config.dtype, activation_dtype(model.config.dtype)
    text = json.dumps([model.sha256, *formats, taps, [list(row) for row in rows], *more])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def places(rows: Sequence[Sequence[int]], start: int = 0) -> list[list[int]]:
    """Returns every row's places in the table of all rows, which begins at `start`."""
    ends = accumulate(map(len, rows), initial=start)
    return [list(range(*both)) for both in pairwise(ends)]
