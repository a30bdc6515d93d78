"""Discriminators out of functions in Python: any function from texts to probabilities or rewards.

A scikit-learn classifier, a Hugging Face pipeline, a regular expression, a unit test: whatever
judges texts as strings guides a search. It is called on the host, once per wave, with the texts
that it has not judged before.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from coopgen_jax.discriminators.discriminator import LEAST, uniform
from coopgen_jax.discriminators.host.call import HostCall
from coopgen_jax.discriminators.host.token_rows import judging_whole
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.errors import UserError
from coopgen_jax.models.language_model import Bound
from coopgen_jax.tokenizer import Tokenizer


def host_function(
    function: Callable[[list[str]], Any],
    *,
    classes: Sequence[str],
    tokenizer: Tokenizer,
    reads_prompt: bool = False,
    batch: int = 256,
    remember: int = 65_536,
) -> LoadedDiscriminator:
    """Makes a discriminator of a function from texts to class probabilities.

    Args:
      function: from a list of `n` texts, none of them empty, to probabilities `[n, C]`; of two
        classes also `[n]`, those of the second one. Rows may be mappings from class names, or lists
        of `{"label": ..., "score": ...}`, as a text-classification pipeline with `top_k=None` gives
        them.
      classes: the names of the `C` classes, in the order of the columns.
      tokenizer: the language model's.
      reads_prompt: whether it is given prompt and continuation, or the continuation alone.
      batch: the most texts of one call.
      remember: how many texts' probabilities are remembered.

    Returns:
      The discriminator. A text without a character yet is judged uniformly, unasked. What has been
      asked is remembered until the function is given here again: do so when it has changed.

    Raises:
      UserError: there are fewer than two classes or `batch` is below 1; while it decodes, the
        function fails or returns something else.
    """
    classes = tuple(classes)
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise UserError(f"the classes are {', '.join(classes)}: give two or more different names")

    rows = partial(class_rows, classes=classes)
    call = _call(function, rows, tokenizer, ("probabilities", classes), batch, remember)
    return _loaded(call, classes, _log_probabilities, reads_prompt=reads_prompt)


def reward(
    function: Callable[[list[str]], Any],
    *,
    tokenizer: Tokenizer,
    centre: float = 0.0,
    scale: float = 1.0,
    reads_prompt: bool = False,
    batch: int = 256,
    remember: int = 65_536,
) -> LoadedDiscriminator:
    """Makes a discriminator of a function from texts to real numbers, the more the better.

    A reward r counts as the probability sigmoid((r - centre) / scale) of its one class "reward".

    Args:
      function: from a list of `n` texts, none of them empty, to `[n]` finite numbers.
      tokenizer: the language model's.
      centre: the reward that counts as 1/2; a run-time array in `params`, as is `scale`.
      scale: how many rewards make one unit of log-odds.
      reads_prompt: whether it is given prompt and continuation, or the continuation alone.
      batch: the most texts of one call.
      remember: how many texts' rewards are remembered.

    Returns:
      The discriminator; a text without a character yet counts as 1/2, unasked.

    Raises:
      UserError: `scale` is not positive or `batch` is below 1; while it decodes, the function fails
        or returns something else.
    """
    if not scale > 0:
        raise UserError(f"scale is {scale}: it must be above 0")

    call = _call(function, reward_rows, tokenizer, ("reward",), batch, remember)
    params = {"centre": jnp.float32(centre), "scale": jnp.float32(scale)}
    return _loaded(call, ("reward",), _log_sigmoid, reads_prompt=reads_prompt, params=params)


def _call(
    function: Callable[[list[str]], Any],
    rows: Callable[[Any, int], np.ndarray],
    tokenizer: Tokenizer,
    kind: tuple,
    batch: int,
    remember: int,
) -> HostCall:
    """Returns the call of `function` in batches; an empty text gives a row of NaN, unasked."""
    if batch < 1 or remember < 1:
        raise UserError(f"batch is {batch} and remember {remember}: they must be 1 or more")
    width = len(kind[1]) if len(kind) > 1 else 1

    def asked(texts: list[str]) -> np.ndarray:
        result = np.full((len(texts), width), np.nan, np.float32)
        full = [place for place, text in enumerate(texts) if text]
        for at in range(0, len(full), batch):
            part = full[at : at + batch]
            result[part] = rows(function([texts[place] for place in part]), len(part))
        return result

    return HostCall(
        asked,
        tokenizer,
        key=(*kind, function if isinstance(function, Hashable) else id(function), batch),
        width=width,
        dtype=np.float32,
        remember=remember,
    )


def class_rows(result: Any, count: int, classes: tuple[str, ...]) -> np.ndarray:
    """Returns what a function gave for `count` texts as probabilities `[count, C]`.

    Raises:
      UserError: it is no such thing.
    """
    array = _as_array(result, classes)
    if array.shape == (count,) and len(classes) == 2:
        array = np.stack([1 - array, array], axis=-1)
    if array.shape != (count, len(classes)):
        raise UserError(
            f"the host function returned an array of shape {array.shape} for {count} texts: "
            f"it must be {(count, len(classes))}, a probability for each of "
            f"{', '.join(classes)}"
        )
    if not ((array >= 0) & (array <= 1)).all():
        raise UserError(
            "the host function returned numbers that are no probabilities: they must lie "
            "between 0 and 1 (for a score of any size there is cg.reward)"
        )
    return array


def reward_rows(result: Any, count: int) -> np.ndarray:
    """Returns what a function gave for `count` texts as rewards `[count, 1]`.

    Raises:
      UserError: it is no such thing.
    """
    array = np.asarray(result, np.float32)
    if array.shape not in ((count,), (count, 1)) or not np.isfinite(array).all():
        raise UserError(
            f"the reward function must return {count} finite numbers for {count} texts: it "
            f"returned an array of shape {array.shape}"
        )
    return array.reshape(count, 1)


def _as_array(result: Any, classes: tuple[str, ...]) -> np.ndarray:
    """Returns what a function gave as an array, mappings and labelled scores by class name."""
    if isinstance(result, Sequence) and len(result):
        first = result[0]
        if isinstance(first, Sequence) and len(first) and isinstance(first[0], Mapping):
            result = [{entry["label"]: entry["score"] for entry in row} for row in result]
        if isinstance(result[0], Mapping):
            missing = [name for name in classes if name not in result[0]]
            if missing:
                raise UserError(
                    f"the host function's result has no class {missing[0]!r}: it has "
                    f"{', '.join(map(str, result[0]))}"
                )
            result = [[row[name] for name in classes] for row in result]
    return np.asarray(result, np.float32)


def _loaded(
    call: HostCall,
    classes: tuple[str, ...],
    log_class: Callable,
    *,
    reads_prompt: bool,
    params: Any = None,
) -> LoadedDiscriminator:
    call.reset()
    judge = Bound(_judge, (call, len(classes), log_class))
    whole = judging_whole(
        judge, classes, reads_prompt=reads_prompt, tokenizer="host", source=call.source
    )
    return LoadedDiscriminator(whole, params, calls=(call,))


def _log_probabilities(params: Any, rows: jax.Array) -> jax.Array:
    return jnp.log(jnp.maximum(rows, LEAST))


def _log_sigmoid(params: Any, rows: jax.Array) -> jax.Array:
    return jax.nn.log_sigmoid((rows - params["centre"]) / params["scale"])


def _judge(bound: tuple[HostCall, int, Callable], params: Any, *ids: jax.Array) -> jax.Array:
    call, classes, log_class = bound
    rows = call(*ids)
    known = ~jnp.isnan(rows)
    unknown = uniform(1, classes).reshape(1, 1, 1, -1)
    return jnp.where(known, log_class(params, jnp.where(known, rows, 0.5)), unknown)
