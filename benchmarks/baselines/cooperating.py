"""A round of Generative Cooperative Networks in PyTorch, its texts from the published search.

Lamprier et al. (ICML 2022, arXiv 2201.12320) published no program. What this one would have been
made of is there: PPL-MCTS as `reference` has it, whose tokens `drawing` draws from the visits, and
training as `training` has it. Texts never end, so that no row has padding.

Shape letters: `B` sources, `R` samples of each, `M` = B * R texts, `P` tokens of a source, `T` of a
text, `S` = P + T, `V` vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.baselines.drawing import HUMAN, Drawing, Texts
from benchmarks.baselines.network import Network, judge_of
from benchmarks.baselines.training import PROJECTIONS, add_lora, llama
from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig
from coopgen_jax.discriminators.causal import CausalConfig
from coopgen_jax.models.transformer import DecoderConfig, Params

# A block's dense layers, and which kernels stand in each of them side by side.
FUSED = {
    "projection": ("query", "key", "value"),
    "output": ("output",),
    "up": ("gate", "up"),
    "down": ("down",),
}


def weights(
    log_prob: Tensor, log_human: Tensor, log_proposal: Tensor, samples: int
) -> tuple[Tensor, float]:
    """Returns what each of `M` texts counts, a source's adding up to 1 / B, and how unequally.

    The latter is the mean over sources of (sum w)^2 / sum w^2 as a share of their texts.
    """
    log_weight = (log_prob + log_human - log_proposal).view(-1, samples)
    share = log_weight.softmax(dim=1)
    effective = (1 / share.square().sum(dim=1)).mean() / samples
    return (share / len(share)).flatten(), float(effective)


class Learner:
    """A network that is trained by additions to it, with what is on top, and its AdamW."""

    def __init__(
        self,
        config: DecoderConfig,
        params: Params,
        additions: dict[str, Any],
        *,
        scale: float,
        head: nn.Linear | None,
        rate: float,
        decay: float,
        device: str,
    ):
        self.model = llama(config, params)
        add_lora(self.model, additions, scale)
        self.model.to(device)
        self.head = head
        self.lower = torch.autocast(
            device, getattr(torch, config.dtype), enabled=config.dtype != "float32"
        )
        every = [*self.model.parameters(), *([] if head is None else head.parameters())]
        self.trainable = [leaf for leaf in every if leaf.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self.trainable, lr=rate, weight_decay=decay, fused=True
        )  # fmt: skip

    def log_likelihood(self, tokens: Tensor, front: int) -> Tensor:
        """Returns log p `[M]` of what stands behind `front` tokens of rows `[M, S]`."""
        with self.lower:
            logits = self.model(input_ids=tokens, use_cache=False).logits
        said = logits[:, front - 1 : -1].float().flatten(0, 1)
        each = functional.cross_entropy(said, tokens[:, front:].flatten(), reduction="none")
        return -each.view(len(tokens), -1).sum(dim=1)

    def log_classes(self, tokens: Tensor, front: int) -> Tensor:
        """Returns log p(class) `[M, T, C]` of every beginning behind `front` tokens."""
        assert self.head is not None
        with self.lower:
            states = self.model.model(input_ids=tokens, use_cache=False).last_hidden_state
        return functional.log_softmax(self.head(states[:, front:].float()), dim=-1)

    def step(self, loss: Tensor) -> float:
        """Takes a step, the gradient cut at a norm of 1; returns the loss in front of it."""
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.trainable, 1.0)
        self.optimiser.step()
        return loss.item()

    @torch.no_grad()
    def merge(self, network: Network) -> None:
        """Writes the trained kernels into a network that searches."""
        for block, layer in zip(network.blocks, self.model.model.layers, strict=True):
            for fused, names in FUSED.items():
                kernels = []
                for name in names:
                    part, projection = PROJECTIONS[name]
                    dense = getattr(getattr(layer, part), projection)
                    kernels.append(dense.base.weight + dense.scale * dense.up @ dense.down)
                getattr(block, fused).weight.copy_(torch.cat(kernels))


@dataclass(frozen=True)
class Outcome:
    """A round as it went.

    texts: what was sampled; sources: `[B, P]` for what.
    weight: `[M]`, adding up to one; log_human: `[M]` what they are made of beside the texts' own.
    log_prob: `[M]` of the texts, by the network that is trained, in front of its step.
    judge_loss, loss: in front of the last steps.
    effective_share: see `weights`.
    """

    texts: Texts
    sources: np.ndarray
    weight: np.ndarray
    log_human: np.ndarray
    log_prob: np.ndarray
    judge_loss: float
    loss: float
    effective_share: float


class TorchRound:
    """Rounds of sampling, of training the discriminator, of weighing, of training the generator.

    Args:
      config: how texts are sampled; the generator is shaped as `judge.network`.
      judge: the discriminator's shape.
      params: of the network that both begin as, its layers stacked.
      trainable: additions to both and the judge's head, as `benchmarks.rounds` makes them.
      scale: of the additions.
      rates: of the generator and of the judge.
      decay: of weights.
      judge_rows: texts of a discriminator's step, half of them written by people.
      judge_steps: such steps in a round.
      told: `phase` told when it is done, as `Round` has them.
      device: where all this happens.
    """

    def __init__(
        self,
        config: MCTSConfig,
        judge: CausalConfig,
        params: Params,
        trainable: dict[str, Any],
        *,
        scale: float,
        rates: tuple[float, float],
        decay: float,
        judge_rows: int,
        judge_steps: int,
        told: Callable[[str], None] = lambda phase: None,
        device: str = "cpu",
    ):
        shape, given = judge.network, {"scale": scale, "decay": decay, "device": device}
        self.config, self.told, self.device = config, told, device
        self.half, self.steps = judge_rows // 2, judge_steps
        output = trainable["discriminator"]["head"]
        head = nn.Linear(*output["kernel"].shape, device=device)
        with torch.no_grad():
            head.weight.copy_(torch.tensor(np.array(output["kernel"]).T))
            head.bias.copy_(torch.tensor(np.array(output["bias"])))
        self.generator = Learner(
            shape, params, trainable["generator"], head=None, rate=rates[0], **given
        )
        self.judge = Learner(
            shape, params, trainable["discriminator"]["network"], head=head, rate=rates[1], **given
        )
        width = len(output["kernel"])
        standard = {"centre": np.zeros(width), "scale": np.ones(width)}
        judging = {"network": params, "head": {"output": output, **standard}}
        self.network = Network(shape, params, device=device)
        self.critic = judge_of(judge, judging, device=device)
        self.search = Drawing(self.network, self.critic, config)

    def _done(self, phase: str) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
        self.told(phase)

    def sample(self, sources: np.ndarray) -> Texts:
        """Samples texts of sources `[B, P]` with the networks as they are."""
        self.generator.merge(self.network)
        self.judge.merge(self.critic.network)
        output, head = self.critic.head.output, self.judge.head
        with torch.no_grad():
            output.weight.copy_(head.weight)
            output.bias.copy_(head.bias)
        return self.search.sample(sources)

    def judge_step(self, human: Tensor, generated: Tensor, front: int) -> float:
        """Has the discriminator learn from rows `[n, S]` of both kinds; returns its loss."""
        said = self.judge.log_classes(torch.cat([human, generated]), front)
        label = torch.zeros(len(said), dtype=torch.long, device=self.device)
        label[: len(human)] = HUMAN
        every = label[:, None].expand(said.shape[:2]).flatten()
        return self.judge.step(functional.nll_loss(said.flatten(0, 1), every))

    def weigh(self, rows: Tensor, texts: Texts, front: int) -> tuple[Tensor, Tensor, float]:
        """Returns the texts' weights `[M]`, log p(human) `[M]`, and the effective share."""
        with torch.no_grad():
            log_human = self.judge.log_classes(rows, front)[:, -1, HUMAN]
        logs = [
            torch.tensor(each, dtype=torch.float32, device=self.device)
            for each in (texts.log_prob, texts.log_proposal)
        ]
        weight, effective = weights(logs[0], log_human, logs[1], self.config.samples)
        return weight, log_human, effective

    def __call__(self, sources: np.ndarray, human: np.ndarray) -> Outcome:
        """Goes through one round.

        Args:
          sources: `[B, P]` int, without padding.
          human: `[M, S]` rows that people wrote, each for the source of the text beside it.
        """
        front = sources.shape[1]
        texts = self.sample(sources)
        self._done("sampled")
        behind = np.repeat(sources, self.config.samples, axis=0)
        rows = torch.tensor(np.concatenate([behind, texts.tokens], axis=1), device=self.device)
        judge_loss = float("nan")
        people = torch.tensor(human.astype(np.int64), device=self.device)
        for _ in range(self.steps):
            order = self.search.rng.permutation(len(rows))
            some = torch.tensor(np.resize(order, self.half), device=self.device)
            judge_loss = self.judge_step(people[some], rows[some], front)
        self._done("judged")
        weight, log_human, effective = self.weigh(rows, texts, front)
        self._done("weighed")
        log_prob = self.generator.log_likelihood(rows, front)
        loss = self.generator.step(-(weight * log_prob).sum())
        self._done("trained")
        arrays = (each.detach().cpu().numpy() for each in (weight, log_human, log_prob))
        return Outcome(texts, sources, *arrays, judge_loss, loss, effective)
