"""Search trees of a whole batch in NumPy, walked all at once.

The rules are those of `coopgen_jax.search`: PUCT with first-play urgency, waves under virtual loss,
mean backup, re-rooting that keeps the most visited nodes. What differs is the layout, made for a
host: the two terms of a candidate's score that change only when its child is credited are stored
with its parent, so that a step of a walk reads three numbers per candidate and follows no child.

A node is known by `row * N + n`, its index in arrays without a batch axis. Shape letters: `B`
prompts, `N` nodes, `W` leaves of one wave, `D` longest path, `K` candidates.
"""

from dataclasses import dataclass

import numpy as np

from coopgen_jax.search.config import SearchConfig

# What is stored of a candidate: its mean value, prior / (1 + visits), and whether it is untried.
_MEAN, _RATIO, _UNTRIED = range(3)


@dataclass(frozen=True)
class Leaves:
    """The leaves of a wave, `[B, W]` each.

    fresh: true where a new node is made.
    node: the new node, the node revisited, or -1 where the lane is idle.
    parent: the new node's parent, the row's root where there is none.
    rank: which of its parent's candidates it is.
    token: its token, 0 unless fresh.
    depth: its depth, 1 unless fresh.
    trail: `[B, W, D]` the nodes below the root that the walk stood on, -1 behind them.
    """

    fresh: np.ndarray
    node: np.ndarray
    parent: np.ndarray
    rank: np.ndarray
    token: np.ndarray
    depth: np.ndarray
    trail: np.ndarray


