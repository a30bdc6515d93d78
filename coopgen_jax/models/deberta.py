"""DeBERTa, versions 2 and 3: an encoder whose attention keeps contents and positions apart.

He et al., "DeBERTa: Decoding-enhanced BERT with Disentangled Attention" (ICLR 2021, arXiv
2006.03654, equation 4). The score of a query and a key is a sum of

    content to content   q_i . k_j
    content to position  q_i . K_(i - j)   ("c2p")
    position to content  k_j . Q_(i - j)   ("p2c")

divided by the root of the heads' width times the number of terms. K and Q are projections of one
table of relative positions, in which large distances share buckets that grow logarithmically.

Shape letters: `B` texts, `S` tokens of a text, padded on the right, `L` layers, `E` width, `H`
heads, `Eh` width of a head, `V` vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from coopgen_jax.models.affine import affine, array, dense_shape, layer_norm, norm_shape, stacked
from coopgen_jax.models.encoder import ACTIVATIONS
from coopgen_jax.models.product import product

Params = dict[str, Any]
TERMS = ("c2p", "p2c")


@dataclass(frozen=True)
class DebertaConfig:
    """The shape of a DeBERTa encoder.

    Attributes:
      vocab_size: `V`.
      layers: `L`.
      width: `E`.
      heads: `H`, which divides `E`.
      ffn_width: inner width of the feed-forward layers.
      embedding_width: width of the embeddings, which are projected to `E` where it is another.
      context: longest text, in tokens.
      norm_epsilon: what the layer norms add to the variance.
      activation: of the feed-forward layers.
      token_types: rows of the table of token types, of which the first is used; 0 for no table.
      absolute: whether absolute positions are added to the embeddings.
      reach: from which distance on all share one position; 0 for no relative positions.
      buckets: positions of one direction, where distances share them; 0 for one per distance.
      terms: those of "c2p" and "p2c" that the scores have.
      shared: whether positions are projected by the kernels of contents.
      relative_norm: whether the table of relative positions is normalised.
      dtype: of what is multiplied, "float32" or "bfloat16"; sums, norms and softmax are float32.
    """

    vocab_size: int
    layers: int
    width: int
    heads: int
    ffn_width: int
    embedding_width: int
    context: int = 512
    norm_epsilon: float = 1e-7
    activation: str = "gelu"
    token_types: int = 0
    absolute: bool = False
    reach: int = 512
    buckets: int = 256
    terms: tuple[str, ...] = TERMS
    shared: bool = True
    relative_norm: bool = True
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of {self.heads} heads")

    @property
    def span(self) -> int:
        """How many positions the table has for one direction."""
        return self.buckets or self.reach


def deberta_shapes(config: DebertaConfig) -> Params:
    """Returns the shapes of the parameters that `encode_deberta` takes."""
    width, inner = config.width, config.embedding_width
    rows = {
        "word": config.vocab_size,
        "position": config.context if config.absolute else 0,
        "type": config.token_types,
    }
    shapes: Params = {
        "embedding": {name: array(count, inner) for name, count in rows.items() if count},
        "embedding_norm": norm_shape(width),
    }
    if inner != width:
        shapes["projection"] = dense_shape(inner, width, bias=False)
    kernels = ["query", "key", "value", "output"]
    if config.reach:
        shapes["relative"] = array(2 * config.span, width)
        if config.relative_norm:
            shapes["relative_norm"] = norm_shape(width)
        if not config.shared:
            names = {"c2p": "position_key", "p2c": "position_query"}
            kernels += [names[term] for term in config.terms]
    layer = {name: dense_shape(width, width) for name in kernels}
    layer |= {
        "up": dense_shape(width, config.ffn_width),
        "down": dense_shape(config.ffn_width, width),
        "attention_norm": norm_shape(width),
        "ffn_norm": norm_shape(width),
    }
    shapes["layers"] = stacked(layer, config.layers)
    return shapes


def position_rows(config: DebertaConfig, length: int) -> np.ndarray:
    """Returns the table's row for every distance `i - j` from `1 - length` to `length - 1`."""
    distance = np.arange(1 - length, length)
    place = distance
    if config.buckets:
        half = config.buckets // 2
        far = np.maximum(np.abs(distance), 1).astype(np.float32)
        # In single precision, as the trained networks had it.
        share = np.log(far / np.float32(half)) / np.log(np.float32((config.reach - 1) / half))
        shared = np.sign(distance) * (np.ceil(share * np.float32(half - 1)) + half).astype(int)
        place = np.where(np.abs(distance) <= half, distance, shared)
    return np.clip(place + config.span, 0, 2 * config.span - 1)


