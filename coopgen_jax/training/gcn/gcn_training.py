"""How long and how fast both networks of cooperative training are trained."""

from dataclasses import dataclass, field
from typing import Literal

import optax
from jax.sharding import Mesh

from coopgen_jax.data.pairs import Pairs
from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig
from coopgen_jax.decoding.methods.gedi import GediConfig
from coopgen_jax.decoding.methods.pplm_config import PPLMConfig
from coopgen_jax.errors import UserError
from coopgen_jax.models.layer_layout import stacked_numbers
from coopgen_jax.models.lora import LoraConfig
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.models.rematerialisation import Remat, check_remat
from coopgen_jax.parallel.mesh import BATCH, Mapper
from coopgen_jax.tokenizer import same_tokens
from coopgen_jax.training.gcn.examination import Examination
from coopgen_jax.training.gcn.gcn_config import GcnConfig
from coopgen_jax.training.loop import LoopConfig


@dataclass(frozen=True)
class GcnTraining:
    """How long and how fast.

    Attributes:
      loop: how many rounds; the last parameters are kept.
      lora: additions to train beside frozen networks, the generator's and the discriminator's
        alike; None to train all of both.
      optimiser: of the generator, "adamw", or "sgd" without momentum, which alone shows the effect
        of the weights' size: Adam divides it out. The discriminator always has AdamW.
      learning_rate: of the generator; constant behind `warmup` steps.
      discriminator_learning_rate: of the discriminator; constant behind `warmup` steps.
      warmup: steps in which either learning rate rises.
      clip: largest norm of a gradient, None for no cut.
      micro_batches: equal parts that a step's rows are read in.
      sharded_optimiser: whether every device keeps its share of the optimisers' states only (ZeRO).
      sharded_parameters: whether it keeps its share of the trainable parameters only, too (ZeRO-3).
      remat: what a step computes again instead of keeping it; see `rematerialised`.
      dropout: of the discriminator's head.
      examination: what is measured between rounds.
      seed: of everything random.
      mapper: how steps and decoders are mapped over devices.
      saved_dtype: number format of the networks' files.
    """

    loop: LoopConfig
    lora: LoraConfig | None = field(default_factory=LoraConfig)
    optimiser: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-5
    discriminator_learning_rate: float = 1e-4
    warmup: int = 0
    clip: float | None = 1.0
    micro_batches: int = 1
    sharded_optimiser: bool = False
    sharded_parameters: bool = False
    remat: Remat | None = None
    dropout: float = 0.1
    examination: Examination = field(default_factory=Examination)
    seed: int = 0
    mapper: Mapper = "shard_map"
    saved_dtype: str = "float16"

    def __post_init__(self) -> None:
        if self.optimiser not in ("adamw", "sgd"):
            raise UserError(f"there is no optimiser {self.optimiser!r}: choose one of adamw, sgd")
        if self.warmup < 0:
            raise UserError(f"warmup is {self.warmup}: give 0 or more")
        if not 0 <= self.seed < 1 << 32:
            raise UserError(f"seed is {self.seed}: give a number from 0 to {(1 << 32) - 1}")
        for name in ("learning_rate", "discriminator_learning_rate"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UserError(f"{name} is {getattr(self, name)}: it must be above 0")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout is {self.dropout}: give a share from 0 to below 1")
        if self.clip is not None and not self.clip > 0:
            raise UserError(f"a gradient's largest norm is {self.clip}: give one above 0, or none")
        check_remat(self.remat)

    def optimisers(self) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
        """Returns the generator's optimiser and the discriminator's."""
        return (
            self._optimiser(self.optimiser, self.learning_rate),
            self._optimiser("adamw", self.discriminator_learning_rate),
        )

    def _optimiser(
        self, name: Literal["adamw", "sgd"], rate: float
    ) -> optax.GradientTransformation:
        schedule = optax.linear_schedule(0.0 if self.warmup else rate, rate, max(1, self.warmup))
        step = optax.sgd(schedule) if name == "sgd" else optax.adamw(schedule, weight_decay=0.01)
        if self.clip is None:
            return step
        return optax.chain(optax.clip_by_global_norm(self.clip), step)


def check_gcn(
    model: LoadedModel,
    discriminator: LoadedModel,
    training: Pairs,
    config: GcnConfig,
    how: GcnTraining,
    mesh: Mesh,
) -> None:
    """Raises UserError where networks, texts and settings do not go together."""
    if not same_tokens(model.tokenizer, discriminator.tokenizer):
        raise UserError(
            f"{discriminator.name} has other tokens than {model.name}, whose texts it is to read: "
            "begin the discriminator as a language model with the same tokenizer"
        )
    longest = training.source_width + config.proposal.ahead
    for network in (model, discriminator):
        if not stacked_numbers(network.params):
            raise UserError(
                "training wants layers in one stack of numbers: load "
                f"{network.name} with stacked=True"
            )
        if longest > network.config.context:
            raise UserError(
                f"sources of {training.source_width} tokens and {config.proposal.ahead} behind "
                f"them exceed the context of {network.name}, {network.config.context}: shorten one "
                "of them"
            )
    if config.proposal.new_tokens != training.text_width:
        raise UserError(
            f"human texts have up to {training.text_width} tokens and sampled ones up to "
            f"{config.proposal.new_tokens}: they must be as long, or length tells them apart"
        )
    if training.conditional:
        config.check_sources()
    if isinstance(config.proposal, GediConfig | PPLMConfig):
        raise UserError(
            "the discriminator that is trained judges texts that have been read, which gedi and "
            "pplm do not ask for: take another proposal, such as fudge, mcts or smc"
        )
    if isinstance(config.proposal, MCTSConfig) and config.proposal.reference is not None:
        raise UserError(
            "a proposal has no reference to be charged for leaving: take a search whose kl is 0"
        )
    _check_rows(config, how, mesh.shape[BATCH])


def _check_rows(config: GcnConfig, how: GcnTraining, devices: int) -> None:
    texts = config.sources if config.objective == "mle" else config.texts
    for rows in (texts // devices, config.discriminator_rows // devices):
        if how.micro_batches < 1 or rows % how.micro_batches:
            raise UserError(
                f"{rows} rows of a device cannot be split into {how.micro_batches} equal "
                "micro-batches: give a divisor"
            )
    for name, rows in (
        ("sources", config.sources),
        ("discriminator_rows", config.discriminator_rows // 2),
        ("replay_rows", config.replay_rows),
        ("rows of an examination", how.examination.rows),
    ):
        if rows % devices:
            raise UserError(
                f"{name} of {rows} cannot be split over {devices} devices: give a multiple of "
                f"{devices}"
            )
