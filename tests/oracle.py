"""A toy language of small integers, and the search written again with objects and recursion.

Every prior and value of the toy language is a multiple of 1/64, so float32 sums of them are exact
and the compiled search can be compared bit for bit.
"""

import functools

import numpy as np

from coopgen_jax.search import Expansion, Halving, SearchConfig, Tree

UNIT = 64


class Language:
    """A table-driven language model and discriminator: a random automaton that reads tokens.

    A text is known by the state it leads to. Token 0 ends a text: it leads to one of the `ends`
    states, whose own continuations exist in the tables and must never be used. Where it is
    `rewarded`, going on from a state by a token earns something, or costs it.
    """

    def __init__(
        self,
        seed: int,
        vocab: int,
        states: int = 97,
        ends: int = 5,
        sparse: bool = True,
        rewarded: bool = False,
    ):
        rng = np.random.default_rng(seed)
        total = states + ends
        self.vocab, self.states = vocab, states
        self.step = rng.integers(0, states, (total, vocab))
        self.step[:, 0] = rng.integers(states, total, total)
        self.terminal = np.arange(total) >= states
        self.value = (rng.integers(0, UNIT + 1, total) / UNIT).astype(np.float32)
        skew = rng.dirichlet(np.full(vocab, 0.4 if sparse else 2.0), total)
        self.prior = np.stack([rng.multinomial(UNIT, row) for row in skew]) / UNIT
        earned = rng.integers(-2 * UNIT, UNIT // 2, (total, vocab)) / UNIT
        self.reward = earned.astype(np.float32) if rewarded else None

    @classmethod
    def of_strings(cls, seed: int, vocab: int, length: int, rewarded: bool = False) -> "Language":
        """Returns a language in which every string up to `length` has a value of its own."""
        inner = sum(vocab**n for n in range(length + 1))
        language = cls(seed, vocab, states=inner, sparse=False, rewarded=rewarded)
        rng = np.random.default_rng(seed)
        for state in range(inner):
            child = state * vocab + 1 + np.arange(vocab)
            language.step[state] = np.minimum(child, inner - 1)
        language.value = rng.permutation(len(language.value)).astype(np.float32) / 256
        return language

    def candidates(self, state: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the `size` likeliest tokens, padded, and their priors."""
        order = sorted(range(self.vocab), key=lambda token: (-self.prior[state, token], token))
        order = (order + [0] * size)[:size]
        prior = self.prior[state, order]
        prior[self.vocab :] = 0
        return np.array(order), prior.astype(np.float32)

    def tables(self, size: int) -> dict[str, np.ndarray]:
        """Returns what an `Expansion` holds, for every state."""
        rows = [self.candidates(state, size) for state in range(len(self.value))]
        priors = np.stack([prior for _, prior in rows])
        earned = None
        if self.reward is not None:
            every = range(len(self.value))
            earned = np.stack([self.rewards(state, rows[state][0]) for state in every])
        return {
            "tokens": np.stack([token for token, _ in rows]).astype(np.int32),
            "priors": priors,
            "log_probs": np.log(np.maximum(priors, 1e-9)).astype(np.float32) - 1,
            "log_class": np.stack([self.value, -self.value], axis=1),
            "value": self.value,
            "terminal": self.terminal,
            "rewards": earned,
        }

    def rewards(self, state: int, tokens: np.ndarray) -> np.ndarray:
        """Returns what going on by each of the candidate tokens earns."""
        if self.reward is None:
            return np.zeros(len(tokens), np.float32)
        return self.reward[state, tokens]


@functools.cache
def halving_schedule(considered: int, simulations: int) -> list[int]:
    """Returns the visits that the candidate of each simulation has had, by playing them."""
    rounds = max(1, int(np.ceil(np.log2(considered))))
    visits, left, wanted = [0] * considered, considered, []
    while len(wanted) < simulations:
        for _ in range(max(1, simulations // (rounds * left))):
            for rank in range(left):
                wanted.append(visits[rank])
                visits[rank] += 1
        left = max(min(2, considered), left // 2)
    return wanted[:simulations]


class Node:
    def __init__(
        self, search: "Search", state: int, parent: "Node | None", rank: int, prior: float
    ):
        self.search, self.state, self.parent, self.rank = search, state, parent, rank
        self.token = -1 if parent is None else int(parent.tokens[rank])
        self.depth = 0 if parent is None else parent.depth + 1
        self.log_likelihood = 0.0 if parent is None else parent.log_likelihood + np.log(prior)
        self.tokens, self.priors = search.language.candidates(state, search.config.candidates)
        self.rewards = search.language.rewards(state, self.tokens)
        self.terminal = bool(search.language.terminal[state])
        self.own = search.language.value[state]
        self.slot = 0
        self.children: dict[int, Node] = {}
        self.visits, self.total, self.virtual, self.credits = 0, np.float32(0), 0, 0
        self.earlier = 0

    def score(self, rank: int) -> np.float32:
        config = self.search.config
        prior = self.priors[rank]
        spread = np.float32(config.c_puct) * np.sqrt(np.float32(self.visits + self.virtual))
        child = self.children.get(rank)
        if child is None:
            urgencies = {
                "zero": np.float32(0),
                "parent": self.total / np.float32(self.visits),
                "value": np.float32(self.own),
            }
            return urgencies[config.first_play_urgency] + self.rewards[rank] + spread * prior
        loss = np.float32(child.virtual)
        if child.total < 0:  # visits of value zero would be no loss
            loss = np.float32(0)
        q = child.total / (np.float32(child.visits) + loss) + self.rewards[rank]
        return q + spread * (prior / np.float32(1 + child.visits + child.virtual))

    def halved(self, rank: int, most: int) -> float:
        child, root = self.children.get(rank), self.search.config.root
        node = child if child is not None and child.visits else self
        q = node.total / np.float32(node.visits) + self.rewards[rank]
        return np.log(self.priors[rank]) + np.float32(root.value_scale * (50 + most)) * q

    def recent(self, rank: int) -> int:
        """Returns a candidate's visits in this search, waiting ones included."""
        child = self.children.get(rank)
        return 0 if child is None else child.visits - child.earlier + child.virtual

    def candidate(self, free: list[int], number: int) -> int | None:
        """Returns the candidate that sequential halving visits in a simulation, if it has one."""
        most = max(self.recent(rank) for rank in range(len(self.priors)))
        config = self.search.config
        considered = min(config.root.considered, int(np.sum(self.priors > 0)))
        wanted = halving_schedule(considered, config.simulations)[number]
        equals = [rank for rank in free if self.recent(rank) == wanted]
        return max(equals, key=lambda rank: (self.halved(rank, most), -rank), default=None)

    def pick(self, number: int) -> "Node | None":
        """Walks on from here; returns the leaf, or None if everything below waits for its value."""
        real = [rank for rank, prior in enumerate(self.priors) if prior > 0]
        waiting = [rank for rank, child in self.children.items() if child.visits == 0]
        free = [rank for rank in real if rank not in waiting]
        scores = {rank: self.score(rank) for rank in free}
        self.virtual += 1
        if self.terminal or self.depth == self.search.config.depth or not real:
            return self
        if not free:
            return None
        rank = max(free, key=lambda rank: (scores[rank], -rank))
        if self.parent is None and isinstance(self.search.config.root, Halving):
            chosen = self.candidate(free, number)
            rank = rank if chosen is None else chosen
        if rank in self.children:
            return self.children[rank].pick(number)
        state = int(self.search.language.step[self.state, self.tokens[rank]])
        self.children[rank] = Node(self.search, state, self, rank, self.priors[rank])
        return self.children[rank]

    def credit(self, value: np.float32) -> None:
        self.visits += 1
        self.total = np.float32(self.total + value)
        if self.parent is not None:
            self.parent.credit(value + self.parent.rewards[self.rank])

    def subtree(self) -> list["Node"]:
        return [self] + [node for child in self.children.values() for node in child.subtree()]


class Search:
    """One tree."""

    def __init__(self, language: Language, config: SearchConfig, state: int):
        self.language, self.config = language, config
        self.root = Node(self, state, None, -1, 1.0)
        self.root.credit(self.root.own)
        self.root.credits = 1
        self.leaves: list[Node | None] = []

    def run(self, waves: int, first: int = 0) -> list[list[int]]:
        """Runs waves from number `first` on; returns the visits by slot before each wave."""
        history = []
        if first == 0:
            for node in self.root.subtree():
                node.earlier = node.visits
        for wave in range(first, first + waves):
            history.append(self.visits())
            leaves: list[Node | None] = []
            self.leaves = leaves
            for lane in range(self.config.wave):
                number = wave * self.config.wave + lane
                leaf = self.root.pick(number)
                if leaf is not None and leaf.visits == 0:
                    leaf.slot = 1 + self.config.reused_nodes + wave * self.config.wave + lane
                leaves.append(leaf)
            for leaf in leaves:
                if leaf is not None:
                    leaf.credits += 1
                    leaf.credit(leaf.own)
            for node in self.root.subtree():
                node.virtual = 0
        return history

    def visits(self) -> list[int]:
        visits = [0] * self.config.nodes
        for node in self.root.subtree():
            visits[node.slot] = node.visits
        return visits

    def best(self) -> int:
        visits = self.root_visits()
        if not isinstance(self.config.root, Halving):
            return visits.index(max(visits))
        recent = [self.root.recent(rank) for rank in range(self.config.candidates)]
        last = [rank for rank, count in enumerate(recent) if count == max(recent) > 0]
        return max(last, key=lambda rank: (self.root.halved(rank, max(recent)), -rank), default=0)

    def root_visits(self) -> list[int]:
        children = self.root.children
        return [
            children[rank].visits if rank in children else 0
            for rank in range(self.config.candidates)
        ]

    def lead(self) -> int:
        first, second, *_ = [*sorted(self.root_visits(), reverse=True), 0]
        return first - second

    def revalue(self) -> None:
        """Values all nodes anew, as the language sees them now."""
        for node in self.root.subtree():
            old, node.own = node.own, self.language.value[node.state]
            above: Node | None = node
            while above is not None:
                above.total = np.float32(above.total + node.credits * (node.own - old))
                above = above.parent

    def reroot(self, rank: int) -> dict[int, int]:
        """Moves the root; returns which old slot each new slot came from."""
        self.root = self.root.children[rank]
        self.root.parent, self.root.rank = None, -1
        below = sorted(self.root.subtree()[1:], key=lambda node: (-node.visits, node.slot))
        for node in below[self.config.reused_nodes :]:
            assert node.parent is not None
            del node.parent.children[node.rank]
        held = sorted(self.root.subtree()[1:], key=lambda node: node.slot)
        base = self.root.log_likelihood
        source = {}
        for slot, node in enumerate([self.root, *held]):
            source[slot], node.slot = node.slot, slot
            node.depth -= 1
            node.log_likelihood -= base
        return source


def assert_same(tree: Tree, search: Search) -> None:
    """Asserts that a tree without the axes `B` and `R` holds exactly the search's nodes."""
    found = {node.slot: node for node in search.root.subtree()}
    assert len(found) == len(search.root.subtree())
    visits = np.asarray(tree.visits)
    np.testing.assert_array_equal(visits, search.visits())
    tables = search.language.tables(search.config.candidates)
    for slot in range(len(visits)):
        node = found.get(slot)
        if node is None:
            assert int(tree.parent[slot]) == -1 and not np.any(np.asarray(tree.children[slot]) >= 0)
            continue
        assert int(tree.parent[slot]) == (-1 if node.parent is None else node.parent.slot)
        assert int(tree.rank[slot]) == node.rank
        assert int(tree.token[slot]) == node.token
        assert int(tree.depth[slot]) == node.depth
        assert float(tree.value_sum[slot]) == node.total
        assert int(tree.credits[slot]) == node.credits
        assert int(tree.earlier[slot]) == node.earlier
        np.testing.assert_allclose(tree.log_likelihood[slot], node.log_likelihood, atol=1e-5)
        children = [-1] * search.config.candidates
        for rank, child in node.children.items():
            children[rank] = child.slot
        np.testing.assert_array_equal(tree.children[slot], children)
        for name in (*Expansion.__dataclass_fields__,):
            if tables[name] is None:
                assert getattr(tree, name) is None
                continue
            np.testing.assert_array_equal(getattr(tree, name)[slot], tables[name][node.state])
