"""What a guided decode will cost before it is run: bytes by its shapes, seconds by its products.

A network call takes what products of so many rows take on the machine, weight for weight, as they
lie there; what a query attends to is read as well, and the likeliest tokens are picked out of every
row's logits. A token's search is `simulations / wave` such calls, and what happens between them is
too little to count. Of a machine that is only described, a product of few rows takes as long as
reading the weights, one of many rows as long as multiplying by them (a roofline).
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from coopgen_jax.decoding.mcts import ppl_mcts as mcts
from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig
from coopgen_jax.models.attention import SlotCache
from coopgen_jax.models.slots import Slots
from coopgen_jax.models.transformer import DecoderConfig
from coopgen_jax.parallel.platform import activation_dtype
from coopgen_jax.tools.job_shapes import Guide, job_of_shapes
from coopgen_jax.tools.probe import Machine


@dataclass(frozen=True)
class Plan:
    """The cost of a decode; bytes are those of all prompts and samples together.

    weights: bytes of both networks.
    prompt: bytes kept of the prompts; trunk: of the tokens committed; nodes: of the tree's nodes;
      tree: of the search's own arrays.
    logits: bytes of the logits that tokens are drawn from, if any, and of one call's: of all that
      is temporary the part that grows largest.
    calls: network calls of one token's search.
    call_seconds: of one call of both networks; token_seconds: of one token of every text.
    prefill_seconds: of reading the prompts; seconds: of the whole decode.
    simulations_per_second: evaluations per second of all texts together.
    """

    weights: int
    prompt: int
    trunk: int
    nodes: int
    tree: int
    logits: int
    calls: int
    call_seconds: float
    token_seconds: float
    prefill_seconds: float
    seconds: float
    simulations_per_second: float

    @property
    def bytes(self) -> int:
        """Returns the bytes of everything together."""
        return self.weights + self.prompt + self.trunk + self.nodes + self.tree + self.logits


def matrix_parameters(config: DecoderConfig, *, output: bool = True) -> int:
    """Returns how many numbers the matrices hold that every call multiplies by.

    An embedding that is only looked up and vectors such as norms and biases are not among them, nor
    the output layer of a discriminator, which computes no logits.
    """
    heads = config.head_width * (2 * config.heads + 2 * config.kv_heads)
    ffn = config.ffn_width * (3 if config.gated else 2)
    layers = config.layers * config.width * (heads + ffn)
    return layers + (config.vocab_size * config.width if output else 0)


def plan(
    config: DecoderConfig,
    decoding: MCTSConfig,
    machine: Machine,
    *,
    batch: int,
    prompt_length: int,
    guide: Guide = "trunk",
) -> Plan:
    """Predicts the cost of a decode of `batch` prompts at once, of a padded length.

    The guide is "trunk", a head on the language model's states, or "causal", a network of the
    language model's shape.
    """
    job = job_of_shapes(config, decoding, batch=batch, prompt_length=prompt_length, guide=guide)
    state = jax.eval_shape(mcts.begin, job)
    weights = _bytes((job.params, job.discriminator_params))
    regions = region_bytes(state.states)
    search, rows = decoding.search, batch * decoding.samples * decoding.search.wave
    networks = 2 if guide == "causal" else 1
    stacked = not isinstance(job.params["layers"], tuple)

    def seconds(wave: int, depth: int) -> float:
        rows = batch * decoding.samples * wave
        attended = _attended(config, decoding, batch, prompt_length, wave * depth) * networks
        found = _call(config, machine, rows, stacked=stacked, output=True)
        if guide == "causal":
            found += _call(config, machine, rows, stacked=stacked, output=False)
        return found + attended / machine.bandwidth

    call = seconds(search.wave, search.depth)
    prefill = networks * _call(
        config, machine, batch * prompt_length, stacked=stacked, output=False
    )
    calls = search.simulations // search.wave
    moved = 2 * regions["nodes"] * (1 + search.reused_nodes) / decoding.nodes / machine.bandwidth
    token, drawn = calls * call + moved, 0
    if decoding.has_full_support:
        # A token that need not be in the tree is read when it is drawn, and its logits are kept.
        drawn = batch * decoding.samples
        token += seconds(1, 1)
    return Plan(
        weights=weights,
        **regions,
        tree=_bytes(state.tree),
        logits=4 * (rows + drawn) * config.vocab_size,
        calls=calls,
        call_seconds=call,
        token_seconds=token,
        prefill_seconds=prefill,
        seconds=prefill + decoding.new_tokens * token,
        simulations_per_second=batch * decoding.samples * search.simulations / token,
    )


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def region_bytes(states: Any) -> dict[str, int]:
    """Returns the bytes of the prompt, trunk and node regions of both networks' states."""

    def parts(kind: type) -> list[Any]:
        leaves = jax.tree.leaves(states, is_leaf=lambda leaf: isinstance(leaf, kind))
        return [leaf for leaf in leaves if isinstance(leaf, kind)]

    caches, slots = parts(SlotCache), parts(Slots)
    return {
        "prompt": sum(_bytes((cache.prompt_keys, cache.prompt_values)) for cache in caches),
        "trunk": sum(_bytes(entry.trunk) for entry in slots),
        "nodes": sum(_bytes(entry.nodes) for entry in slots),
    }


def _attended(
    config: DecoderConfig, decoding: MCTSConfig, batch: int, prompt_length: int, paths: int
) -> int:
    """Returns the bytes of keys and values that one call reads.

    A prompt's are read once for all of its samples, a trunk's once for all of a wave's leaves, and
    the `paths` nodes above a sample's leaves are gathered, written and read.
    """
    entry = 2 * config.layers * config.kv_heads * config.head_width
    samples = decoding.samples
    slots = batch * (prompt_length + samples * decoding.new_tokens + 3 * samples * paths)
    return slots * entry * jnp.dtype(activation_dtype(config.dtype)).itemsize


def product_seconds(
    machine: Machine, weights: int, rows: int, item: int, *, stacked: bool
) -> float:
    """Returns the seconds of products of so many rows with so many weights of `item` bytes each.

    Between two numbers of rows that were measured the seconds are interpolated in the logarithms;
    rows beyond the last are multiplied at the rate of large products. The matrices may be slices of
    a stack.
    """
    curve = machine.stacked if stacked else machine.separate
    if not curve:
        return max(weights * item / machine.bandwidth, 2 * weights * rows / machine.rate)
    known, seconds = zip(*curve, strict=True)
    inside = min(rows, known[-1])
    per_weight = math.exp(np.interp(math.log(inside), np.log(known), np.log(seconds)))
    return weights * (per_weight + 2 * (rows - inside) / machine.rate)


def _call(
    config: DecoderConfig, machine: Machine, rows: int, *, stacked: bool, output: bool
) -> float:
    """Returns the seconds of one call of so many rows, without what it attends to."""
    item = jnp.dtype(config.dtype).itemsize
    layers = matrix_parameters(config, output=False)
    seconds = product_seconds(machine, layers, rows, item, stacked=stacked)
    if output:
        last = config.vocab_size * config.width
        seconds += product_seconds(machine, last, rows, item, stacked=False)
        seconds += rows * config.vocab_size / machine.ranking
    return seconds + config.layers * machine.step
