"""A training step in PyTorch: transformers' Llama, its cross-entropies, and AdamW."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from coopgen_jax.models.pretrained.saving import hugging_face
from coopgen_jax.models.transformer import DecoderConfig, Params

# Our names of a layer's kernels, and where Hugging Face has them.
PROJECTIONS = {
    "query": ("self_attn", "q_proj"),
    "key": ("self_attn", "k_proj"),
    "value": ("self_attn", "v_proj"),
    "output": ("self_attn", "o_proj"),
    "gate": ("mlp", "gate_proj"),
    "up": ("mlp", "up_proj"),
    "down": ("mlp", "down_proj"),
}


class Lora(nn.Module):
    """A frozen dense layer with a low-rank addition beside it."""

    def __init__(self, base: nn.Module, down: np.ndarray, up: np.ndarray, scale: float):
        super().__init__()
        self.base, self.scale = base, scale
        self.down, self.up = nn.Parameter(torch.tensor(down)), nn.Parameter(torch.tensor(up))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps `x` `[..., in]` to `[..., out]`."""
        added = functional.linear(functional.linear(x, self.down), self.up)
        out: torch.Tensor = self.base(x) + added * self.scale
        return out


def llama(config: DecoderConfig, params: Params) -> LlamaForCausalLM:
    """Returns a network of the Llama family with the same weights, in float32."""
    values, tensors = hugging_face(config, params)
    assert values.pop("model_type") == "llama"
    model = LlamaForCausalLM(LlamaConfig(**values))
    loaded = model.load_state_dict(
        {name: torch.tensor(array) for name, array in tensors.items()}, strict=False
    )
    assert set(loaded.missing_keys) <= {"lm_head.weight"} and not loaded.unexpected_keys, loaded
    return model.eval()


def add_lora(model: LlamaForCausalLM, additions: dict[str, Any], scale: float) -> None:
    """Freezes a network and puts additions, as `models.lora` has them, beside its kernels."""
    model.requires_grad_(False)
    for name, (part, projection) in PROJECTIONS.items():
        down, up = (np.array(additions[name][key]) for key in ("lora_down", "lora_up"))
        for number, layer in enumerate(model.model.layers):
            block = getattr(layer, part)
            base = getattr(block, projection)
            setattr(block, projection, Lora(base, down[number], up[number], scale))


class TorchStep:
    """A training step: gradients cut at a norm of 1, and AdamW in its fused form.

    It is written as one would in PyTorch: attention by its own kernel under the causal mask, no
    mask of padding, for there is none, and gradients given up in front of every step.
    """

    def __init__(
        self,
        objective: str,
        model: LlamaForCausalLM,
        batch: dict[str, np.ndarray],
        *,
        head: tuple[np.ndarray, np.ndarray] | None,
        start_token: int,
        learning_rate: float,
        weight_decay: float,
        dtype: str,
        device: str,
    ):
        self.objective, self.model = objective, model.to(device)
        self.device, self.dtype = device, getattr(torch, dtype)
        self.batch = {name: torch.tensor(array, device=device) for name, array in batch.items()}
        self.batch["tokens"] = self.batch["tokens"].long()
        self.behind = functional.pad(self.batch["tokens"], (1, 0), value=start_token)
        self.head = None
        if head is not None:
            self.head = nn.Linear(*head[0].shape, device=device)
            with torch.no_grad():
                self.head.weight.copy_(torch.tensor(head[0].T))
                self.head.bias.copy_(torch.tensor(head[1]))
        modules: list[nn.Module] = [model] if self.head is None else [model, self.head]
        self.trainable = [leaf for m in modules for leaf in m.parameters() if leaf.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self.trainable, lr=learning_rate, weight_decay=weight_decay, fused=True
        )
        self.loss: Callable[[], torch.Tensor] = self._loss

    def compile(self) -> None:
        """Has the loss, and with it its gradient, compiled by `torch.compile`."""
        self.loss = torch.compile(self._loss, dynamic=False)

    def _loss(self) -> torch.Tensor:
        tokens = self.batch["tokens"]
        lower = torch.autocast(self.device, self.dtype, enabled=self.dtype != torch.float32)
        if self.head is not None:
            with lower:
                states = self.model.model(input_ids=self.behind, use_cache=False).last_hidden_state
            said = self.head(states[:, 1:].float())
            label = self.batch["label"].long()[:, None].expand(tokens.shape)
            return functional.cross_entropy(said.flatten(0, 1), label.flatten())
        with lower:
            logits = self.model(input_ids=tokens, use_cache=False).logits
        each = functional.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten(), reduction="none"
        ).view(len(tokens), -1)
        if self.objective == "writes":
            return each.mean()
        shares = torch.softmax(
            self.batch["log_prob"] + self.batch["log_judged"] - self.batch["log_proposal"], dim=0
        )
        return (shares * each.sum(dim=1)).sum()

    def __call__(self) -> torch.Tensor:
        """Takes a step; returns the loss in front of it."""
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.loss()
        loss.backward()
        nn.utils.clip_grad_norm_(self.trainable, 1.0)
        self.optimiser.step()
        return loss.detach()
