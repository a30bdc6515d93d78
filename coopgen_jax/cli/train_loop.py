"""How long a training lasts, as its options say."""

from typing import Any

from coopgen_jax.training.loop import LoopConfig


def loop_of(what: Any, steps: int) -> LoopConfig:
    """Returns the loop of a training of so many steps; a checkpoint follows every validation."""
    every = min(what.validate_every, steps)
    return LoopConfig(
        steps=steps,
        validate_every=every,
        save_every=every,
        patience=what.patience,
        budget_minutes=what.budget_minutes,
    )
