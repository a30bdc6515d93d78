"""Settings of texts for sources: what is trained, and how every generator writes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.mcts.mcts_config import ByValues, ByVisits, MCTSConfig
from coopgen_jax.decoding.methods.beam import BeamConfig
from coopgen_jax.decoding.methods.das import DASConfig
from coopgen_jax.decoding.methods.rerank import RerankConfig
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.search.config import SearchConfig
from coopgen_jax.training.gcn.gcn_config import GcnConfig

FIRST = "maximum likelihood"


@dataclass(frozen=True)
class Config:
    """What to train, to write and to measure.

    Attributes:
      data: A folder with train.jsonl and test.jsonl.
      work: Where everything trained and written goes.
      out: Where table and picture go.
      name: Of table and picture.
      source: The column of sources.
      text: The column of texts.
      objectives: Objectives that the generator goes on by after maximum likelihood.
      model: The language model that everything begins as.
      layers: Only so many of its first layers, for a trial.
      template: What a source is put into.
      source_tokens: Tokens of a source, at most.
      new_tokens: Tokens of a text, at most; rows with longer texts are left out.
      cut_sources: Whether longer sources are cut; otherwise their rows are left out.
      pairs: Pairs that maximum likelihood learns from.
      fresh: Sources that it has not seen, for cooperative training.
      first_steps: Steps of maximum likelihood.
      first_rows: Texts of such a step.
      rounds: Rounds of cooperative training.
      sources: Sources of a round.
      samples: Texts of a source.
      simulations: Simulations of the search that samples them.
      judge_steps: Steps of the discriminator in a round.
      first_judge_steps: Its steps in the first round.
      guide_sources: Sources that the guide of the maximum likelihood model learns from.
      guide_steps: Its steps.
      judge_sources: Sources that Base and Base+ learn from.
      base_steps: Their steps.
      judge_rows: Texts of a discriminator's step, half of them human.
      test: Sources that are written for and measured.
      search: Simulations for every token there.
      beams: Of beam search and DAS.
      alpha: DAS's weight of the discriminator.
      rate: Learning rate of maximum likelihood.
      gcn_rate: Of cooperative training.
      judge_rate: Of discriminators.
      rows: Sources that are written for at once.
      seed: Of everything random.
      budget_minutes: Minutes after which nothing further is started; run it again to go on.
    """

    data: Path
    work: Path
    out: Path = Path("experiments/results")
    name: str = "questions"
    source: str = "context"
    text: str = "question"
    objectives: tuple[Literal["gcn", "selfgan"], ...] = ("gcn",)
    model: str = "smollm2-135m"
    layers: int | None = None
    template: str = "{}\n"
    source_tokens: int = 48
    new_tokens: int = 16
    cut_sources: bool = False
    pairs: int = 2000
    fresh: int = 1400
    first_steps: int = 180
    first_rows: int = 16
    rounds: int = 80
    sources: int = 4
    samples: int = 4
    simulations: int = 8
    judge_steps: int = 2
    first_judge_steps: int = 80
    guide_sources: int = 640
    guide_steps: int = 100
    judge_sources: int = 400
    base_steps: int = 60
    judge_rows: int = 16
    test: int = 64
    search: int = 16
    beams: int = 4
    alpha: float = 1.0
    rate: float = 5e-4
    gcn_rate: float = 2e-4
    judge_rate: float = 5e-4
    rows: int = 16
    seed: int = 0
    budget_minutes: float | None = None


def searching(simulations: int) -> SearchConfig:
    """Returns a search of so many simulations a token."""
    return SearchConfig(
        simulations=simulations,
        wave=min(4, simulations),
        c_puct=3.0,
        candidates=20,
        depth=8,
        reused_nodes=16,
        first_play_urgency="parent",
    )


def decoders(config: Config) -> dict[str, DecoderSettings]:
    """Returns how every generator writes, by name."""
    tokens, beams, alpha = config.new_tokens, config.beams, config.alpha
    beam = BeamConfig(new_tokens=tokens, beams=beams)
    return {
        "greedy": SamplingConfig(new_tokens=tokens, rules=Rules(temperature=0.0)),
        "beam": beam,
        "DAS local": DASConfig(new_tokens=tokens, beams=beams, candidates=4 * beams, alpha=alpha),
        # The same sum of both, of whole texts.
        "DAS global": RerankConfig(
            beam.new_tokens, proposal=beam, of=beams, alpha=alpha / (1 + alpha)
        ),
        "tree search": MCTSConfig(
            new_tokens=tokens, search=searching(config.search), rules=Rules(repetition_penalty=1.0)
        ),
    }


def round_of(config: Config, name: str) -> GcnConfig:
    """Returns what a round of a generator's training is."""
    if name == FIRST:
        plain = SamplingConfig(new_tokens=config.new_tokens)
        return GcnConfig(objective="mle", proposal=plain, sources=config.first_rows, replay_rows=0)
    # Values are drawn from to be weighed, visits to be imitated.
    choice = ByValues(mix_base=0.1) if name == "gcn" else ByVisits(mix_base=0.1)
    proposal = MCTSConfig(
        new_tokens=config.new_tokens, samples=config.samples, rules=Rules(), choice=choice,
        search=searching(config.simulations),
    )  # fmt: skip
    objective: Any = name
    return GcnConfig(
        objective=objective, proposal=proposal, sources=config.sources,
        discriminator_steps=config.judge_steps,
        first_discriminator_steps=config.first_judge_steps,
        discriminator_rows=config.judge_rows, replay_rows=8 * config.sources * config.samples,
    )  # fmt: skip
