"""A round of cooperative training by several proposals, against one that PyTorch searches for.

Sampling, the discriminator's steps, weighing and the generator's step are timed phase by phase. All
rounds learn by additions (LoRA) from the same sources and the same texts of people, each from a
state of its own, and are timed in turn. The PyTorch round samples by the published search, one leaf
at a time from an empty tree: "in lock step" is ours like for like. What a round is worth is the
effective sample size of its texts, (sum w)^2 / sum w^2 of every source added up, so that proposals
compare by their seconds per effective text. The floor makes the round's network calls alone.

In the first round, which is not timed, both sides' texts and weights are checked.
"""

import math
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from benchmarks.baselines.cooperating import Outcome, TorchRound
from benchmarks.gcn_floor import Floor
from benchmarks.pytorch import set_threads, torch_device, versions
from benchmarks.rounds import (
    RATES,
    SHARE,
    Made,
    OurRound,
    Phases,
    make,
    proposals,
    round_config,
    rounds_of,
)
from benchmarks.settings import Settings, combinations
from benchmarks.suite import Benchmark, Row, draw_ratios
from benchmarks.timing import in_turn, ratio
from benchmarks.training import DECAY, LORA
from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig

TORCH = "PyTorch, in lock step"
LIKE = "tree search, in lock step"
PHASES = ("sampled", "judged", "weighed", "trained")
# How far a text's log-probability may lie from what the trained network says of it, in nats.
SLACK = {"float32": 1e-2, "bfloat16": 1.0}


def check_weights(tokens: Any, weight: Any, condition: Any, vocabulary: int) -> None:
    """Raises ValueError where texts `[M, T]` or their weights `[M]`, adding up to one, are wrong.

    `condition` `[M]` are the numbers of their sources, every one of which must weigh alike.
    """
    tokens, weight, condition = map(np.asarray, (tokens, weight, condition))
    if not ((tokens >= 0) & (tokens < vocabulary)).all():
        raise ValueError(f"a text has a token that is not one of the {vocabulary}")
    if not (np.isfinite(weight).all() and (weight >= 0).all()):
        raise ValueError(f"a text's weight is no number or below 0: {weight}")
    sources = np.unique(condition)
    sums = [float(weight[condition == source].sum()) * len(sources) for source in sources]
    if not np.allclose(sums, 1, atol=1e-3):
        raise ValueError(f"the weights of a source add up to {sums}: it must be 1 each")


def check_outcome(outcome: Outcome, samples: int, vocabulary: int, dtype: str) -> None:
    """Raises ValueError where what PyTorch's search has drawn or weighed is wrong."""
    texts = outcome.texts
    condition = np.repeat(np.arange(len(outcome.sources)), samples)
    check_weights(texts.tokens, outcome.weight, condition, vocabulary)
    least = texts.log_prob + texts.tokens.shape[1] * math.log(SHARE)
    if not (texts.log_proposal >= least - 1e-3).all():
        raise ValueError("a text was drawn with less than the language model's own share")
    if not np.allclose(outcome.log_prob, texts.log_prob, atol=SLACK[dtype]):
        raise ValueError(
            f"the search has drawn texts of log-probability {texts.log_prob}, and the network that "
            f"is trained says {outcome.log_prob}: they must be the same"
        )


class TheirRound:
    """PyTorch's rounds, from the same networks and the same texts of people."""

    def __init__(self, made: Made, proposal: MCTSConfig, sources: int):
        self.config, self.phases = round_config(proposal, sources), Phases()
        self.rounds, self.shares = rounds_of(made, self.config), list[float]()
        self.torch = TorchRound(
            proposal,
            made.networks.discriminator,
            made.params,
            made.trainable,
            scale=LORA.alpha / LORA.rank,
            rates=RATES,
            decay=DECAY,
            judge_rows=self.config.discriminator_rows,
            judge_steps=self.config.discriminator_steps,
            told=self.phases.told,
            device=torch_device(),
        )

    def __call__(self) -> None:
        """Goes through a round."""
        number = len(self.phases.rounds)
        drawn = self.rounds[number]
        self.phases.begin()
        outcome = self.torch(np.asarray(drawn.prompt.tokens), np.asarray(drawn.human["tokens"]))
        self.shares.append(outcome.effective_share)
        if not number:
            shape = self.torch.network.config
            check_outcome(outcome, self.config.proposal.samples, shape.vocab_size, shape.dtype)


def figures(phases: Phases, shares: list[float], seconds: list[float], texts: int) -> Row:
    """Returns medians of the timed rounds, and their seconds per effective text."""
    timed = phases.rounds[1:]
    effective = [float(share) * texts for share in shares[1:]]
    return {
        "round_seconds": statistics.median(seconds),
        **{name: statistics.median(each[name] for each in timed) for name in PHASES},
        "first_seconds": sum(phases.rounds[0].values()),
        "effective_share": statistics.mean(effective) / texts,
        "seconds_per_effective": sum(seconds) / sum(effective),
    }


