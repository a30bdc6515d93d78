"""What both baselines are given and give back, and what neither of them can do."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from benchmarks.baselines.network import Judge, Network
from coopgen_jax.decoding.flat_settings import flat
from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig


@dataclass(frozen=True)
class StepResult:
    """One more token of every prompt.

    tokens: `[B]` int64 the tokens written; 0 where the text had ended before.
    margin: `[B]` float32 the smallest difference between the best and the second-best PUCT score
      met in any step of any walk that made the tree. Two programs that round differently may
      build different trees where it is small, and build the same one where it is not. Infinite
      where nothing was searched, NaN where it was not asked for.
    lead: `[B]` int64 by how many visits the token led the next one.
    """

    tokens: np.ndarray
    margin: np.ndarray
    lead: np.ndarray


class Baseline(Protocol):
    """A search that writes one token per call."""

    @property
    def finished(self) -> np.ndarray:
        """`[B]` bool, true where a text has ended."""

    def begin(self, tokens: np.ndarray, mask: np.ndarray, target: np.ndarray) -> None:
        """Takes prompts `[B, P]`, their mask `[B, P]` and the classes wanted `[B]`."""

    def advance(self) -> StepResult:
        """Searches for and writes one token of every text that has not ended."""


def write(
    baseline: Baseline, tokens: np.ndarray, mask: np.ndarray, target: np.ndarray, new_tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """Writes whole texts.

    Args:
      baseline: what writes.
      tokens: `[B, P]` int prompts, padded on the left.
      mask: `[B, P]` bool, true at real tokens.
      target: `[B]` int classes.
      new_tokens: `T`, the most tokens to write.

    Returns:
      Tokens `[B, T]`, 0 behind a text's end, and margins `[B, T]`, infinite there.
    """
    baseline.begin(tokens, mask, target)
    written = np.zeros((len(tokens), new_tokens), np.int64)
    margins = np.full((len(tokens), new_tokens), np.inf, np.float32)
    for step in range(new_tokens):
        if baseline.finished.all():
            break
        result = baseline.advance()
        written[:, step], margins[:, step] = result.tokens, result.margin
    return written, margins


def check_config(config: MCTSConfig) -> None:
    """Raises ValueError where a setting asks for what neither baseline does."""
    plain = {
        "samples": 1,
        "alpha": 1,
        "no_repeat_ngram": 0,
        "visit_temperature": 0,
        "value_power": 0,
        "rollout": 0,
        "considered": 0,
        "early_stop": False,
    }
    # What is not selected, such as roll-outs, has no settings.
    given = flat(config) | {"early_stop": config.engine.stops_early}
    for name, only in plain.items():
        if (value := given.get(name, only)) != only:
            raise ValueError(f"{name} is {value}: the PyTorch baselines know {only} alone")


def check_prompts(
    tokens: np.ndarray,
    mask: np.ndarray,
    target: np.ndarray,
    *,
    network: Network,
    judge: Judge,
    config: MCTSConfig,
) -> None:
    """Raises ValueError where prompts or targets cannot be searched with."""
    batch, length = tokens.shape
    if mask.shape != tokens.shape or target.shape != (batch,):
        raise ValueError(
            f"tokens {tokens.shape}, mask {mask.shape} and target {target.shape} do not agree: "
            "give [B, P], [B, P] and [B]"
        )
    if not mask[:, -1].all() or (mask[:, :-1] & ~mask[:, 1:]).any():
        raise ValueError("a prompt is not padded on the left: the mask must end in real tokens")
    classes = judge.head.output.out_features
    if not ((target >= 0) & (target < classes)).all():
        raise ValueError(f"a target is not one of the {classes} classes: count them from 0")
    if config.search.wave > network.config.vocab_size:
        raise ValueError(
            f"wave is {config.search.wave} but the vocabulary has only "
            f"{network.config.vocab_size} tokens: lower wave"
        )
    judged = length if judge.start_token is None else 1
    for name, reader, front in (
        ("language model", network, length),
        ("judge", judge.network, judged),
    ):
        if front + config.ahead > reader.config.context:
            raise ValueError(
                f"a prompt of {front} tokens and {config.ahead} behind it exceed the {name}'s "
                f"context of {reader.config.context}: shorten the prompt or write fewer tokens"
            )
