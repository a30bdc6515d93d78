"""From a language model and texts to a generator trained with its critic, in a complete folder."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from coopgen_jax.data.pairs import Pairs, Rounds
from coopgen_jax.decoding.methods.gedi import GediConfig
from coopgen_jax.decoding.methods.pplm_config import PPLMConfig
from coopgen_jax.discriminators.causal import CausalConfig
from coopgen_jax.discriminators.head import Head, HeadConfig
from coopgen_jax.errors import UserError
from coopgen_jax.files import read_json, write_json
from coopgen_jax.models.lora import LoraConfig
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.parallel.mesh import BATCH, Mapper, P, place, share
from coopgen_jax.tokenizer import same_tokens
from coopgen_jax.training.gcn.examination import (
    Examination,
    fetched,
    make_examination,
    own_part,
    warnings_of,
)
from coopgen_jax.training.gcn.gcn_config import GcnConfig
from coopgen_jax.training.gcn.gcn_folder import deliver
from coopgen_jax.training.gcn.gcn_networks import CLASSES, Networks
from coopgen_jax.training.gcn.replay import empty
from coopgen_jax.training.gcn.round import GcnState, make_round
from coopgen_jax.training.loop import Listener, LoopConfig, keep_batch, train
from coopgen_jax.training.recipes.causal_recipe import STANDARD_BATCHES, standard_of
from coopgen_jax.training.recipes.full_network import trainable_of
from coopgen_jax.training.run import note_rows
from coopgen_jax.training.step import begin_on
from coopgen_jax.training.training_folder import agree, claim

# Told of every phase of a round, and of a warning.
Watch = Callable[[str, Any], None]


@dataclass(frozen=True)
class GcnTraining:
    """How long and how fast.

    loop: how many rounds; the last parameters are kept.
    lora: additions to train beside frozen networks, the generator's and the discriminator's alike;
      None to train all of both.
    optimiser: of the generator, "adamw", or "sgd" without momentum, which alone shows what the size
      of the weights does: Adam divides it out. The discriminator always has AdamW.
    learning_rate, judge_learning_rate: of the generator and the discriminator; constant behind
      `warmup` steps of each.
    clip: largest norm of a gradient, None for no cut.
    pieces: parts that a step's rows are read in.
    sharded_optimiser: whether every device keeps its share of the optimisers' states only (ZeRO).
    dropout: of the discriminator's head.
    examination: what is measured between rounds.
    seed: of everything random.
    mapper: how steps and decoders are mapped over devices.
    saved_dtype: of the networks' files.
    """

    loop: LoopConfig
    lora: LoraConfig | None = field(default_factory=LoraConfig)
    optimiser: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-5
    judge_learning_rate: float = 1e-4
    warmup: int = 0
    clip: float | None = 1.0
    pieces: int = 1
    sharded_optimiser: bool = False
    dropout: float = 0.1
    examination: Examination = field(default_factory=Examination)
    seed: int = 0
    mapper: Mapper = "shard_map"
    saved_dtype: str = "float16"

    def __post_init__(self) -> None:
        if self.optimiser not in ("adamw", "sgd"):
            raise UserError(f"there is no optimiser {self.optimiser!r}: choose one of adamw, sgd")
        if self.warmup < 0 or not 0 <= self.seed < 2**32:
            raise UserError(
                f"warmup is {self.warmup} and the seed {self.seed}: neither may be below 0, nor "
                "the seed above 2^32 - 1"
            )
        for name in ("learning_rate", "judge_learning_rate"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UserError(f"{name} is {getattr(self, name)}: it must be above 0")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout is {self.dropout}: give a share from 0 to below 1")
        if self.clip is not None and not self.clip > 0:
            raise UserError(f"a gradient's largest norm is {self.clip}: give one above 0, or none")


def _optimiser(
    name: Literal["adamw", "sgd"], rate: float, how: GcnTraining
) -> optax.GradientTransformation:
    schedule = optax.linear_schedule(0.0 if how.warmup else rate, rate, max(1, how.warmup))
    step = optax.sgd(schedule) if name == "sgd" else optax.adamw(schedule, weight_decay=0.01)
    return step if how.clip is None else optax.chain(optax.clip_by_global_norm(how.clip), step)


def train_gcn(
    model: LoadedModel,
    training: Pairs,
    validation: Pairs,
    config: GcnConfig,
    how: GcnTraining,
    *,
    folder: Path,
    mesh: Mesh,
    judge: LoadedModel | None = None,
    listener: Listener = lambda done, total, means: None,
    watch: Watch = lambda phase, found: None,
) -> dict[str, Any]:
    """Trains a generator with its discriminator, both begun as language models.

    `load_language_model` takes the folder, and `load_discriminator` its folder "judge", with the
    classes "generated" and "human".

    Args:
      model: the language model, its layers stacked; for most objectives one that has learnt to
        write such texts by maximum likelihood already.
      training: sources and the texts that people wrote for them.
      validation: others.
      config: what a round is.
      how: how long and how fast.
      folder: where everything goes, checkpoints included; a run that stopped there goes on, a
        finished one with further rounds, and a round that was interrupted is begun anew.
      mesh: the devices; they divide the sources of a round and the rows of a step.
      judge: the language model that the discriminator begins as, its layers stacked, with the
        generator's tokens; None for the generator's. A generator that has learnt these texts
        already may know them by heart, and a discriminator begun as it would tell people's by that.
      listener: told after every round.
      watch: told of every phase of a round; see `make_round`. "warning" comes with a sentence,
        "compiling" in front of the first examination and the first round of this run.

    Returns:
      The card.

    Raises:
      UserError: texts do not fit, layers are separate, tokens differ, "mle" has a judge, the folder
        holds another training, or a weight or a loss is not finite: then the round's texts are
        kept.
    """
    if judge and config.objective == "mle":
        raise UserError("mle has no discriminator, so no model for it (--judge-model) either")
    if judge is None or (judge.sha256, judge.config) == (model.sha256, model.config):
        judge = model
    _check(model, judge, training, config, how, mesh)
    loop = replace(how.loop, log_every=1, keep="last")
    networks, learnt, fixed = _networks(model, judge, training, how, mesh)
    # What is trained, and stands beside it, is all that stays of the weights.
    alone = judge is model
    model, judge = (replace(one, params={}) for one in (model, judge))
    settings = {
        "round": asdict(config),
        "proposal": type(config.proposal).__name__,
        "dtype": model.config.dtype,
        "judge_sha256": None if alone else judge.sha256,
    }
    # A round is what it is however many follow, and whenever it is looked at.
    own = replace(how, loop=LoopConfig(steps=1, patience=loop.patience))
    agree(asdict(how.loop))
    claim(folder, "gcn", model.sha256, own, (training, validation), **settings)
    _reopen(folder, loop.steps)
    optimisers = (
        _optimiser(how.optimiser, how.learning_rate, how),
        _optimiser("adamw", how.judge_learning_rate, how),
    )
    row = {name: jnp.asarray(array) for name, array in training.rows([0]).items()}
    generator, discriminator = (
        begin_on(mesh, learnt[name], optimiser, sharded=how.sharded_optimiser)
        for name, optimiser in zip(("generator", "judge"), optimisers, strict=True)
    )
    # A checkpoint has no arrays of nothing, and the same ones whatever the number of devices.
    size = max(1, config.replay_rows)
    replay = place(empty({"human": row, "written": row}, size), mesh)
    split = jax.tree.map(lambda leaf: P(BATCH) if config.replay_rows else P(), replay.rows)
    replay = replace(replay, rows=place(replay.rows, mesh, split))
    log_partition, rounds = place((jnp.float32(0), jnp.int32(0)), mesh)
    state = GcnState(generator, discriminator, replay, log_partition, rounds)
    seen: dict[str, Any] = {}

    def told(phase: str, found: Any) -> None:
        seen[phase] = found
        watch(phase, found)

    one = make_round(
        networks, config, optimisers, mesh=mesh, mapper=how.mapper, pieces=how.pieces,
        sharded=how.sharded_optimiser, conditional=training.conditional, watch=told,
    )  # fmt: skip
    key = jax.random.key(how.seed)

    def step(state: GcnState, drawn: Any) -> tuple[GcnState, dict[str, jax.Array]]:
        state, means = one(state, fixed, share(own_part(drawn), mesh), key)
        wrong = [name for name, mean in means.items() if not np.isfinite(float(mean))]
        if wrong:
            number = int(state.step)
            kept = fetched({n: seen[n] for n in ("sampled", "weighed") if n in seen})
            path = keep_batch(folder, number, {"drawn": drawn, **kept})
            raise UserError(
                f"round {number} is no longer finite ({wrong[0]}): its texts and weights are in "
                f"{path}; lower the learning rate or clip the weights, in another folder"
            )
        return state, means

    asked = (0, 0) if config.objective == "mle" else (config.proposal.samples, config.samplings)
    batches = Rounds(training, config.sources, *asked, seed=how.seed)
    examine = make_examination(
        networks, fixed, validation, model.tokenizer, how.examination, folder=folder, mesh=mesh,
        mapper=how.mapper, judged=config.objective != "mle", seed=how.seed,
    )  # fmt: skip

    def begin() -> None:
        watch("compiling", None)

    def first() -> dict[str, float]:
        begin()
        return examine(state.learnt)

    start = _start(folder, first)
    last: dict[str, float] = {}
    examined = 0

    def validate(learnt: Any) -> dict[str, float]:
        last.update(examine(learnt))
        return dict(last)

    def listen(done: int, total: int, means: dict[str, jax.Array]) -> bool | None:
        nonlocal examined
        if done % loop.validate_every == 0 or done == total:
            examined = done
            plain = {name: float(mean) for name, mean in means.items()}
            for sentence in warnings_of(start, last, plain, config.objective):
                watch("warning", sentence)
        return listener(done, total, means)

    outcome = train(
        state, step=step, batches=batches, validate=validate, folder=folder, config=loop,
        listener=listen, begin=begin,
    )  # fmt: skip
    card = {
        "kind": "generator",
        "objective": config.objective,
        "proposal": settings["proposal"],
        "round": asdict(config),
        "model": model.name,
        "model_sha256": model.sha256,
        **({} if config.objective == "mle" else {"judge_model": judge.name}),
        "trained": "everything" if how.lora is None else f"LoRA of rank {how.lora.rank}",
        "rounds": outcome.step,
        "steps": outcome.step,
        "stopped": outcome.stopped,
        "start": start,
        # Stopped between two examinations, what comes out has not been measured yet.
        "last": last if examined == outcome.step else examine(outcome.learnt),
        "learning_rate": how.learning_rate,
        "judge_learning_rate": how.judge_learning_rate,
        "optimiser": how.optimiser,
        "seed": how.seed,
        **note_rows(folder, training.written),
    }
    deliver(folder, (model, judge), networks, outcome.learnt, fixed, config, card, how.saved_dtype)
    return card


def _start(folder: Path, examine: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Returns what was measured in front of the first round, in this run or the one before it."""
    path = folder / "start.json"
    if path.is_file():
        return read_json(path)
    measured = examine()
    if not np.isfinite(measured["loss"]):
        raise UserError("the model finds held-out texts impossible: begin with another one")
    if jax.process_index() == 0:
        write_json(path, measured)
    return measured