def measure_one(settings: Settings, axes: dict[str, int]) -> Iterator[Row]:
    """Times all rounds of one shape in turn."""
    made = make(settings, source=axes["prompt_length"], text=axes["new_tokens"])
    vocabulary, texts = made.networks.generator.vocab_size, axes["batch"] * axes["samples"]
    chosen = proposals(axes, vocabulary)
    search = chosen[LIKE]
    assert isinstance(search, MCTSConfig)
    if settings.quick:
        # Most of what a tiny round takes is compiling it.
        chosen = {LIKE: search}

    def check(sampled: Any, weight: Any) -> None:
        share = np.asarray(weight) / texts
        check_weights(sampled.rows["tokens"], share, sampled.condition, vocabulary)

    ours = {name: OurRound(made, each, axes["batch"], check) for name, each in chosen.items()}
    theirs = TheirRound(made, search, axes["batch"])
    functions: dict[str, Callable[[], Any]] = {TORCH: theirs, **ours}
    drawn = theirs.rounds[0]
    for name, each in chosen.items():
        if isinstance(each, MCTSConfig):
            functions[f"floor of {name}"] = Floor(made, each, drawn)
    if torch_device() == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = in_turn(functions, settings.repeats or 1)
    stated = versions() | axes | {"trained": f"LoRA {LORA.rank}"}
    base = figures(theirs.phases, theirs.shares, seconds[TORCH], texts)
    peak = torch.cuda.max_memory_allocated() / 1e6 if torch_device() == "cuda" else None
    yield stated | base | ratio(seconds[TORCH], seconds[TORCH]) | {
        "proposal": TORCH, "wave": 1, "equal_effective": 1.0, "torch_megabytes": peak
    }  # fmt: skip
    for name, own in ours.items():
        proposal, floor = chosen[name], seconds.get(f"floor of {name}")
        shares = [float(means["effective_share"]) for means in own.means]
        found = figures(own.phases, shares, seconds[name], texts)
        searches = isinstance(proposal, MCTSConfig)
        yield stated | found | ratio(seconds[TORCH], seconds[name]) | {
            "proposal": name,
            "simulations": axes["simulations"] if searches else None,
            "depth": axes["depth"] if searches else None,
            "wave": proposal.search.wave if isinstance(proposal, MCTSConfig) else None,
            "equal_effective": base["seconds_per_effective"] / found["seconds_per_effective"],
            "floor_seconds": statistics.median(floor) if floor else None,
            "over_floor": ratio(seconds[name], floor)["ratio"] if floor else None,
            "state_megabytes": own.state_bytes / 1e6,
        }  # fmt: skip


def measure(settings: Settings) -> Iterator[Row]:
    """Times every combination of the axes."""
    set_threads(settings.threads)
    for axes in combinations(settings):
        yield from measure_one(settings, axes)


def draw(rows: list[Row], axes: Any) -> None:
    """Draws how many times faster every round is than PyTorch's."""
    draw_ratios(rows, [row["proposal"] for row in rows], axes)
    axes.set_xlabel("times as fast as PyTorch's round")


GCN_ROUND = Benchmark(
    name="gcn_round",
    about="a round of cooperative training against one that PyTorch searches for",
    measure=measure,
    columns=(
        ("proposal", "proposal", ""),
        ("batch", "sources", "d"),
        ("samples", "samples", "d"),
        ("new_tokens", "tokens", "d"),
        ("simulations", "simulations", "d"),
        ("wave", "wave", "d"),
        ("round_seconds", "round s", ".2f"),
        *((name, f"{name} s", ".2f") for name in PHASES),
        ("ratio", "times as fast", ".2f"),
        ("floor_seconds", "floor s", ".2f"),
        ("over_floor", "/ floor", ".2f"),
        ("effective_share", "effective share", ".2f"),
        ("seconds_per_effective", "s / effective text", ".2f"),
        ("equal_effective", "times as fast to it", ".2f"),
        ("state_megabytes", "state MB", ".0f"),
        ("torch_megabytes", "PyTorch MB", ".0f"),
    ),
    own={
        "batch": (2,),
        "samples": (4,),
        "prompt_length": (8,),
        "new_tokens": (8,),
        "simulations": (16,),
        "wave": (4,),
        "depth": (8,),
        "repeats": 3,
    },
    quick={
        "batch": (1,), "samples": (2,), "prompt_length": (3,), "new_tokens": (2,),
        "simulations": (4,), "depth": (3,),
    },
    draw=draw,
)  # fmt: skip
