"""Weights laid out for the processor they are read on.

`torch.nn.Linear` keeps `[out, in]`, which is not what a CPU reads fastest when there are few rows.
Measured on one core of an AMD EPYC, a float32 layer of 768 by 3072, milliseconds:

    rows   [out, in]   [in, out]   oneDNN blocks
       1        0.52        0.36            0.46
       5        1.21        1.16            0.78
      20        1.83        1.80            1.65
"""

import copy

import torch
from torch import Tensor, nn

from benchmarks.baselines.network import Network


class BlockedLinear(nn.Module):
    """A linear layer whose weight stands in oneDNN's blocks, where Inductor's freezing puts it."""

    def __init__(self, layer: nn.Linear, rows: int):
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), rows)
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """Maps `x` `[..., in]` to `[..., out]`."""
        rows = x.reshape(-1, x.shape[-1])
        out = torch.ops.mkldnn._linear_pointwise(rows, self.weight, self.bias, "none", [], "")
        return out.view(*x.shape[:-1], -1)


def transposed(layer: nn.Linear) -> nn.Linear:
    """Returns a linear layer whose weight is stored as `[in, out]`."""
    layer = copy.copy(layer)
    layer._parameters = dict(layer._parameters)
    weight = layer.weight.detach().T.contiguous().T
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer


def laid_out(network: Network, rows: int) -> Network:
    """Returns a network that reads `rows` tokens at once as fast as the processor lets it.

    On a CPU in float32 it has weights of its own, in the best layout of the three; elsewhere it is
    the network itself.
    """
    blocks = torch.backends.mkldnn.is_available()
    if network.device.type != "cpu" or network.dtype != torch.float32 or not blocks:
        return network
    memo: dict[int, nn.Module] = {}
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            memo[id(layer)] = transposed(layer) if rows == 1 else BlockedLinear(layer, rows)
    for tensor in (*network.parameters(), *network.buffers()):
        memo.setdefault(id(tensor), tensor)
    return copy.deepcopy(network, memo)
