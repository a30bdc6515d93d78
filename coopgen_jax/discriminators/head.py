"""The small network on top of a frozen one: features in, class log-probabilities out."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


@dataclass(frozen=True)
class HeadConfig:
    """The shape of a head.

    Attributes:
      classes: names of the `C` classes.
      inputs: width of its input.
      hidden: widths of its hidden layers, none for a linear head.
      dropout: share of inputs and hidden units dropped in training.
    """

    classes: tuple[str, ...]
    inputs: int
    hidden: tuple[int, ...] = (256,)
    dropout: float = 0.0


def standardised(module: nn.Module, x: jax.Array) -> jax.Array:
    """Returns `x` `[..., E]` less a mean that a module keeps, times a scale."""
    shape = (1,) * (x.ndim - 1) + x.shape[-1:]
    centre = module.param("centre", nn.initializers.zeros, x.shape[-1:], jnp.float32)
    scale = module.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32)
    return (x - centre.reshape(shape)) * scale.reshape(shape)


class Head(nn.Module):
    """Multi-layer perceptron with ReLU; the input is standardised by a stored mean and scale."""

    config: HeadConfig

    @nn.compact
    def __call__(self, x: jax.Array, *, training: bool = False) -> jax.Array:
        """Maps features `[..., inputs]` to log p(class) `[..., C]`."""
        drop = nn.Dropout(self.config.dropout, deterministic=not training)
        x = drop(standardised(self, x))
        for number, width in enumerate(self.config.hidden):
            x = drop(nn.relu(nn.Dense(width, name=f"hidden_{number}")(x)))
        logits = nn.Dense(len(self.config.classes), name="output")(x)
        return jax.nn.log_softmax(logits)


def classify(
    config: HeadConfig, params: Any, features: jax.Array, key: jax.Array | None = None
) -> jax.Array:
    """Returns log p(class) `[..., C]` of features `[..., inputs]`, in float32.

    With a key units are dropped, as in training.
    """
    inputs, rngs = features.astype(jnp.float32), None if key is None else {"dropout": key}
    log_class: Any = Head(config).apply(
        {"params": params}, inputs, training=key is not None, rngs=rngs
    )
    return log_class
