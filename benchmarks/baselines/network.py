"""The package's decoder networks in PyTorch, for inference, out of the package's own parameters.

One module serves the GPT-2 and the Llama family, as `coopgen_jax.models.transformer` does. What a
query attends to is left to the caller, so that the baselines differ in their caches alone.

Shape letters: `B` rows, `Q` tokens read at once, `S` a whole sequence, `V` vocabulary, `C` classes,
`L` layers, `H` query heads, `G` key/value heads, `E` width, `Eh` head width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from coopgen_jax.discriminators.causal import CausalConfig
from coopgen_jax.models.layer_layout import separate_layers
from coopgen_jax.models.transformer import DecoderConfig, rope_frequencies

# (layer number, query [B, Q, H, Eh], key [B, Q, G, Eh], value [B, Q, G, Eh]) -> [B, Q, H * Eh]
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
}


def tensor(array: Any) -> Tensor:
    """Returns a copy of an array as a float32 tensor."""
    return torch.from_numpy(np.array(array, np.float32))


def linear(*parts: dict[str, Any], dtype: torch.dtype = torch.float32) -> nn.Linear:
    """Returns dense layers that read the same input as one: their outputs stand side by side.

    Args:
      parts: each with a `kernel` `[out, in]` and perhaps a `bias` `[out]`.
      dtype: of the weights.
    """
    weight = torch.cat([tensor(part["kernel"]) for part in parts])
    outputs, inputs = weight.shape
    layer = nn.Linear(inputs, outputs, bias="bias" in parts[0], device="meta")
    layer.weight = nn.Parameter(weight.to(dtype).contiguous(), requires_grad=False)
    if layer.bias is not None:
        bias = torch.cat([tensor(part["bias"]) for part in parts])
        layer.bias = nn.Parameter(bias.to(dtype), requires_grad=False)
    return layer


def _turned(part: dict[str, Any]) -> dict[str, Any]:
    """Returns a flax layer of a head, whose kernel is `[in, out]`, as `linear` takes it."""
    return {**part, "kernel": part["kernel"].T}


class Norm(nn.Module):
    """A root-mean-square or layer norm; float32 inside and out, whatever it is given."""

    def __init__(self, config: DecoderConfig, params: dict[str, Any]):
        super().__init__()
        self.epsilon = config.norm_epsilon
        self.register_buffer("scale", tensor(params["scale"]))
        self.register_buffer("bias", tensor(params["bias"]) if "bias" in params else None)
        self.rms = config.norm == "rms"

    def forward(self, x: Tensor) -> Tensor:
        """Normalises the last axis of `x` `[..., E]`."""
        if self.rms:
            return functional.rms_norm(x.float(), x.shape[-1:], self.scale, self.epsilon)
        return functional.layer_norm(x.float(), x.shape[-1:], self.scale, self.bias, self.epsilon)


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Rotates `x` `[B, Q, heads, Eh]` by cosines and sines `[B, Q, 1, Eh / 2]`, halves paired."""
    cosine, sine = turn
    first, second = x.float().chunk(2, dim=-1)
    turned = [first * cosine - second * sine, second * cosine + first * sine]
    return torch.cat(turned, dim=-1).to(x.dtype)


class Block(nn.Module):
    """One pre-norm layer."""

    def __init__(self, config: DecoderConfig, params: dict[str, Any], number: int):
        super().__init__()
        dense = partial(linear, dtype=getattr(torch, config.dtype))
        self.config, self.number = config, number
        self.attention_norm = Norm(config, params["attention_norm"])
        self.projection = dense(params["query"], params["key"], params["value"])
        self.output = dense(params["output"])
        self.ffn_norm = Norm(config, params["ffn_norm"])
        gate = [params["gate"]] if config.gated else []
        self.up = dense(*gate, params["up"])
        self.down = dense(params["down"])

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor] | None, attend: Attend) -> Tensor:
        """Maps the stream `x` `[B, Q, E]` on by one layer."""
        c = self.config
        projected = self.projection(self.attention_norm(x).to(x.dtype))
        projected = projected.view(*x.shape[:-1], -1, c.head_width)
        query, key, value = projected.split([c.heads, c.kv_heads, c.kv_heads], dim=-2)
        if turn is not None:
            query, key = rotate(query, turn), rotate(key, turn)
        x = x + self.output(attend(self.number, query, key, value))

        up = self.up(self.ffn_norm(x).to(x.dtype))
        activation = ACTIVATIONS[c.activation]
        if c.gated:
            gate, up = up.chunk(2, dim=-1)
            return x + self.down(activation(gate) * up)
        return x + self.down(activation(up))


