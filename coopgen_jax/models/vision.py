"""Towers of pre-norm transformer blocks, and the vision transformer that reads an image's patches.

Dosovitskiy et al., "An Image is Worth 16x16 Words" (ICLR 2021, arXiv 2010.11929). An image is cut
into square patches, each of which becomes one state. CLIP's transformer (Radford et al. 2021, arXiv
2103.00020) puts a trained state in front of them and returns what becomes of it; SigLIP's (Zhai et
al. 2023, arXiv 2303.15343) lets a trained query attend to all of them (Zhai et al. 2022, arXiv
2106.04560, section 2.3).

Shape letters: `B` images or texts, `S` states, `L` layers, `E` width, `H` heads, `Eh` width of a
head.
"""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from coopgen_jax.models.affine import affine, layer_norm
from coopgen_jax.models.attention import attend_causal
from coopgen_jax.models.encoder import ACTIVATIONS, dense_of, norm_of
from coopgen_jax.models.product import product
from coopgen_jax.models.rematerialisation import rematerialise

Params = dict[str, Any]


@dataclass(frozen=True)
class TowerConfig:
    """The shape of a tower of pre-norm blocks.

    Attributes:
      layers: `L`.
      width: `E`.
      heads: `H`, which divides `E`.
      ffn_width: inner width of the feed-forward layers.
      norm_epsilon: what the layer norms add to the variance.
      activation: a key of `encoder.ACTIVATIONS`.
      dtype: of what is multiplied, "float32" or "bfloat16"; sums, norms, softmax and the stream
        that layers are added to are float32.
    """

    layers: int
    width: int
    heads: int
    ffn_width: int
    norm_epsilon: float = 1e-5
    activation: str = "quick_gelu"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of {self.heads} heads")


