"""What a round of cooperative training is made of in the benchmarks: networks, texts, proposals."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.settings import Settings
from benchmarks.training import DECAY, LORA, network
from coopgen_jax.data.pairs import Pairs, Rounds
from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.mcts.mcts_config import ByVisits, MCTSConfig
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.decoding.methods.smc import SMCConfig
from coopgen_jax.decoding.presets import PRESETS
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.discriminators.causal import CausalConfig
from coopgen_jax.discriminators.head import HeadConfig
from coopgen_jax.models.layer_layout import for_training, stored
from coopgen_jax.models.lora import add_lora, init_lora
from coopgen_jax.models.pretrained.loaded_model import load
from coopgen_jax.models.transformer import Params
from coopgen_jax.parallel.mesh import make_mesh, place, share
from coopgen_jax.search.config import Puct, SearchConfig
from coopgen_jax.training.gcn.gcn_config import GcnConfig
from coopgen_jax.training.gcn.gcn_networks import CLASSES, Networks
from coopgen_jax.training.gcn.replay import empty
from coopgen_jax.training.gcn.round import GcnState, Round
from coopgen_jax.training.step import begin

# Learning rates of the generator and the discriminator, the recipe's own; every step of either cuts
# its gradient at a norm of 1. JUDGE_STEPS: of the discriminator in a round.
RATES, JUDGE_STEPS = (1e-5, 1e-4), 2
SHARE = 0.1


@dataclass(frozen=True, eq=False)
class Made:
    """Both networks in front of all training.

    networks: their shapes; params: in float32 what both begin as, the layers stacked.
    trainable: `{"generator", "discriminator": {"network", "head"}}`, additions and the head.
    frozen: of both, as `Round` takes it.
    people: what people wrote.
    """

    networks: Networks
    params: Params
    trainable: dict[str, Any]
    frozen: dict[str, Any]
    people: Pairs


def make(settings: Settings, *, source: int, text: int) -> Made:
    """Loads or draws the networks; texts have `source` and `text` tokens.

    Raises:
      ValueError: the network is not of the Llama family.
    """
    prose = None
    if settings.model == "default":
        loaded = load(stacked=True)
        config, params = replace(loaded.config, dtype=settings.dtype), loaded.params
        page = Path(__file__).parents[1] / "docs" / "results" / "benchmarks.md"
        (prose,) = loaded.tokenizer.encode_batch([page.read_text(encoding="utf-8")])
    else:
        config, params = network(settings)
    config = replace(config, end_tokens=())
    base = for_training(stored(params, config.dtype))
    judge = CausalConfig(config, HeadConfig(CLASSES, config.width, ()))
    standard = {"centre": jnp.zeros(config.width), "scale": jnp.ones(config.width)}

    def judging(trainable: Any, frozen: Any) -> Any:
        head = {"output": trainable["head"], **standard}
        return {"network": add_lora(frozen, trainable["network"], LORA), "head": head}

    kernel = 0.02 * jax.random.normal(jax.random.key(2), (config.width, len(CLASSES)))
    head = {"kernel": kernel, "bias": jnp.zeros(len(CLASSES))}
    additions = [init_lora(jax.random.key(number), params, LORA) for number in range(2)]
    return Made(
        Networks(
            config, judge, join=lambda trainable, frozen: add_lora(frozen, trainable, LORA),
            discriminator_join=judging,
        ),
        params,
        {"generator": additions[0], "discriminator": {"network": additions[1], "head": head}},
        {"generator": base, "discriminator": base},
        people(prose, config.vocab_size, source=source, text=text),
    )  # fmt: skip


def people(prose: list[int] | None, vocabulary: int, *, source: int, text: int) -> Pairs:
    """Returns what people wrote, cut into sources and texts: prose, or noise where there is none.

    What a round is worth depends on what is read, and so the default model reads the page
    that explains these benchmarks; with random weights it means nothing.
    """
    width = source + text
    noise = np.random.default_rng(0).integers(0, vocabulary, 64 * width)
    tokens = np.asarray(noise if prose is None else prose)
    rows = tokens[: len(tokens) // width * width].reshape(-1, width).tolist()
    return Pairs(
        tuple(tuple(row[:source]) for row in rows), tuple(tuple(row[source:]) for row in rows),
        source, text, ("",) * len(rows), True,
    )  # fmt: skip


def proposals(axes: dict[str, int], vocabulary: int) -> dict[str, DecoderSettings]:
    """Returns by name the decoders that a round's texts are sampled by.

    "in lock step" is the published search: one leaf at a time, from an empty tree; "in waves" is
    the same one with waves, and with trees that outlive their token; "by values" draws by the
    values of the latter instead of its visits, as the preset of that name does.
    """
    size = {"new_tokens": axes["new_tokens"], "samples": axes["samples"]}
    plain = SamplingConfig(**size)
    search = SearchConfig(
        simulations=axes["simulations"],
        wave=1,
        reused_nodes=0,
        c_puct=3.0,
        depth=axes["depth"],
        candidates=min(20, vocabulary),
        root=Puct(early_stop=False),
    )
    tree = MCTSConfig(
        **size,
        search=search,
        rules=Rules(repetition_penalty=1.0),
        choice=ByVisits(visit_temperature=1.0, mix_base=SHARE),
    )
    waves = replace(
        search, wave=axes["wave"], reused_nodes=axes["simulations"], first_play_urgency="parent"
    )
    return {
        "tree search, in lock step": tree,
        "tree search, in waves": replace(tree, search=waves),
        "tree search, by values": replace(PRESETS["values"], **size, search=waves),
        "plain sampling": plain,
        "nucleus": plain.with_settings(top_p=0.9, mix_base=SHARE),
        "particles": SMCConfig(**size),
    }


def round_config(proposal: DecoderSettings, sources: int) -> GcnConfig:
    """Returns what a round is: as many texts for the discriminator's step as were sampled."""
    rows = max(2, sources * proposal.samples // 2 * 2)
    return GcnConfig(
        proposal=proposal,
        sources=sources,
        discriminator_steps=JUDGE_STEPS,
        first_discriminator_steps=JUDGE_STEPS,
        discriminator_rows=rows,
        replay_rows=0,
        prefixes=True,
        negatives="proposal",
    )


def rounds_of(made: Made, config: GcnConfig) -> Rounds:
    """Returns what every round learns from, by its number."""
    return Rounds(made.people, config.sources, config.proposal.samples, config.samplings)


class Phases:
    """How long the phases of every round took, by their names."""

    def __init__(self) -> None:
        self.rounds: list[dict[str, float]] = []
        self._since = 0.0

    def begin(self) -> None:
        """A round begins."""
        self.rounds.append({})
        self._since = time.perf_counter()

    def told(self, phase: str, found: Any = None) -> None:
        """A phase is done as soon as what it has found is there."""
        jax.block_until_ready(found)
        now = time.perf_counter()
        self.rounds[-1][phase], self._since = now - self._since, now


class OurRound:
    """Our rounds by one proposal, from a state of their own.

    Args:
      made: the networks; trainable parameters are copied.
      proposal: how texts are sampled.
      sources: `B`.
      check: told of every first round's `Sampled` and weights.
    """

    def __init__(
        self,
        made: Made,
        proposal: DecoderSettings,
        sources: int,
        check: Callable[[Any, Any], None],
    ):
        self.config, self.mesh, self.phases = (
            round_config(proposal, sources),
            make_mesh(1),
            Phases(),
        )
        self.rounds, self.check = rounds_of(made, self.config), check
        self.seen: dict[str, Any] = {}
        self.means: list[dict[str, jax.Array]] = []
        optimisers = [
            optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=DECAY))
            for rate in RATES
        ]
        trainable = jax.tree.map(jnp.copy, made.trainable)
        row = {name: jnp.asarray(array) for name, array in made.people.rows([0]).items()}
        states = [
            begin(trainable[name], optimiser)
            for name, optimiser in zip(("generator", "discriminator"), optimisers, strict=True)
        ]
        state = GcnState(
            *states, empty({"human": row, "written": row}, 1), jnp.float32(0), jnp.int32(0)
        )
        self.state, self.frozen = place((state, made.frozen), self.mesh)
        self.one = Round(
            made.networks, self.config, (optimisers[0], optimisers[1]), mesh=self.mesh,
            conditional=True, watch=self._watch,
        )  # fmt: skip

    def _watch(self, phase: str, found: Any) -> None:
        self.phases.told(phase, found)
        self.seen[phase] = found

    def __call__(self) -> Any:
        """Goes through a round."""
        first = not self.phases.rounds
        drawn = share(self.rounds[len(self.phases.rounds)], self.mesh)
        self.phases.begin()
        self.state, means = self.one(self.state, self.frozen, drawn, jax.random.key(0))
        self.means.append(means)
        if first:
            self.check(self.seen["sampled"], self.seen["weighed"])
        return self.state

    @property
    def state_bytes(self) -> int:
        """Bytes of all parameters and of the optimisers, each counted once."""
        leaves = jax.tree.leaves((self.state, self.frozen))
        # What both networks begin as lies on the device once.
        return sum({leaf.unsafe_buffer_pointer(): leaf.nbytes for leaf in leaves}.values())
