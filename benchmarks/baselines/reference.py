"""PPL-MCTS in PyTorch as it was published: what its users have had so far.

Chaffin, Claveau and Kijak, "PPL-MCTS: Constrained Textual Generation Through Discriminator-Guided
MCTS Decoding" (NAACL 2022), written from the description of the algorithm and of the program that
came with it. Its costs are kept: the tree stands in NumPy on the host; every prompt contributes one
leaf to one batched call per simulation; each node's keys and values are stored apart and joined
again, root to leaf, for every expansion; the distribution over the whole vocabulary is copied to
the host; the discriminator reads every text from its first token; and after each token the tree is
thrown away and the whole text read again. Its mistakes are not: a text that has ended is never
continued, and no roll-out is drawn from a distribution that is out of date.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.baselines.contract import StepResult, check_config, check_prompts
from benchmarks.baselines.network import Judge, Network, attention
from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig
from coopgen_jax.search.config import SearchConfig


class Tree:
    """The tree of one prompt, nodes in the order in which they were made.

    tokens, priors, children: `[N, K]` a node's candidates, the likeliest first.
    visits, value_sum, value, parent, token, depth, terminal: `[N]`.
    """

    def __init__(self, config: SearchConfig, candidates: int):
        nodes = 1 + config.simulations
        self.config = config
        self.tokens = np.zeros((nodes, candidates), np.int64)
        self.priors = np.zeros((nodes, candidates), np.float32)
        self.children = np.full((nodes, candidates), -1)
        self.visits = np.zeros(nodes, np.int64)
        self.value_sum = np.zeros(nodes, np.float32)
        self.value = np.zeros(nodes, np.float32)
        self.parent = np.full(nodes, -1)
        self.token = np.full(nodes, -1)
        self.depth = np.zeros(nodes, np.int64)
        self.terminal = np.zeros(nodes, bool)
        self.size = 0
        self.margin = np.inf

    def scores(self, node: int) -> np.ndarray:
        """Returns the PUCT scores `[K]` of a node's candidates (thesis version, equation 5.1)."""
        child = self.children[node]
        visits = np.where(child >= 0, self.visits[child], 0)
        mean = np.where(child >= 0, self.value_sum[child], 0) / np.maximum(visits, 1)
        spread = np.float32(self.config.c_puct) * np.sqrt(np.float32(self.visits[node]))
        ratio = self.priors[node] / (1 + visits).astype(np.float32)
        scores = mean.astype(np.float32) + spread * ratio
        return np.where(self.priors[node] > 0, scores, -np.inf)

    def select(self) -> tuple[int, int | None]:
        """Walks down by the highest score; returns a node, and the rank of its child to be made.

        The rank is None where the node itself is to be credited once more: at the end of a text
        and at the depth cap.
        """
        node = 0
        while not self.terminal[node] and self.depth[node] < self.config.depth:
            scores = self.scores(node)
            rank = int(scores.argmax())
            if scores[rank] == -np.inf:
                break
            second = np.delete(scores, rank).max(initial=-np.inf)
            self.margin = min(self.margin, scores[rank] - second)
            if self.children[node, rank] < 0:
                return node, rank
            node = int(self.children[node, rank])
        return node, None

    def add(self, parent: int, rank: int, *, terminal: bool) -> int:
        """Makes a child, without candidates or a value as yet."""
        node, self.size = self.size, self.size + 1
        if parent >= 0:
            self.children[parent, rank] = node
            self.token[node] = self.tokens[parent, rank]
            self.depth[node] = self.depth[parent] + 1
        self.parent[node], self.terminal[node] = parent, terminal
        return node

    def credit(self, node: int) -> None:
        """Adds a node's value to it and to everything above it: the mean backup."""
        value = self.value[node]
        while node >= 0:
            self.visits[node] += 1
            self.value_sum[node] += value
            node = self.parent[node]

    def path(self, node: int) -> list[int]:
        """Returns the nodes from the root's child down to `node`."""
        above: list[int] = []
        while node > 0:
            above.insert(0, node)
            node = self.parent[node]
        return above

    def choose(self) -> tuple[int, int]:
        """Returns the token of the most visited child and its lead over the next, in visits."""
        child = self.children[0]
        visits = np.where(child >= 0, self.visits[child], 0)
        rank = int(visits.argmax())
        return int(self.tokens[0, rank]), int(visits[rank] - np.delete(visits, rank).max(initial=0))


