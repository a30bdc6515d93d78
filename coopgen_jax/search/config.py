"""What a search is told: its budget, its shape and its selection rule."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class SearchConfig:
    """Settings of one search; static under `jit`.

    The defaults are those of PPL-MCTS (Chaffin et al., 2022): PUCT with c = 3, first-play urgency
    zero, the priors of the 50 likeliest tokens not renormalised, one leaf at a time.

    simulations: how many evaluations one search may spend in every row; a multiple of `wave`.
    wave: `W`, leaves selected before the network is called once for all of them.
    policy: where the leaves of a wave stand. "spread": each is found by a walk of its own under
      virtual loss. "siblings": all hang from the node at which the first walk ended, as far as it
      has candidates. "descend": after a spread wave every lane goes down from its own leaf, one
      step per wave along the likeliest candidate, until `stride` waves have passed.
    stride: waves between two spread ones under "descend".
    considered: `m`, candidates of the root that sequential halving compares, at least `wave`; 0 for
      PUCT at the root as everywhere below it. Halving spends the whole budget, and the token
      written is the best of the candidates that it visited most.
    value_scale: what a value weighs beside a log prior at a root that is halved (c_scale).
    candidates: `K`, candidate tokens kept per node, at most the whole vocabulary.
    depth: `D`, depth below the root at which a node is evaluated but never expanded.
    c_puct: weight of the exploration term.
    first_play_urgency: mean value assumed of a child without visits: "zero"; "parent", the mean
      value of its parent; or "value", what its parent was itself evaluated at (PPO-MCTS; Liu et
      al., COLM 2024, arXiv 2309.15028). Where edges earn rewards the child's own is added.
    renormalise: whether the priors of a node's candidates are divided by their sum at selection;
      they are stored as they are either way.
    virtual_loss: how many visits of value zero a choice still waiting for its value counts in the
      mean value of the nodes above it; 0 leaves the means alone and only the visit counts grow, as
      where rewards have made a mean negative.
    kept: how many nodes besides the new root outlive `reroot`.
    early_stop: whether a row stops as soon as the simulations left cannot change which child of
      the root has the most visits. Set it to false where the choice is sampled from the visits;
      where the root is halved nothing stops early (`stops_early`).
    enough: visits of the root, those that outlived the last token included, at which a row stops
      before its simulations are spent; 0 for no such limit. With it a token whose subtree was kept
      costs less than one that took the search by surprise.
    """

    simulations: int = 32
    wave: int = 1
    policy: Literal["spread", "siblings", "descend"] = "spread"
    stride: int = 4
    considered: int = 0
    value_scale: float = 0.5
    candidates: int = 50
    depth: int = 16
    c_puct: float = 3.0
    first_play_urgency: Literal["zero", "parent", "value"] = "zero"
    renormalise: bool = False
    virtual_loss: float = 1.0
    kept: int = 32
    early_stop: bool = True
    enough: int = 0

    def __post_init__(self) -> None:
        for name in ("simulations", "wave", "stride", "candidates", "depth"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be 1 or more.")
        if self.enough < 0 or self.enough == 1:
            raise ValueError(
                f"enough is {self.enough}: give 2 visits or more (a root has one of its own), or 0 "
                "for no limit."
            )
        if self.kept < 0:
            raise ValueError(f"kept is {self.kept}: use 0 to keep nothing between two tokens.")
        if self.wave > self.candidates:
            raise ValueError(
                f"wave is {self.wave} but a node has only {self.candidates} candidates: "
                "lower wave or raise candidates."
            )
        if not 0 <= self.considered <= self.candidates:
            raise ValueError(
                f"considered is {self.considered} and a node has {self.candidates} candidates: "
                "give a number of them to halve, or 0 for none."
            )
        if self.policy not in ("spread", "siblings", "descend"):
            raise ValueError(f'policy is {self.policy!r}: use "spread", "siblings" or "descend".')
        if 0 < self.considered < self.wave:
            raise ValueError(
                f"wave is {self.wave} but halving compares only {self.considered} candidates, each "
                "of them once before any of them twice: lower wave or raise considered."
            )
        if self.considered and self.enough:
            raise ValueError(
                "sequential halving spends its whole budget: enough needs considered 0 (the preset "
                "puct)."
            )
        if self.considered and self.policy != "spread":
            raise ValueError(
                f"sequential halving places every leaf itself: policy {self.policy!r} needs "
                "considered 0 (the preset puct)."
            )
        if self.simulations % self.wave:
            more = self.simulations + -self.simulations % self.wave
            raise ValueError(
                f"simulations is {self.simulations}, not a multiple of wave ({self.wave}): "
                f"use {more} simulations or another wave."
            )
        for name in ("c_puct", "virtual_loss", "value_scale"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(
                    f"{name} is {getattr(self, name)}: it must be finite and 0 or more."
                )
        if self.first_play_urgency not in ("zero", "parent", "value"):
            raise ValueError(
                f'first_play_urgency is {self.first_play_urgency!r}: use "zero", "parent" or '
                '"value".'
            )

    @property
    def stops_early(self) -> bool:
        """Whether a row stops as soon as its choice is settled: halving has a schedule to keep."""
        return self.early_stop and not self.considered

    @property
    def nodes(self) -> int:
        """`N`, node slots: the root, then the kept nodes, then one per simulation."""
        return 1 + self.kept + self.simulations
