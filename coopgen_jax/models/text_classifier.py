"""Networks that classify whole texts: one of the encoders, or a decoder, under a class head."""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from coopgen_jax.models.affine import affine, dense_shape, layer_norm, norm_shape
from coopgen_jax.models.deberta import DebertaConfig, deberta_shapes, encode_deberta
from coopgen_jax.models.encoder import ACTIVATIONS, EncoderConfig, encode, init_encoder, mean_pool
from coopgen_jax.models.modernbert import ModernBertConfig, encode_modernbert, modernbert_shapes
from coopgen_jax.models.reading import read
from coopgen_jax.models.transformer import DecoderConfig, final_norm

Params = dict[str, Any]
EncoderShape = EncoderConfig | DebertaConfig | ModernBertConfig
HEAD_ACTIVATIONS = {**ACTIVATIONS, "tanh": jnp.tanh}


@dataclass(frozen=True)
class ClassHeadConfig:
    """What stands on top of a network that classifies.

    Attributes:
      width: width of the network's states.
      outputs: numbers that it returns.
      pooling: the state that it reads: of the first token, of the last, or the mean of all.
      activation: behind the dense layer in front of the output, a key of `HEAD_ACTIVATIONS`; None
        where there is no such layer.
      dense_bias: whether that layer has a bias.
      norm: whether a norm stands behind it.
      norm_bias: whether that norm has a bias.
      norm_epsilon: what the norm adds to the variance.
      output_bias: whether the output has a bias.
      pad_token: a token that never counts as the last one; -1 for none.
    """

    width: int
    outputs: int
    pooling: Literal["first", "mean", "last"]
    activation: str | None = None
    dense_bias: bool = True
    norm: bool = False
    norm_bias: bool = False
    norm_epsilon: float = 1e-5
    output_bias: bool = True
    pad_token: int = -1


@dataclass(frozen=True)
class TextClassifierConfig:
    """The shapes of a network that classifies, and of its head."""

    network: EncoderShape | DecoderConfig
    head: ClassHeadConfig


def encoder_shapes(config: EncoderShape) -> Params:
    """Returns the shapes of an encoder's parameters."""
    if isinstance(config, DebertaConfig):
        return deberta_shapes(config)
    if isinstance(config, ModernBertConfig):
        return modernbert_shapes(config)
    shapes: Params = jax.eval_shape(lambda: init_encoder(jax.random.key(0), config))
    return shapes


def head_shapes(config: ClassHeadConfig) -> Params:
    """Returns the shapes of a head's parameters."""
    shapes = {"output": dense_shape(config.width, config.outputs, bias=config.output_bias)}
    if config.activation is not None:
        shapes["dense"] = dense_shape(config.width, config.width, bias=config.dense_bias)
    if config.norm:
        shapes["norm"] = norm_shape(config.width, bias=config.norm_bias)
    return shapes


def class_scores(
    config: TextClassifierConfig, params: Params, tokens: jax.Array, mask: jax.Array
) -> jax.Array:
    """Returns a head's output `[n, outputs]` float32 for texts `[n, S]`.

    Args:
      config: the shapes.
      params: `{"network": ..., "head": ...}`.
      tokens: int32, special ones included, padded behind the last.
      mask: true at real tokens.
    """
    head, dtype = config.head, config.network.dtype
    states = _states(config.network, params["network"], tokens, mask)
    if head.pooling == "mean":
        state = mean_pool(states, mask)
    elif head.pooling == "first":
        state = states[:, 0].astype(jnp.float32)
    else:
        places = jnp.arange(tokens.shape[1])[None, :]
        last = jnp.max(jnp.where(mask & (tokens != head.pad_token), places, 0), axis=-1)
        state = jnp.take_along_axis(states, last[:, None, None], axis=1)[:, 0]
    weights = params["head"]
    if head.activation is not None:
        state = HEAD_ACTIVATIONS[head.activation](affine(state, weights["dense"], dtype))
    if head.norm:
        state = layer_norm(state, weights["norm"], head.norm_epsilon)
    return affine(state, weights["output"], dtype)


def _states(
    config: EncoderShape | DecoderConfig, params: Params, tokens: jax.Array, mask: jax.Array
) -> jax.Array:
    """Returns the states `[n, S, E]` of a network behind its last norm."""
    if isinstance(config, DebertaConfig):
        return encode_deberta(config, params, tokens, mask)
    if isinstance(config, ModernBertConfig):
        return encode_modernbert(config, params, tokens, mask)
    if isinstance(config, EncoderConfig):
        return encode(config, params, tokens, mask)
    _, stream, _, _ = read(config, params, tokens, mask)
    return final_norm(config, params, stream)