@dataclass(frozen=True)
class Leaf:
    """A node that waits for its evaluation.

    row: the prompt's number.
    node: the node.
    tokens: its text below the root.
    """

    row: int
    node: int
    tokens: list[int]


class Reference:
    """The published search, one leaf per prompt and simulation.

    Args:
      network: the language model.
      judge: the discriminator.
      config: the search's settings: those of the paper in all but numbers.
    """

    def __init__(self, network: Network, judge: Judge, config: MCTSConfig):
        check_config(config)
        search = config.search
        if search.wave != 1 or search.reused_nodes or search.first_play_urgency != "zero":
            raise ValueError(
                "the published search has wave 1, reused_nodes 0 and first_play_urgency zero: "
                "use the fair baseline for other settings"
            )
        self.network, self.judge, self.config = network, judge, config
        self.candidates = min(search.candidates, network.config.vocab_size)

    def begin(self, tokens: np.ndarray, mask: np.ndarray, target: np.ndarray) -> None:
        """Takes the prompts; see `Baseline`."""
        check_prompts(
            tokens, mask, target, network=self.network, judge=self.judge, config=self.config
        )
        self._texts = [row[real].tolist() for row, real in zip(tokens, mask, strict=True)]
        self._prompts = [len(text) for text in self._texts]
        self._target = target
        self.finished = np.zeros(len(tokens), bool)

    @torch.inference_mode()
    def advance(self) -> StepResult:
        """Searches for one token of every text from an empty tree."""
        batch = len(self._texts)
        tokens, lead = np.zeros(batch, np.int64), np.zeros(batch, np.int64)
        margin = np.full(batch, np.inf, np.float32)
        live = np.flatnonzero(~self.finished).tolist()
        if not live:
            return StepResult(tokens, margin, lead)
        if len(self._texts[live[0]]) - self._prompts[live[0]] >= self.config.new_tokens:
            raise ValueError(
                f"all {self.config.new_tokens} new tokens are written: begin again for more"
            )
        trees = {row: Tree(self.config.search, self.candidates) for row in live}
        entries = self._plant(trees)
        for _ in range(self.config.search.simulations):
            self._simulate(trees, entries)
        for row, tree in trees.items():
            tokens[row], lead[row] = tree.choose()
            margin[row] = tree.margin
            self._texts[row].append(int(tokens[row]))
            self.finished[row] = tokens[row] in self.network.config.end_tokens
        return StepResult(tokens, margin, lead)

    def _plant(self, trees: dict[int, Tree]) -> dict[tuple[int, int], Tensor]:
        """Reads every text from its first token; returns the entries of the roots."""
        leaves = [Leaf(row, tree.add(-1, -1, terminal=False), []) for row, tree in trees.items()]
        tokens, mask = self._padded([self._texts[leaf.row] for leaf in leaves], self.network)
        states, keys, values = self.network.read(tokens, mask)
        stacked = torch.stack([torch.stack(keys, 1), torch.stack(values, 1)], 1)
        entries = {
            (leaf.row, 0): stacked[at][..., -len(self._texts[leaf.row]) :, :]
            for at, leaf in enumerate(leaves)
        }
        self._evaluate(trees, leaves, states[:, -1])
        return entries

    def _simulate(self, trees: dict[int, Tree], entries: dict[tuple[int, int], Tensor]) -> None:
        """Selects, expands, evaluates and backs up one leaf of every prompt."""
        leaves = []
        for row, tree in trees.items():
            node, rank = tree.select()
            if rank is None:
                tree.credit(node)
                continue
            ends = int(tree.tokens[node, rank]) in self.network.config.end_tokens
            child = tree.add(node, rank, terminal=ends)
            if ends:
                # The end of a text adds nothing to be judged.
                tree.value[child] = tree.value[node]
                tree.credit(child)
                continue
            leaves.append(Leaf(row, child, [int(tree.token[n]) for n in tree.path(child)]))
        if leaves:
            self._evaluate(trees, leaves, self._extend(trees, entries, leaves))

    def _extend(
        self,
        trees: dict[int, Tree],
        entries: dict[tuple[int, int], Tensor],
        leaves: list[Leaf],
    ) -> Tensor:
        """Reads the leaves' tokens behind their joined entries; returns the states `[b, E]`."""
        joined = []
        for leaf in leaves:
            above = trees[leaf.row].path(leaf.node)[:-1]
            joined.append(torch.cat([entries[leaf.row, node] for node in [0, *above]], dim=-2))
        lengths = [entry.shape[-2] for entry in joined]
        longest = max(lengths)
        # [b, 2, L, G, S, Eh], padded on the left.
        cache = torch.stack(
            [
                functional.pad(entry, (0, 0, longest - length, 0))
                for entry, length in zip(joined, lengths, strict=True)
            ]
        )
        device = self.network.device
        behind = torch.tensor(lengths, device=device)[:, None]
        visible = torch.arange(longest + 1, device=device)[None] >= longest - behind
        new: list[Tensor] = []

        def attend(number: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            own = torch.stack([key.transpose(1, 2), value.transpose(1, 2)], 1)
            new.append(own)
            keys, values = torch.cat([cache[:, :, number], own], dim=-2).unbind(1)
            return attention(query, keys, values, visible[:, None])

        tokens = torch.tensor([leaf.tokens[-1:] for leaf in leaves], device=device)
        states = self.network(tokens, behind, attend)
        stacked = torch.stack(new, 2)
        for at, leaf in enumerate(leaves):
            entries[leaf.row, leaf.node] = stacked[at]
        return states[:, -1]

    def _evaluate(self, trees: dict[int, Tree], leaves: list[Leaf], states: Tensor) -> None:
        """Gives every leaf its candidates and its value, and backs the value up."""
        priors = self._priors(leaves, states)
        values = self._values(leaves)
        for leaf, prior, value in zip(leaves, priors, values, strict=True):
            tree, node = trees[leaf.row], leaf.node
            best = likeliest(prior, self.candidates)
            tree.tokens[node], tree.priors[node] = best, prior[best]
            tree.value[node] = value
            tree.credit(node)

    def _priors(self, leaves: list[Leaf], states: Tensor) -> np.ndarray:
        """Returns softmax(penalised logits / temperature) on the host, `[b, V]`."""
        logits = self.network.logits(states)
        for row, leaf in zip(logits, leaves, strict=True):
            text = self._texts[leaf.row] + leaf.tokens
            start = 0 if self.config.rules.penalise_prompt else self._prompts[leaf.row]
            seen = torch.tensor(sorted(set(text[start:])), dtype=torch.long, device=row.device)
            penalty = self.config.rules.repetition_penalty
            row[seen] = torch.where(row[seen] > 0, row[seen] / penalty, row[seen] * penalty)
        return (logits / self.config.rules.temperature).softmax(-1).cpu().numpy()

    def _values(self, leaves: list[Leaf]) -> np.ndarray:
        """Has the discriminator read the leaves' texts from scratch; returns p(target) `[b]`."""
        start = self.judge.start_token
        texts = []
        for leaf in leaves:
            text = self._texts[leaf.row] + leaf.tokens
            texts.append(text if start is None else [start, *text[self._prompts[leaf.row] :]])
        states, _, _ = self.judge.network.read(*self._padded(texts, self.judge.network))
        log_class = self.judge.head(states[:, -1]).cpu().numpy()
        target = self._target[[leaf.row for leaf in leaves]]
        values = np.exp(log_class[np.arange(len(leaves)), target])
        if start is not None:
            # Of the start token alone there is nothing to say.
            empty = [len(text) == 1 for text in texts]
            values[empty] = np.float32(1 / log_class.shape[1])
        return values

    @staticmethod
    def _padded(texts: list[list[int]], network: Network) -> tuple[Tensor, Tensor]:
        """Pads texts on the left to a common length; returns tokens and mask `[b, S]`."""
        longest = max(map(len, texts))
        tokens = [[0] * (longest - len(text)) + text for text in texts]
        mask = [[False] * (longest - len(text)) + [True] * len(text) for text in texts]
        device = network.device
        return torch.tensor(tokens, device=device), torch.tensor(mask, device=device)


def likeliest(prior: np.ndarray, count: int) -> np.ndarray:
    """Returns the `count` likeliest tokens of `prior` `[V]`, by probability, then by token id."""
    least = np.partition(prior, -count)[-count]
    enough = np.flatnonzero(prior >= least)
    return enough[np.argsort(-prior[enough], kind="stable")[:count]]