def _reopen(folder: Path, rounds: int) -> None:
    """Takes the cards away where a finished training goes on: they are of what it was."""
    path = folder / "card.json"
    if jax.process_index() or not path.is_file():
        return
    if read_json(path).get("rounds", 0) < rounds:
        (folder / "judge" / "card.json").unlink(missing_ok=True)
        path.unlink()


def _check(
    model: LoadedModel,
    judge: LoadedModel,
    training: Pairs,
    config: GcnConfig,
    how: GcnTraining,
    mesh: Mesh,
) -> None:
    if not same_tokens(model.tokenizer, judge.tokenizer):
        raise UserError(
            f"{judge.name} has other tokens than {model.name}, whose texts it is to read: begin "
            "the discriminator as a language model with the same tokenizer"
        )
    longest = training.source_width + config.proposal.ahead
    for network in (model, judge):
        if isinstance(network.params["layers"], tuple):
            raise UserError(f"training wants stacked layers: load {network.name} with stacked=True")
        if longest > network.config.context:
            raise UserError(
                f"sources of {training.source_width} tokens and {config.proposal.ahead} behind "
                f"them exceed the context of {network.name}, {network.config.context}: shorten one "
                "of them"
            )
    if config.proposal.new_tokens != training.text_width:
        raise UserError(
            f"texts of people have up to {training.text_width} tokens and sampled ones up to "
            f"{config.proposal.new_tokens}: they must be as long, or length tells them apart"
        )
    if training.conditional:
        config.check_sources()
    if isinstance(config.proposal, GediConfig | PPLMConfig):
        raise UserError(
            "the discriminator that is trained judges texts that have been read, which gedi and "
            "pplm do not ask for: take another proposal, such as fudge, mcts or smc"
        )
    if getattr(config.proposal, "kl", 0):
        raise UserError("a proposal has no reference to be charged for leaving: give kl 0")
    devices = mesh.shape[BATCH]
    texts = config.sources if config.objective == "mle" else config.texts
    for rows in (texts // devices, config.judge_rows // devices):
        if how.pieces < 1 or rows % how.pieces:
            raise UserError(
                f"{rows} rows of a device cannot be read in {how.pieces} equal pieces: give a "
                "divisor"
            )
    for name, rows in (
        ("sources", config.sources),
        ("judge_rows", config.judge_rows // 2),
        ("replay_rows", config.replay_rows),
        ("rows of an examination", how.examination.rows),
    ):
        if rows % devices:
            raise UserError(f"{name} of {rows} cannot be split over {devices} devices: give a "
                            f"multiple of {devices}")  # fmt: skip


def _networks(
    model: LoadedModel, critic: LoadedModel, training: Pairs, how: GcnTraining, mesh: Mesh
) -> tuple[Networks, dict[str, Any], dict[str, Any]]:
    """Returns both networks, what is learnt of them and what is fixed."""
    generator, base, join = trainable_of(model, how.lora, mesh, seed=how.seed)
    network, critic_base, judge_join = trainable_of(critic, how.lora, mesh, seed=how.seed + 1)
    if critic is model:
        # What additions stand beside is one network for both.
        critic_base = base
    first = place(model.params, mesh) if base is None else base
    head = HeadConfig(CLASSES, critic.config.width, (), how.dropout)
    judge = CausalConfig(critic.config, head)
    drawn = Head(head).init(jax.random.key(how.seed), jnp.zeros((1, head.inputs)))["params"]
    begun = {name: leaf for name, leaf in drawn.items() if name not in ("centre", "scale")}
    some = range(min(len(training), 16 * STANDARD_BATCHES))
    standard = standard_of(
        judge, critic.params, (training.rows(some[at : at + 16]) for at in some[::16])
    )

    def judging(learnt: Any, fixed: Any) -> Any:
        whole = judge_join(learnt["network"], fixed)
        return {"network": whole, "head": {**learnt["head"], **standard}}

    networks = Networks(
        model.config, judge,
        join=lambda learnt, fixed: join(learnt, fixed["base"]),
        judge_join=judging,
        first=lambda fixed: fixed["first"],
    )  # fmt: skip
    fixed = {"generator": {"base": base, "first": first}, "judge": critic_base}
    return networks, {"generator": generator, "judge": {"network": network, "head": begun}}, fixed
