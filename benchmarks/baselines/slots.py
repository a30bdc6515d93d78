"""A slot cache in PyTorch, allocated once and written in place, and the network that reads it.

A row's slots are its prompt, then what has been committed behind it, then the nodes of its tree:
node `n` stands `n - 1` slots behind the last committed token. A query attends to all slots up to
the last one in use, under a mask of its ancestors: with the few slots that a search has, that costs
less than gathering each node's path, and it is one call of the fused attention.

Shape letters: `B` prompts, `P` padded prompt length, `T` new tokens, `N` nodes, `W` nodes read at
once, `S` slots, `L` layers, `G` key/value heads, `E` width, `Eh` head width.
"""

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.baselines.layout import laid_out
from benchmarks.baselines.network import Network, attention

_BUCKET = 64  # slots; a compiled network is compiled anew for every length it meets


class SlotReader:
    """A network with the keys and values of all it has read.

    Args:
      network: what reads.
      rows: how many tokens it is to read at once, for the layout of its weights.
      compiled: whether its extension is compiled by `torch.compile`.
    """

    def __init__(self, network: Network, rows: int, *, compiled: bool = False):
        self.network, self.compiled = network, compiled
        # What is compiled brings a layout of its own.
        self._reader = network if compiled else laid_out(network, rows)
        self._extension = torch.compile(self._extend, dynamic=False) if compiled else self._extend

    def prefill(self, tokens: Tensor, mask: Tensor, *, new_tokens: int, nodes: int) -> Tensor:
        """Reads prompts `[B, P]` and makes room for `T` tokens and `N` nodes behind them.

        Returns:
          The states after the last token, `[B, E]`.
        """
        batch, length = tokens.shape
        config = self.network.config
        states, keys, values = self.network.read(tokens, mask)
        slots = length + new_tokens + nodes - 1
        room = (batch, config.kv_heads, slots, config.head_width)

        def allocate(entries: list[Tensor]) -> list[Tensor]:
            caches = [entry.new_zeros(room) for entry in entries]
            for cache, entry in zip(caches, entries, strict=True):
                cache[:, :, :length] = entry
            return caches

        self._keys, self._values = allocate(keys), allocate(values)
        self._lengths = mask.sum(-1)
        # What stands in front of the nodes: the prompt, then whatever has been committed.
        self._front = functional.pad(mask, (0, new_tokens), value=True)
        self.base = length
        self._committed = 0
        return states[:, -1]

    def visible(self, below: Tensor) -> Tensor:
        """Puts what all nodes see in front of the nodes `below` the root that each one sees.

        Args:
          below: `[B, W, M]` bool, column `n - 1` is node `n`, the node itself included.

        Returns:
          `[B, W, S]` bool.
        """
        front = self._front[:, None, : self.base].expand(-1, below.shape[1], -1)
        return torch.cat([front, below], dim=-1)

    def extend(self, tokens: Tensor, depth: Tensor, visible: Tensor, first: int) -> Tensor:
        """Reads one token per node and writes it into nodes `first` to `first + W - 1`.

        Args:
          tokens: `[B, W]` int64.
          depth: `[B, W]` int64 depths below the root.
          visible: `[B, W, S]` bool, as `visible` gives it.
          first: the node of lane 0.

        Returns:
          The states after the final norm, `[B, W, E]` float32.
        """
        positions = self._lengths[:, None] + (self._committed - 1) + depth
        length = visible.shape[-1]
        if self.compiled:
            room = self._keys[0].shape[2]
            length = min(-(-length // _BUCKET) * _BUCKET, room)
            visible = functional.pad(visible, (0, length - visible.shape[-1]))
        start = self.base + first - 1
        slots = torch.arange(start, start + tokens.shape[1], device=tokens.device)
        keys = [cache[:, :, :length] for cache in self._keys]
        values = [cache[:, :, :length] for cache in self._values]
        return self._extension(tokens, positions, visible, slots, keys, values)

    def _extend(
        self,
        tokens: Tensor,
        positions: Tensor,
        visible: Tensor,
        slots: Tensor,
        keys: list[Tensor],
        values: list[Tensor],
    ) -> Tensor:
        def attend(number: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys[number].index_copy_(2, slots, key.transpose(1, 2))
            values[number].index_copy_(2, slots, value.transpose(1, 2))
            return attention(query, keys[number], values[number], visible)

        return self._reader(tokens, positions, attend)

    def logits(self, states: Tensor) -> Tensor:
        """Returns the logits `[..., V]` of states `[..., E]`, float32."""
        return self._reader.logits(states)

    def commit(self, source: Tensor) -> None:
        """Commits one node of every row and keeps others below it.

        Args:
          source: `[B, 1 + kept]` int64 the node to be committed, then the nodes that become nodes 1
            to `kept`, 0 for none.
        """
        rows = torch.arange(len(source), device=source.device)[:, None]
        old = self.base + (source - 1).clamp(min=0)
        end = self.base + source.shape[1]
        for cache in (*self._keys, *self._values):
            # Indexed with the heads between, the slots come to the front: [B, 1 + kept, G, Eh].
            cache[:, :, self.base : end] = cache[rows, :, old].transpose(1, 2)
        self.base += 1
        self._committed += 1
