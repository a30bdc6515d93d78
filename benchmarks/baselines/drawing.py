"""The published search as a proposal: tokens drawn from visits, with a known probability.

The language model's own distribution has a share in every draw, as in
`coopgen_jax.decoding.mcts.proposal`, so that both sides weigh texts of the same distribution.

Shape letters: `B` sources, `R` samples of each, `M` = B * R texts, `P` tokens of a source, `T` of a
text, `V` vocabulary.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from benchmarks.baselines.network import Judge, Network
from benchmarks.baselines.reference import Leaf, Reference, Tree
from coopgen_jax.decoding.mcts.mcts_config import Best, MCTSConfig

HUMAN = 1


def mixture(tree: Tree, own: np.ndarray, *, tau: float, share: float) -> np.ndarray:
    """Returns the distribution `[V]` that a token is drawn from.

    Args:
      tree: after its search.
      own: `[V]` the language model's distribution of the token.
      tau: the visits' temperature.
      share: of `own` in the mixture.
    """
    child = tree.children[0]
    visits = np.where(child >= 0, tree.visits[child], 0).astype(np.float64) ** (1 / tau)
    drawn_from = share * own.astype(np.float64) / own.sum(dtype=np.float64)
    drawn_from[tree.tokens[0]] += (1 - share) * visits / visits.sum()
    return drawn_from


@dataclass(frozen=True)
class Texts:
    """What was sampled: `[M, T]` tokens, and `[M]` log-probabilities under model and proposal."""

    tokens: np.ndarray
    log_prob: np.ndarray
    log_proposal: np.ndarray


class Drawing(Reference):
    """The published search, its tokens drawn from visits and from the language model.

    Args:
      network: the language model.
      judge: the discriminator.
      config: the search's settings, whose choice is `ByVisits`.
      seed: of the draws.
    """

    def __init__(self, network: Network, judge: Judge, config: MCTSConfig, *, seed: int = 0):
        rules, ends = config.rules, network.config.end_tokens
        if rules.repetition_penalty != 1 or rules.temperature != 1 or ends:
            raise ValueError(
                "what is drawn from is the language model's own distribution, and texts never "
                "end: give repetition_penalty 1, temperature 1 and a network without end tokens"
            )
        plain = replace(config, samples=1, choice=Best())
        super().__init__(network, judge, plain)
        self.drawn, self.rng = config, np.random.default_rng(seed)
        self.own: dict[int, np.ndarray] = {}

    def _priors(self, leaves: list[Leaf], states: Tensor) -> np.ndarray:
        priors = super()._priors(leaves, states)
        roots = zip(leaves, priors, strict=True)
        self.own.update({leaf.row: prior for leaf, prior in roots if leaf.node == 0})
        return priors

    @torch.inference_mode()
    def distributions(self) -> list[np.ndarray]:
        """Searches from empty trees; returns what each text's next token is drawn from."""
        trees = {row: Tree(self.config.search, self.candidates) for row in range(len(self._texts))}
        entries = self._plant(trees)
        for _ in range(self.config.search.simulations):
            self._simulate(trees, entries)
        choice = self.drawn.choice
        how = {"tau": choice.visit_temperature, "share": choice.mix_base}
        return [mixture(tree, self.own[row], **how) for row, tree in trees.items()]

    def sample(self, sources: np.ndarray) -> Texts:
        """Samples `R` texts of every source `[B, P]`, a source's one after another."""
        rows = np.repeat(sources, self.drawn.samples, axis=0)
        self.begin(rows, np.ones(rows.shape, bool), np.full(len(rows), HUMAN))
        tokens = np.zeros((len(rows), self.drawn.new_tokens), np.int64)
        logs = np.zeros((2, len(rows)))
        for step in range(self.drawn.new_tokens):
            for row, drawn_from in enumerate(self.distributions()):
                token = int(self.rng.choice(len(drawn_from), p=drawn_from / drawn_from.sum()))
                tokens[row, step] = token
                logs[:, row] += np.log([self.own[row][token], drawn_from[token]])
                self._texts[row].append(token)
        return Texts(tokens, *logs)