@dataclass(frozen=True)
class VisionConfig:
    """The shape of a vision transformer.

    Attributes:
      tower: its blocks.
      image_size: height and width of an image, in pixels.
      patch_size: height and width of a patch; what is left at the right and below is not read.
      attentive: whether a trained query pools the patches (SigLIP); else the state in front of them
        is what is returned (CLIP), and a norm stands in front of the blocks.
    """

    tower: TowerConfig
    image_size: int
    patch_size: int
    attentive: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.patch_size <= self.image_size:
            raise ValueError(
                f"patches of {self.patch_size} pixels do not fit an image of {self.image_size}"
            )

    @property
    def patches(self) -> int:
        """How many patches an image has."""
        return (self.image_size // self.patch_size) ** 2


class PreNormBlock(nn.Module):
    """Self-attention and feed-forward, each of the normalised stream and added to it."""

    config: TowerConfig

    @nn.compact
    def __call__(self, x: jax.Array, visible: jax.Array) -> jax.Array:
        """Maps `x` `[B, S, E]` on; queries see keys where `visible` `[B, S, S]` is true."""
        config = self.config
        dense = dense_of(config.dtype)
        h = norm_of(config.norm_epsilon, "attention_norm")(x)
        query, key, value = (
            dense(config.width, name=name)(h).reshape(*h.shape[:2], config.heads, -1)
            for name in ("query", "key", "value")
        )
        # The product rounds to its keys' dtype.
        key, value = key.astype(config.dtype), value.astype(config.dtype)
        mixed = attend_causal(query, key, value, visible).reshape(x.shape)
        x = x + dense(config.width, name="output")(mixed)
        h = norm_of(config.norm_epsilon, "ffn_norm")(x)
        h = ACTIVATIONS[config.activation](dense(config.ffn_width, name="up")(h))
        return x + dense(config.width, name="down")(h)


def init_tower(key: jax.Array, config: TowerConfig) -> Params:
    """Returns random parameters of the blocks, stacked on a leading layer axis."""
    example = jnp.zeros((1, 1, config.width))

    def layer(one_key: jax.Array) -> Params:
        return PreNormBlock(config).init(one_key, example, jnp.ones((1, 1, 1), bool))["params"]

    layers: Params = jax.vmap(layer)(jax.random.split(key, config.layers))
    return layers


def run_tower(config: TowerConfig, layers: Params, x: jax.Array, visible: jax.Array) -> jax.Array:
    """Returns the stream `[B, S, E]` float32 behind the last block; see `PreNormBlock`."""
    block = PreNormBlock(config)

    def step(x: jax.Array, layer: Params) -> tuple[Any, None]:
        return block.apply({"params": layer}, x, visible), None

    run = rematerialise(step, scanned=True)
    return jax.lax.scan(run, x.astype(jnp.float32), layers)[0]


def random_norm(width: int) -> Params:
    """Returns the parameters that a norm of so many numbers begins with."""
    return {"scale": jnp.ones(width), "bias": jnp.zeros(width)}


def random_dense(key: jax.Array, inputs: int, outputs: int) -> Params:
    """Returns a dense layer's parameters as BERT draws them."""
    kernel = 0.02 * jax.random.normal(key, (inputs, outputs), jnp.float32)
    return {"kernel": kernel, "bias": jnp.zeros(outputs)}


def init_vision(key: jax.Array, config: VisionConfig) -> Params:
    """Returns random parameters of a vision transformer.

    The tree is `{"patch": {"kernel" [columns, rows, 3, E]}, "position" [S, E], "layers": {...},
    "output_norm": {...}}`. CLIP's has `class` `[E]` and `input_norm` as well, SigLIP's a bias of
    its patches and the `pool`: `probe` `[1, 1, E]`, `query`, `key` and `value` (`kernel` `[out,
    in]`), `output`, `norm`, `up` and `down`.
    """
    tower, keys = config.tower, jax.random.split(key, 8)
    width, size = tower.width, config.patch_size
    kernel = 0.02 * jax.random.normal(keys[0], (size, size, 3, width), jnp.float32)
    rows = config.patches + (not config.attentive)
    params: Params = {
        "patch": {"kernel": kernel},
        "position": 0.02 * jax.random.normal(keys[1], (rows, width), jnp.float32),
        "layers": init_tower(keys[2], tower),
        "output_norm": random_norm(width),
    }
    if not config.attentive:
        front = 0.02 * jax.random.normal(keys[3], (width,), jnp.float32)
        return {**params, "class": front, "input_norm": random_norm(width)}
    params["patch"]["bias"] = jnp.zeros(width)
    pool_keys = dict(zip(("query", "key", "value", "output"), keys[3:7], strict=True))
    up, down, probe = jax.random.split(keys[7], 3)
    params["pool"] = {
        "probe": jax.random.normal(probe, (1, 1, width), jnp.float32),
        "norm": random_norm(width),
        "up": random_dense(up, width, tower.ffn_width),
        "down": random_dense(down, tower.ffn_width, width),
        **{name: random_dense(one, width, width) for name, one in pool_keys.items()},
    }
    return params


def see(config: VisionConfig, params: Params, pixels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Reads images with a vision transformer.

    Args:
      config: its shape.
      params: those of `init_vision`.
      pixels: `[B, image_size, image_size, 3]` normalised colours, rows first; see `pixels_of`.

    Returns:
      The states of the patches `[B, S, E]` behind the last block, normalised, and one state of the
      image `[B, E]`, both float32.

    Raises:
      ValueError: the images have another size.
    """
    x = tower_states(config, params, pixels)
    if config.attentive:
        return x, _pooled(config.tower, params["pool"], x)
    return x[:, 1:], x[:, 0]


def tower_states(config: VisionConfig, params: Params, pixels: jax.Array) -> jax.Array:
    """Returns the normalised states `[B, S, E]` behind the last block, which need no `pool`.

    The first state of a CLIP's is the one in front of the patches. See `see`.
    """
    tower, size = config.tower, config.patch_size
    wanted = (config.image_size, config.image_size, 3)
    if pixels.shape[1:] != wanted:
        raise ValueError(f"images have the shape {pixels.shape[1:]}, not {wanted}")
    side = config.image_size // size
    cut = pixels[:, : side * size, : side * size]
    patches = cut.reshape(len(cut), side, size, side, size, 3)
    x = product("bhywxc,xyce->bhwe", patches, params["patch"]["kernel"], tower.dtype)
    x = x.reshape(len(cut), -1, tower.width)
    if config.attentive:
        x = x + params["patch"]["bias"].astype(jnp.float32)[None, None]
    else:
        front = jnp.broadcast_to(params["class"].astype(jnp.float32), (len(x), 1, tower.width))
        x = jnp.concatenate([front, x], axis=1)
    x = x + params["position"].astype(jnp.float32)[None]
    if not config.attentive:
        x = layer_norm(x, params["input_norm"], tower.norm_epsilon)
    x = run_tower(tower, params["layers"], x, jnp.ones((1, x.shape[1], x.shape[1]), bool))
    return layer_norm(x, params["output_norm"], tower.norm_epsilon)


def _pooled(config: TowerConfig, pool: Params, x: jax.Array) -> jax.Array:
    """Returns what a trained query finds in states `[B, S, E]`: `[B, E]`."""

    def projected(states: jax.Array, layer: Params) -> jax.Array:
        y = product("bsi,oi->bso", states, layer["kernel"], config.dtype)
        y = y + layer["bias"].astype(jnp.float32)[None, None]
        return y.reshape(*y.shape[:2], config.heads, -1)

    probe = jnp.broadcast_to(pool["probe"].astype(jnp.float32), (len(x), 1, config.width))
    key, value = (projected(x, pool[name]).astype(config.dtype) for name in ("key", "value"))
    query, visible = projected(probe, pool["query"]), jnp.ones((1, 1, x.shape[1]), bool)
    mixed = attend_causal(query, key, value, visible).reshape(probe.shape)
    state = affine(mixed, pool["output"], config.dtype)
    h = layer_norm(state, pool["norm"], config.norm_epsilon)
    h = ACTIVATIONS[config.activation](affine(h, pool["up"], config.dtype))
    return (state + affine(h, pool["down"], config.dtype))[:, 0]
