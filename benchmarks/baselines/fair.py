"""PPL-MCTS in PyTorch as well as a good PyTorch engineer would write it.

Both networks read one token per node out of slots that are allocated once and written in place;
leaves are batched over prompts and over the waves of a prompt; the tree outlives its token; the
host walks all trees at once, and one array crosses to the device per wave and one comes back. The
rules are those of `coopgen_jax.decoding.mcts.ppl_mcts`, so that equal networks write equal texts.
"""

import numpy as np
import torch
from torch import Tensor

from benchmarks.baselines.contract import StepResult, check_config, check_prompts
from benchmarks.baselines.network import Judge, Network
from benchmarks.baselines.slots import SlotReader
from benchmarks.baselines.trees import Leaves, Trees
from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig


class Fair:
    """The search with waves, a slot cache and subtree reuse.

    Args:
      network: the language model.
      judge: the discriminator, on the same device.
      config: the search's settings.
      compile: whether both networks' extensions go through `torch.compile`.
      margins: whether `StepResult.margin` is wanted; without it a walk is a little cheaper.
    """

    def __init__(
        self,
        network: Network,
        judge: Judge,
        config: MCTSConfig,
        *,
        compile: bool = False,
        margins: bool = True,
    ):
        check_config(config)
        if network.device != judge.network.device:
            raise ValueError(
                f"the language model is on {network.device} but the judge on "
                f"{judge.network.device}: put both on one device"
            )
        self.network, self.judge, self.config, self.margins = network, judge, config, margins
        self.candidates = min(config.search.candidates, network.config.vocab_size)
        self.compile = compile
        self._batch = 0

    @torch.inference_mode()
    def begin(self, tokens: np.ndarray, mask: np.ndarray, target: np.ndarray) -> None:
        """Takes the prompts; see `Baseline`."""
        check_prompts(
            tokens, mask, target, network=self.network, judge=self.judge, config=self.config
        )
        config, device = self.config, self.network.device
        batch, nodes = len(tokens), config.search.nodes
        if batch != self._batch:
            rows = batch * config.search.wave
            self._model = SlotReader(self.network, rows, compiled=self.compile)
            self._critic = SlotReader(self.judge.network, rows, compiled=self.compile)
            self._batch = batch
        self.finished = np.zeros(batch, bool)
        self._written = 0
        self._target = torch.tensor(target, dtype=torch.long, device=device)[:, None, None]
        prompt = torch.tensor(tokens, dtype=torch.long, device=device)
        real = torch.tensor(mask, dtype=torch.bool, device=device)
        # The token in every slot, and whether it counts as text where it is visible.
        self._tokens = torch.nn.functional.pad(prompt, (0, config.new_tokens + nodes - 1))
        self._counts = torch.full_like(self._tokens, config.rules.penalise_prompt, dtype=torch.bool)
        self._counts[:, prompt.shape[1] :] = True
        # Row n, column m - 1: whether node m is node n or above it. The root sees no node.
        self._ancestors = torch.zeros(batch, nodes, nodes - 1, dtype=torch.bool, device=device)
        self._rows = torch.arange(batch, device=device)[:, None]

        room = {"new_tokens": config.new_tokens, "nodes": nodes}
        states = self._model.prefill(prompt, real, **room)
        judged, start = (prompt, real), self.judge.start_token
        if start is not None:
            judged = torch.full_like(prompt[:, :1], start), torch.ones_like(real[:, :1])
        opinion = self.judge.head(self._critic.prefill(*judged, **room))
        if start is not None:
            opinion = torch.full_like(opinion, -np.log(opinion.shape[-1]))

        seen = self._model.visible(self._ancestors[:, :1, :0])
        logits = self.network.logits(states)[:, None]
        self._trees = Trees(batch, self.candidates, config.search, margins=self.margins)
        best, priors, value = self._shortlist(logits, opinion[:, None], prompt[:, -1:], seen)
        self._trees.plant(best[:, 0], priors[:, 0], value[:, 0])

    @torch.inference_mode()
    def advance(self) -> StepResult:
        """Searches for one token of every text that has not ended, and writes it."""
        if self._written >= self.config.new_tokens:
            raise ValueError(
                f"all {self.config.new_tokens} new tokens are written: begin again for more"
            )
        search, trees, live = self.config.search, self._trees, ~self.finished
        if search.reused_nodes == 0 and self.margins:
            trees.margin.fill(np.inf)
        for first in range(1 + search.reused_nodes, search.nodes, search.wave):
            self._expand(trees.select(live, first), first)
        chosen, tokens, lead = trees.choose()
        tokens, lead = np.where(live, tokens, 0), np.where(live, lead, 0)
        margin = np.where(live, trees.margin, np.inf).astype(np.float32)
        self._commit(trees.reroot(chosen), tokens)
        self.finished = self.finished | (live & self._ends(tokens))
        return StepResult(tokens, margin, lead)

    def _ends(self, tokens: np.ndarray) -> np.ndarray:
        """Returns where a token is one that ends a text."""
        return np.isin(tokens, self.network.config.end_tokens)

    def _expand(self, leaves: Leaves, first: int) -> None:
        """Has both networks read the leaves of one wave, and puts them into the trees."""
        trees = self._trees
        parent = leaves.parent - trees.roots[:, None]
        packed = torch.from_numpy(np.stack([leaves.token, parent, leaves.depth]))
        token, above, depth = packed.to(self.network.device)
        wave = token.shape[1]
        used = first - 1 + wave
        below = self._ancestors[self._rows, above, :used]
        below[..., first - 1 :].logical_or_(torch.eye(wave, dtype=torch.bool, device=token.device))
        self._ancestors[:, first : first + wave, :used] = below
        start = self._model.base + first - 1
        self._tokens[:, start : start + wave] = token

        logits, opinion, seen = self._read(token, depth, below, first)
        best, priors, value = self._shortlist(logits, opinion, token, seen)
        terminal = self._ends(leaves.token)
        # The end of a text adds nothing to be judged.
        value = np.where(terminal, trees.value[leaves.parent], value)
        trees.insert(leaves, best, priors, value, terminal)

    def _read(
        self, token: Tensor, depth: Tensor, below: Tensor, first: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Calls both networks: logits `[B, W, V]`, log p(class) `[B, W, C]`, and what was seen."""
        seen = self._model.visible(below)
        states = self._model.extend(token, depth, seen, first)
        judged = self._critic.extend(token, depth, self._critic.visible(below), first)
        return self._model.logits(states), self.judge.head(judged), seen

    def _shortlist(
        self, logits: Tensor, opinion: Tensor, token: Tensor, seen: Tensor
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Picks the candidates on the device and copies them, and the values, to the host.

        Args:
          logits: `[B, W, V]` float32, overwritten.
          opinion: `[B, W, C]` log p(class).
          token: `[B, W]` each node's own token.
          seen: `[B, W, S]` which slots each node sees, its own included.

        Returns:
          Tokens `[B, W, K]`, priors `[B, W, K]` and values `[B, W]`.
        """
        config = self.config
        if config.rules.repetition_penalty != 1:
            counts = seen & self._counts[:, None, : seen.shape[-1]]
            # What does not count writes what stands there already, or is the node's own token.
            text = self._tokens[:, None, : seen.shape[-1]].expand_as(seen)
            text = torch.where(counts, text, token[..., None])
            old = logits.gather(-1, text)
            penalty = config.rules.repetition_penalty
            lowered = torch.where(old > 0, old / penalty, old * penalty)
            own = counts.any(-1, keepdim=True)
            logits.scatter_(-1, text, torch.where(own, lowered, old))
        if config.rules.temperature != 1:
            logits /= config.rules.temperature
        best, tokens = logits.topk(self.candidates, dim=-1)
        # By probability, then by token: `topk` leaves the order of equals open.
        tokens, order = tokens.sort(dim=-1)
        best, again = best.gather(-1, order).sort(dim=-1, descending=True, stable=True)
        tokens = tokens.gather(-1, again)
        priors = (best - logits.logsumexp(-1, keepdim=True)).exp()
        value = opinion.gather(-1, self._target.expand(-1, opinion.shape[1], -1)).exp()
        packed = torch.cat([value, priors, tokens.int().view(torch.float32)], dim=-1).cpu().numpy()
        count = self.candidates
        tokens_there = packed[..., 1 + count :].view(np.int32)
        return tokens_there, packed[..., 1 : 1 + count], packed[..., 0]

    def _commit(self, source: np.ndarray, tokens: np.ndarray) -> None:
        """Writes the tokens, and moves what the device keeps of the nodes that stay."""
        kept = source.shape[1] - 1
        packed = torch.from_numpy(np.concatenate([source, tokens[:, None]], axis=1))
        packed = packed.to(self.network.device)
        moved, written = packed[:, :-1], packed[:, -1]
        nodes = moved[:, 1:]
        base = self._model.base
        entries = self._tokens[self._rows, base + (nodes - 1).clamp(min=0)]
        self._tokens[:, base] = written
        self._tokens[:, base + 1 : base + 1 + kept] = entries
        pairs = self._ancestors[self._rows[..., None], nodes[:, :, None], (nodes - 1)[:, None, :]]
        self._ancestors.zero_()
        self._ancestors[:, 1 : 1 + kept, :kept] = pairs & (nodes > 0)[:, None, :]
        self._model.commit(moved)
        self._critic.commit(moved)
        self._written += 1

    @torch.inference_mode()
    def floor(self) -> None:
        """Makes the network calls of one token's search, and nothing else.

        To be timed between two calls of `advance`, whose trees and texts it leaves as they are.
        """
        search, device = self.config.search, self.network.device
        shape = (len(self.finished), search.wave)
        token = torch.zeros(shape, dtype=torch.long, device=device)
        depth = torch.ones_like(token)
        below = torch.ones(*shape, search.nodes - 1, dtype=torch.bool, device=device)
        for first in range(1 + search.reused_nodes, search.nodes, search.wave):
            used = first - 1 + search.wave
            logits, opinion, _ = self._read(token, depth, below[..., :used], first)
        # A device works behind the host's back: the last call's numbers are waited for.
        logits.sum().item() + opinion.sum().item()