class Network(nn.Module):
    """A decoder network; `config.dtype` is that of its weights and activations.

    Norms, rotary positions and softmax are float32 in either dtype.

    Args:
      config: the network's shape.
      params: as `coopgen_jax.models.transformer.init_decoder` lays them out.
      device: where the network is to live.
    """

    def __init__(
        self, config: DecoderConfig, params: dict[str, Any], *, device: torch.device | str = "cpu"
    ):
        super().__init__()
        if config.dtype not in ("float32", "bfloat16"):
            raise ValueError(f'dtype is {config.dtype!r}: use "float32" or "bfloat16"')
        self.config = config
        self.dtype = getattr(torch, config.dtype)
        self.register_buffer("embedding", tensor(params["embedding"]).to(self.dtype))
        self.register_buffer("places", None)
        self.register_buffer("frequencies", None)
        if config.positions == "learned":
            self.places = tensor(params["positions"]).to(self.dtype)
        else:
            self.frequencies = tensor(rope_frequencies(config))
        head = params["embedding" if config.tied else "head"]
        self.unembedding = linear({"kernel": head}, dtype=self.dtype)
        if config.tied:
            self.unembedding.weight = nn.Parameter(self.embedding, requires_grad=False)

        layers = separate_layers(params)["layers"]
        self.blocks = nn.ModuleList(
            Block(config, weights, number) for number, weights in enumerate(layers)
        )
        self.final_norm = Norm(config, params["final_norm"])
        self.to(device).eval()

    @property
    def device(self) -> torch.device:
        """Where the network lives."""
        return self.embedding.device

    def forward(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Reads tokens.

        Args:
          tokens: `[B, Q]` int64.
          positions: `[B, Q]` int64.
          attend: decides what each query attends to.

        Returns:
          The states after the final norm, `[B, Q, E]` float32.
        """
        x = functional.embedding(tokens, self.embedding)
        turn = None
        if self.frequencies is None:
            x = x + functional.embedding(positions, self.places)
        else:
            angles = (positions[..., None].float() * self.frequencies)[:, :, None]
            turn = angles.cos(), angles.sin()
        for block in self.blocks:
            x = block(x, turn, attend)
        return self.final_norm(x)

    def logits(self, states: Tensor) -> Tensor:
        """Returns the logits `[..., V]` in float32 of states `[..., E]` after the final norm."""
        return self.unembedding(states.to(self.dtype)).float()

    def read(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Reads whole sequences, padded on the left, from scratch.

        Args:
          tokens: `[B, S]` int64.
          mask: `[B, S]` bool, true at real tokens.

        Returns:
          The states after the final norm `[B, S, E]`, and every layer's keys and values, each
          `[B, G, S, Eh]`.
        """
        keys: list[Tensor] = []
        values: list[Tensor] = []
        # Padding attends to itself: a query that sees nothing would be NaN, and spread.
        own = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
        visible = torch.ones_like(own).tril() & mask[:, None] | own

        def attend(number: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys.append(key.transpose(1, 2))
            values.append(value.transpose(1, 2))
            return attention(query, keys[-1], values[-1], visible)

        return self(tokens, positions_of(mask), attend), keys, values


def positions_of(mask: Tensor) -> Tensor:
    """Returns the positions `[B, S]` of tokens padded on the left."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def attention(query: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
    """Attends to what is visible.

    The `H / G` query heads that share a key head stand in the place of further queries, so that the
    keys and values are never repeated.

    Args:
      query: `[B, Q, H, Eh]`.
      keys: `[B, G, S, Eh]`.
      values: `[B, G, S, Eh]`.
      visible: `[B, Q, S]` bool, at least one true for every query.

    Returns:
      `[B, Q, H * Eh]`.
    """
    batch, length, heads, width = query.shape
    groups = keys.shape[1]
    shared = heads // groups
    grouped = query.view(batch, length, groups, shared, width).permute(0, 2, 3, 1, 4)
    grouped = grouped.reshape(batch, groups, shared * length, width)
    mask = visible[:, None, None].expand(-1, -1, shared, -1, -1).flatten(2, 3)
    attended = functional.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask)
    attended = attended.view(batch, groups, shared, length, width).permute(0, 3, 1, 2, 4)
    return attended.reshape(batch, length, heads * width)


class ClassHead(nn.Module):
    """The class head of `coopgen_jax.discriminators.head`, float32."""

    def __init__(self, params: dict[str, Any]):
        super().__init__()
        self.register_buffer("centre", tensor(params["centre"]))
        self.register_buffer("scale", tensor(params["scale"]))
        hidden = [params[f"hidden_{n}"] for n in range(sum("hidden" in name for name in params))]
        self.hidden = nn.ModuleList(linear(_turned(layer)) for layer in hidden)
        self.output = linear(_turned(params["output"]))

    def forward(self, states: Tensor) -> Tensor:
        """Maps states `[..., E]` to log p(class) `[..., C]`."""
        x = (states.float() - self.centre) * self.scale
        for layer in self.hidden:
            x = functional.relu(layer(x))
        return functional.log_softmax(self.output(x), dim=-1)


@dataclass(frozen=True)
class Judge:
    """A causal discriminator.

    network: what reads the text; its logits are never asked for.
    head: the class head on the state of the last token.
    start_token: the continuation alone is judged, behind this token; None to judge the prompt too.
    """

    network: Network
    head: ClassHead
    start_token: int | None = None


def judge_of(
    config: CausalConfig, params: dict[str, Any], *, device: torch.device | str = "cpu"
) -> Judge:
    """Returns the judge with the parameters that `init_causal` lays out."""
    network = Network(config.network, params["network"], device=device)
    return Judge(network, ClassHead(params["head"]).to(device), config.start_token)