def encode_deberta(
    config: DebertaConfig, params: Params, tokens: jax.Array, mask: jax.Array
) -> jax.Array:
    """Returns the states `[B, S, E]` float32 of texts; those of padding mean nothing.

    Tokens `[B, S]` are int32, special ones included, and the mask is true at real ones.
    """
    length = tokens.shape[1]
    if length > config.context:
        raise ValueError(f"{length} tokens do not fit a context of {config.context}")
    table = params["embedding"]
    x = table["word"][tokens].astype(jnp.float32)
    if config.absolute:
        x = x + table["position"][None, :length]
    if config.token_types:
        x = x + table["type"][None, :1]
    if "projection" in params:
        x = affine(x, params["projection"], config.dtype)
    x = layer_norm(x, params["embedding_norm"], config.norm_epsilon)
    positions = None
    if config.reach:
        # The rows of the distances that occur: fewer than the table has, where a text is short.
        table = params["relative"].astype(jnp.float32)
        if config.relative_norm:
            table = layer_norm(table, params["relative_norm"], config.norm_epsilon)
        positions = table[position_rows(config, length)]

    def step(x: jax.Array, layer: Params) -> tuple[jax.Array, None]:
        return _layer(config, layer, x, mask, positions), None

    return jax.lax.scan(step, x, params["layers"])[0]


def _layer(
    config: DebertaConfig,
    layer: Params,
    x: jax.Array,
    mask: jax.Array,
    positions: jax.Array | None,
) -> jax.Array:
    dtype, epsilon = config.dtype, config.norm_epsilon

    def heads(name: str, rows: jax.Array) -> jax.Array:
        return affine(rows, layer[name], dtype).reshape(*rows.shape[:-1], config.heads, -1)

    query, key, value = (heads(name, x) for name in ("query", "key", "value"))
    scores = product("bqhd,bkhd->bhqk", query, key, dtype)
    if positions is not None:
        if "c2p" in config.terms:
            name = "key" if config.shared else "position_key"
            # From the largest distance to the smallest, as keys come to a query.
            by_distance = product("bqhd,rhd->bhqr", query, heads(name, positions[::-1]), dtype)
            scores = scores + _at_places(by_distance)
        if "p2c" in config.terms:
            name = "query" if config.shared else "position_query"
            by_distance = product("bkhd,rhd->bhkr", key, heads(name, positions), dtype)
            scores = scores + jnp.swapaxes(_at_places(by_distance), -1, -2)
    scale = (query.shape[-1] * (1 + len(config.terms))) ** -0.5
    scores = jnp.where(mask[:, None, None, :], scores * scale, -1e9)
    weights = jax.nn.softmax(scores, axis=-1)
    mixed = product("bhqk,bkhd->bqhd", weights, value, dtype).reshape(x.shape)
    attended = affine(mixed, layer["output"], dtype)
    x = layer_norm(x + attended, layer["attention_norm"], epsilon)
    inner = ACTIVATIONS[config.activation](affine(x, layer["up"], dtype))
    return layer_norm(x + affine(inner, layer["down"], dtype), layer["ffn_norm"], epsilon)


def _at_places(by_distance: jax.Array) -> jax.Array:
    """Returns `[..., S, S]`, whose entry (i, j) is entry (i, S - 1 - i + j) of `[..., S, 2S - 1]`.

    Rows are read one number further each time, which takes no index (Dai et al. 2019, arXiv
    1901.02860, appendix B).
    """
    *leading, length, width = by_distance.shape
    padded = jnp.pad(by_distance, [(0, 0)] * (len(leading) + 1) + [(0, 1)])
    numbers = padded.reshape(*leading, -1)[..., length - 1 : length - 1 + length * width]
    return numbers.reshape(*leading, length, width)[..., :length]