class Trees:
    """One tree per prompt; node 0 of every row is its root.

    Args:
      batch: `B`.
      candidates: `K`.
      config: budget, shape and selection rule.
      margins: whether the smallest gap between scores is kept track of.
    """

    def __init__(self, batch: int, candidates: int, config: SearchConfig, *, margins: bool):
        self.config, self.batch = config, batch
        count = batch * config.nodes
        self.roots = np.arange(batch) * config.nodes
        self.tokens = np.zeros((count, candidates), np.int64)
        self.priors = np.zeros((count, candidates), np.float32)
        self.children = np.full((count, candidates), -1)
        self.edges = np.zeros((count, 3, candidates), np.float32)
        self.parent = np.full(count, -1)
        self.rank = np.full(count, -1)
        self.depth = np.zeros(count, np.int64)
        # Counts are float32, exact far beyond any budget: nothing is converted on a walk.
        self.visits = np.zeros(count, np.float32)
        self.virtual = np.zeros(count, np.float32)
        self.value_sum = np.zeros(count, np.float32)
        self.value = np.zeros(count, np.float32)
        self.terminal = np.zeros(count, bool)
        self.margins = margins
        self.margin = np.full(batch, np.inf if margins else np.nan, np.float32)

    def plant(self, tokens: np.ndarray, priors: np.ndarray, value: np.ndarray) -> None:
        """Gives the roots their candidates `[B, K]` and values `[B]`."""
        self._write(self.roots, tokens, priors, value)

    def _write(
        self, nodes: np.ndarray, tokens: np.ndarray, priors: np.ndarray, value: np.ndarray
    ) -> None:
        """Writes evaluated nodes, each visited once."""
        self.tokens[nodes], self.priors[nodes] = tokens, priors
        self.value[nodes] = self.value_sum[nodes] = value
        self.visits[nodes] = 1
        self._untry(nodes)

    def _untry(self, nodes: np.ndarray) -> None:
        """Writes the scores' terms of candidates none of which has a child."""
        priors = self.priors[nodes]
        self.edges[nodes, _MEAN] = np.where(priors > 0, np.float32(0), -np.inf)
        self.edges[nodes, _RATIO] = priors
        self.edges[nodes, _UNTRIED] = 1

    def _refresh(self, nodes: np.ndarray) -> None:
        """Brings the stored terms of nodes' scores up to date; a node may occur more than once."""
        parent, rank = self.parent[nodes], self.rank[nodes]
        visits, waiting = self.visits[nodes], self.virtual[nodes]
        self.edges[parent, _MEAN, rank] = self.value_sum[nodes] / (visits + waiting)
        self.edges[parent, _RATIO, rank] = self.priors[parent, rank] / (1 + visits + waiting)
        self.edges[parent, _UNTRIED, rank] = 0

    def scores(self, nodes: np.ndarray) -> np.ndarray:
        """Returns the PUCT scores `[n, K]` of nodes' candidates.

        PPL-MCTS (Chaffin et al., 2022), equation 5.1 of the thesis version; see
        `coopgen_jax.search.selection.puct`.
        """
        edges = self.edges.take(nodes, axis=0)
        passed = self.visits[nodes] + self.virtual[nodes]
        spread = np.float32(self.config.c_puct) * np.sqrt(passed)
        scores = spread[:, None] * edges[:, _RATIO]
        scores += edges[:, _MEAN]
        if self.config.first_play_urgency == "parent":
            urgency = self.value_sum[nodes] / self.visits[nodes]
            scores += urgency[:, None] * edges[:, _UNTRIED]
        return scores

    def select(self, live: np.ndarray, first: int) -> Leaves:
        """Selects the leaves of a wave, one lane after another, all rows at once.

        Args:
          live: `[B]` bool, false where all lanes are to be idle.
          first: the node number of lane 0, the same in every row.
        """
        shape = (self.batch, self.config.wave)
        leaves = Leaves(
            fresh=np.zeros(shape, bool),
            node=np.full(shape, -1),
            parent=np.broadcast_to(self.roots[:, None], shape).copy(),
            rank=np.zeros(shape, np.int64),
            token=np.zeros(shape, np.int64),
            depth=np.ones(shape, np.int64),
            trail=np.full((*shape, self.config.depth), -1),
        )
        rows = np.flatnonzero(live)
        for lane in range(self.config.wave):
            self._walk(rows, lane, first + lane, leaves)
            if lane + 1 < self.config.wave:
                trail = leaves.trail[:, lane]
                stood = trail[trail >= 0]
                self.virtual[stood] += 1
                self.virtual[self.roots[rows]] += 1
                self._refresh(stood)
        return leaves

    def _walk(self, rows: np.ndarray, lane: int, slot: int, leaves: Leaves) -> None:
        """Walks down from the roots by the highest score, the lowest rank among equals."""
        nodes = self.roots[rows]
        for depth in range(self.config.depth):
            if not rows.size:
                return
            scores = self.scores(nodes)
            rank = scores.argmax(axis=1)
            each = np.arange(len(rows))
            best = scores[each, rank]
            possible = best > -np.inf
            if self.margins:
                scores[each, rank] = -np.inf
                gap = np.where(possible, best, np.inf) - scores.max(axis=1)
                self.margin[rows] = np.minimum(self.margin[rows], gap)
            child = self.children[nodes, rank]
            descend = possible & (child >= 0)
            if not descend.all():
                fresh = possible & (child < 0)
                if fresh.any():
                    self._name(rows[fresh], nodes[fresh], rank[fresh], lane, slot, leaves)
                # A node without any candidate is treated as the end of a text.
                barren = ~possible & (self.priors[nodes, 0] <= 0)
                leaves.node[rows[barren], lane] = nodes[barren]
                rows, child = rows[descend], child[descend]
            leaves.trail[rows, lane, depth] = child
            ended = self.terminal[child]
            if depth + 1 == self.config.depth:
                ended = np.ones_like(ended)
            if ended.any():
                leaves.node[rows[ended], lane] = child[ended]
                rows, child = rows[~ended], child[~ended]
            nodes = child

    def _name(
        self,
        rows: np.ndarray,
        nodes: np.ndarray,
        rank: np.ndarray,
        lane: int,
        slot: int,
        leaves: Leaves,
    ) -> None:
        """Makes new children known to their parents; until they have a value none is chosen."""
        new = self.roots[rows] + slot
        self.children[nodes, rank] = new
        self.edges[nodes, _MEAN, rank] = -np.inf
        self.parent[new], self.rank[new] = nodes, rank
        self.depth[new] = self.depth[nodes] + 1
        leaves.fresh[rows, lane] = True
        leaves.node[rows, lane], leaves.parent[rows, lane] = new, nodes
        leaves.rank[rows, lane] = rank
        leaves.token[rows, lane] = self.tokens[nodes, rank]
        leaves.depth[rows, lane] = self.depth[new]

    def insert(
        self,
        leaves: Leaves,
        tokens: np.ndarray,
        priors: np.ndarray,
        value: np.ndarray,
        terminal: np.ndarray,
    ) -> None:
        """Writes the fresh leaves and credits every node above all leaves, lane after lane.

        Args:
          leaves: the leaves.
          tokens: `[B, W, K]` candidates of each.
          priors: `[B, W, K]` their priors.
          value: `[B, W]` what each is worth; read where it is fresh.
          terminal: `[B, W]` bool, true where a fresh leaf ends its text.
        """
        new = leaves.node[leaves.fresh]
        self._write(new, tokens[leaves.fresh], priors[leaves.fresh], value[leaves.fresh])
        self.terminal[new] = terminal[leaves.fresh]
        if self.config.wave > 1:
            self.virtual.fill(0)
        value = np.where(leaves.fresh, value, self.value[leaves.node])
        for lane in range(self.config.wave):
            busy = leaves.node[:, lane] >= 0
            trail = leaves.trail[busy, lane]
            above = trail >= 0
            stood = np.concatenate([self.roots[busy], trail[above]])
            amount = value[busy, lane]
            self.visits[stood] += 1
            self.value_sum[stood] += np.concatenate([amount, amount.repeat(above.sum(axis=1))])
        self._refresh(np.concatenate([new, leaves.trail[leaves.trail >= 0]]))

    def choose(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns each root's most visited child, its token, and its lead in visits, `[B]` each.

        The lowest rank wins among equals; of a root without children the child is the root.
        """
        child = self.children[self.roots]
        visits = np.where(child >= 0, self.visits[child], 0)
        rank = visits.argmax(axis=1)
        each = np.arange(self.batch)
        most = visits[each, rank]
        visits[each, rank] = 0
        chosen = np.maximum(child[each, rank], self.roots)
        lead = (most - visits.max(axis=1)).astype(np.int64)
        return chosen, self.tokens[self.roots, rank], lead

    def reroot(self, chosen: np.ndarray) -> np.ndarray:
        """Makes `chosen` `[B]` the roots and keeps the `kept` most visited nodes below each.

        The rule of `coopgen_jax.search.tree.reroot`: the lower index first among equals, in the
        order of their old indices; with `kept` 0 the root starts again from its own evaluation.

        Returns:
          `[B, 1 + kept]` the old numbers, counted within the row, of the new root and of the nodes
          that are now 1 to `kept`; 0 where there is none.
        """
        kept, count = self.config.reused_nodes, self.config.nodes
        numbers = np.arange(self.batch * count)
        # Pointer doubling: every node ends at its new root if it is below it, else at the old one.
        above = np.where(self.parent >= 0, self.parent, numbers // count * count)
        above[chosen] = chosen
        for _ in range((count - 1).bit_length()):
            above = above[above]
        below = (above == chosen.repeat(count)) & (numbers != chosen.repeat(count))
        visits = np.where(below, self.visits, 0).reshape(self.batch, count)
        best = np.argsort(-visits, axis=1, kind="stable")[:, :kept]
        there = np.take_along_axis(visits, best, axis=1) > 0
        best = np.sort(np.where(there, best, count), axis=1)
        there = best < count

        old = (self.roots[:, None] + best)[there]
        new = (self.roots[:, None] + 1 + np.arange(kept))[there]
        old, new = np.concatenate([chosen, old]), np.concatenate([self.roots, new])
        renamed = np.full(len(numbers) + 1, -1)
        renamed[old] = new
        carried = ("tokens", "priors", "rank", "depth", "visits", "value_sum", "value", "terminal")
        moved = {name: getattr(self, name)[old] for name in carried}
        moved["parent"] = renamed[self.parent[old]]
        moved["children"] = renamed[self.children[old]]
        moved["depth"] -= self.depth[chosen][new // count]
        self.children.fill(-1)
        self.parent.fill(-1)
        for name in ("visits", "value_sum", "depth", "terminal"):
            getattr(self, name).fill(0)
        for name, values in moved.items():
            getattr(self, name)[new] = values
        self.parent[self.roots] = self.rank[self.roots] = -1
        if kept == 0:
            self.visits[self.roots] = 1
            self.value_sum[self.roots] = self.value[self.roots]
        self._untry(new)
        self._refresh(new[self.batch :])
        return np.concatenate([(chosen - self.roots)[:, None], np.where(there, best, 0)], axis=1)
