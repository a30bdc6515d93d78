"""The settings of a search: its budget, its shape, and how the root is searched."""

from dataclasses import dataclass
from typing import ClassVar, Literal


@dataclass(frozen=True)
class Puct:
    """PUCT at the root, as everywhere below it; the most visited child is the best.

    Attributes:
      early_stop: stops a row once no simulation left can change the most visited child.
      visit_limit: visits of the root at which a row stops; 0 for no limit. Those that outlived the
        last token count. With it a token whose subtree
        was kept costs less than one that took the search by surprise.
    """

    early_stop: bool = True
    visit_limit: int = 0

    def __post_init__(self) -> None:
        if self.visit_limit < 0 or self.visit_limit == 1:
            raise ValueError(
                f"visit_limit is {self.visit_limit}: give 2 visits or more (a root has one of its "
                "own), or 0 for no limit."
            )


@dataclass(frozen=True)
class Halving:
    """Sequential halving at the root, which spends the whole budget.

    The best child is the best of the candidates that it visited most.

    Attributes:
      considered: `M`, candidates of the root that are halved. At least `wave`.
      value_scale: what a value weighs beside a log prior. It is the paper's c_scale.
    """

    selected_by: ClassVar[str] = "considered"

    considered: int = 16
    value_scale: float = 0.5

    def __post_init__(self) -> None:
        if self.considered < 1:
            raise ValueError(f"considered is {self.considered}: give 1 candidate or more.")
        if not 0 <= self.value_scale < float("inf"):
            raise ValueError(f"value_scale is {self.value_scale}: it must be finite and 0 or more.")


@dataclass(frozen=True)
class SearchConfig:
    """Settings of one search; static under `jit`.

    The defaults are those of PPL-MCTS (Chaffin et al., 2022): PUCT with c = 3, first-play urgency
    zero, the 50 likeliest tokens, one leaf at a time.

    Attributes:
      simulations: evaluations that one search may spend in every row, a multiple of `wave`.
      wave: `W`, leaves selected before the network is called once for all of them.
      root: how the root is searched.
      candidates: `K`, candidate tokens kept per node, at most the whole vocabulary.
      depth: `D`, depth below the root at which a node is evaluated but never expanded.
      c_puct: weight of the exploration term.
      first_play_urgency: value of a child without visits: "zero", its "parent"'s mean, or the
        "value" its parent was evaluated at. The last is PPO-MCTS's (Liu et al., COLM 2024, arXiv
        2309.15028). Where edges earn rewards the child's own is added.
      reused_nodes: nodes below the root that outlive a token.
    """

    simulations: int = 32
    wave: int = 1
    root: Puct | Halving = Puct()
    candidates: int = 50
    depth: int = 16
    c_puct: float = 3.0
    first_play_urgency: Literal["zero", "parent", "value"] = "zero"
    reused_nodes: int = 32

    def __post_init__(self) -> None:
        for name in ("simulations", "wave", "candidates", "depth"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be 1 or more.")
        if self.reused_nodes < 0:
            raise ValueError(
                f"reused_nodes is {self.reused_nodes}: use 0 to keep nothing between two tokens."
            )
        if self.wave > self.candidates:
            raise ValueError(
                f"wave is {self.wave} but a node has only {self.candidates} candidates: "
                "lower wave or raise candidates."
            )
        if isinstance(self.root, Halving):
            self._check_halving(self.root.considered)
        if self.simulations % self.wave:
            more = self.simulations + -self.simulations % self.wave
            raise ValueError(
                f"simulations is {self.simulations}, not a multiple of wave ({self.wave}): "
                f"use {more} simulations or another wave."
            )
        if not 0 <= self.c_puct < float("inf"):
            raise ValueError(f"c_puct is {self.c_puct}: it must be finite and 0 or more.")
        if self.first_play_urgency not in ("zero", "parent", "value"):
            raise ValueError(
                f'first_play_urgency is {self.first_play_urgency!r}: use "zero", "parent" or '
                '"value".'
            )

    def _check_halving(self, considered: int) -> None:
        if considered > self.candidates:
            raise ValueError(
                f"considered is {considered} and a node has {self.candidates} candidates: "
                "give a number of them to halve, or 0 for none."
            )
        if considered < self.wave:
            raise ValueError(
                f"wave is {self.wave} but halving compares only {considered} candidates, each "
                "of them once before any of them twice: lower wave or raise considered."
            )

    @property
    def stops_early(self) -> bool:
        """Whether a row stops as soon as its choice is settled: halving has a schedule to keep."""
        return isinstance(self.root, Puct) and self.root.early_stop

    @property
    def visit_limit(self) -> int:
        """Visits of the root at which a row stops, 0 for no limit."""
        return self.root.visit_limit if isinstance(self.root, Puct) else 0

    @property
    def nodes(self) -> int:
        """`N`, node slots: the root, then the reused nodes, then one per simulation."""
        return 1 + self.reused_nodes + self.simulations
