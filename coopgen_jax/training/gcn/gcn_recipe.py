"""From a language model and texts to a generator trained with its discriminator, in one folder."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from coopgen_jax.data.pairs import Pairs, Rounds
from coopgen_jax.decoding.names_on_disc import settings_on_disc
from coopgen_jax.discriminators.causal import CausalConfig
from coopgen_jax.discriminators.head import HeadConfig
from coopgen_jax.errors import UserError
from coopgen_jax.files import read_json, write_json
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.parallel.mesh import BATCH, P, place
from coopgen_jax.training.gcn.examination import Examiner, fetched, warnings_of
from coopgen_jax.training.gcn.gcn_config import GcnConfig, Objective
from coopgen_jax.training.gcn.gcn_folder import deliver
from coopgen_jax.training.gcn.gcn_networks import CLASSES, Networks
from coopgen_jax.training.gcn.gcn_training import GcnTraining, check_gcn
from coopgen_jax.training.gcn.replay import empty
from coopgen_jax.training.gcn.round import GcnState, Round
from coopgen_jax.training.loop import Listener, LoopConfig, Outcome, keep_batch, train
from coopgen_jax.training.optimiser_shards import in_full
from coopgen_jax.training.recipes.begin_head import begin_head
from coopgen_jax.training.recipes.causal_recipe import STANDARD_BATCHES, standard_of
from coopgen_jax.training.recipes.full_network import trainable_of
from coopgen_jax.training.run import note_rows
from coopgen_jax.training.step import begin_on, share_part
from coopgen_jax.training.training_folder import agree, claim, kept_names

# Called after every phase of a round, and with every warning.
Watch = Callable[[str, Any], None]


def train_gcn(
    model: LoadedModel,
    training: Pairs,
    validation: Pairs,
    config: GcnConfig,
    how: GcnTraining,
    *,
    folder: Path,
    mesh: Mesh,
    discriminator: LoadedModel | None = None,
    listener: Listener = lambda done, total, means: None,
    watch: Watch = lambda phase, found: None,
) -> dict[str, Any]:
    """Trains a generator with its discriminator, both begun as language models.

    `load_language_model` takes the folder, and `load_discriminator` its folder "judge", with the
    classes "generated" and "human". Returns the card.

    Args:
      model: the language model, its layers stacked; for most objectives one that was fine-tuned on
        such texts by maximum likelihood.
      training: sources and the human texts for them.
      validation: others.
      config: the settings of a round.
      how: how long and how fast.
      folder: where everything goes, checkpoints included. A run that stopped there goes on, and a
        finished one with further rounds; an interrupted round is begun anew.
      mesh: the devices; they divide the sources of a round and the rows of a step.
      discriminator: the language model that the discriminator begins as, its layers stacked, with
        the generator's tokens; None for the generator's. A generator that was fine-tuned on these
        texts may have memorised them, and a discriminator begun as it could recognise human texts
        by that alone.
      listener: called after every round.
      watch: called after every phase of a round; see `Round`. "warning" comes with a sentence,
        "compiling" in front of the first examination and the first round of this run.

    Raises:
      UserError: texts do not fit, layers are no stack, tokens differ, "mle" has a discriminator,
        the folder holds another training, or a mean is not finite (its texts are kept).
    """
    if discriminator and config.objective == "mle":
        raise UserError(
            "mle has no discriminator, so no model for it either: leave --discriminator-model out"
        )
    own = discriminator or model
    if (own.sha256, own.config) == (model.sha256, model.config):
        own = model
    check_gcn(model, own, training, config, how, mesh)
    models = model, own
    loop = replace(how.loop, log_every=1, keep="last")
    networks, trainable, frozen = begin_networks(model, own, training, how, mesh)
    _claim(folder, models, (training, validation), config, how)
    _reopen(folder, loop.steps)
    state = _begin_state(trainable, training, config, how, mesh)
    step = _make_step(
        networks, frozen, config, how, folder=folder, mesh=mesh,
        conditional=training.conditional, watch=watch,
    )  # fmt: skip
    examine = Examiner(
        networks, frozen, validation, model.tokenizer, how.examination, folder=folder, mesh=mesh,
        mapper=how.mapper, judged=config.objective != "mle", seed=how.seed,
    )  # fmt: skip
    begin = partial(watch, "compiling", None)

    def first() -> dict[str, float]:
        begin()
        return examine(state.trainable)

    report = _Report(examine, _start(folder, first), loop, config.objective, watch, listener)
    asked = (0, 0) if config.objective == "mle" else (config.proposal.samples, config.samplings)
    rounds = Rounds(training, config.sources, *asked, seed=how.seed)
    outcome = train(
        state, step=step, batches=rounds, validate=report.validate, folder=folder, config=loop,
        listener=report.listen, begin=begin,
    )  # fmt: skip
    outcome = replace(outcome, trainable=in_full(outcome.trainable, mesh))
    measured = {"start": report.start, "last": report.of(outcome)}
    card = _card(models, config, how, outcome) | measured | note_rows(folder, training.written)
    deliver(folder, models, networks, outcome.trainable, frozen, config, card, how.saved_dtype)
    return card


@dataclass
class _Report:
    """The examinations of a run, and the warnings that come of them."""

    examine: Callable[[Any], dict[str, float]]
    start: dict[str, float]
    loop: LoopConfig
    objective: Objective
    watch: Watch
    listener: Listener
    last: dict[str, float] = field(default_factory=dict)
    at: int = 0

    def validate(self, trainable: Any) -> dict[str, float]:
        self.last = self.examine(trainable)
        return self.last

    def listen(self, done: int, total: int, means: dict[str, jax.Array]) -> bool | None:
        if done % self.loop.validate_every == 0 or done == total:
            self.at = done
            plain = {name: float(mean) for name, mean in means.items()}
            for sentence in warnings_of(self.start, self.last, plain, self.objective):
                self.watch("warning", sentence)
        return self.listener(done, total, means)

    def of(self, outcome: Outcome) -> dict[str, float]:
        """Returns the metrics of a run's end, which may lie between two examinations."""
        return self.last if self.at == outcome.step else self.examine(outcome.trainable)


def _claim(
    folder: Path,
    models: tuple[LoadedModel, LoadedModel],
    data: tuple[Pairs, Pairs],
    config: GcnConfig,
    how: GcnTraining,
) -> None:
    model, discriminator = models
    # A round does not depend on how many follow, nor on when it is examined.
    settings = replace(how, loop=LoopConfig(steps=1, patience=how.loop.patience))
    agree(asdict(how.loop))
    claim(
        folder, "gcn", model.sha256, settings, data, round=_on_disc(config),
        proposal=type(config.proposal).__name__, dtype=model.config.dtype,
        judge_sha256=None if discriminator is model else discriminator.sha256,
    )  # fmt: skip


def _begin_state(
    trainable: dict[str, Any], training: Pairs, config: GcnConfig, how: GcnTraining, mesh: Mesh
) -> GcnState:
    row = {name: jnp.asarray(array) for name, array in training.rows([0]).items()}
    generator, discriminator = (
        begin_on(
            mesh,
            trainable[name],
            optimiser,
            sharded=how.sharded_optimiser,
            sharded_parameters=how.sharded_parameters,
        )
        for name, optimiser in zip(("generator", "discriminator"), how.optimisers(), strict=True)
    )
    # A checkpoint has no empty arrays, and the same ones whatever the number of devices.
    size = max(1, config.replay_rows)
    replay = place(empty({"human": row, "written": row}, size), mesh)
    split = jax.tree.map(lambda leaf: P(BATCH) if config.replay_rows else P(), replay.rows)
    replay = replace(replay, rows=place(replay.rows, mesh, split))
    log_partition, rounds = place((jnp.float32(0), jnp.int32(0)), mesh)
    return GcnState(generator, discriminator, replay, log_partition, rounds)


def _make_step(
    networks: Networks,
    frozen: Any,
    config: GcnConfig,
    how: GcnTraining,
    *,
    folder: Path,
    mesh: Mesh,
    conditional: bool,
    watch: Watch,
) -> Callable[[GcnState, Any], tuple[GcnState, dict[str, jax.Array]]]:
    """Returns a round as a step of the loop, which keeps the texts of one that is not finite."""
    seen: dict[str, Any] = {}

    def watched(phase: str, found: Any) -> None:
        seen[phase] = found
        watch(phase, found)

    run_round = Round(
        networks, config, how.optimisers(), mesh=mesh, mapper=how.mapper,
        micro_batches=how.micro_batches, sharded=how.sharded_optimiser,
        sharded_parameters=how.sharded_parameters, remat=how.remat, conditional=conditional,
        watch=watched,
    )  # fmt: skip
    key = jax.random.key(how.seed)

    def step(state: GcnState, drawn: Any) -> tuple[GcnState, dict[str, jax.Array]]:
        state, means = run_round(state, frozen, share_part(drawn, mesh), key)
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

    return step


def _card(
    models: tuple[LoadedModel, LoadedModel], config: GcnConfig, how: GcnTraining, outcome: Outcome
) -> dict[str, Any]:
    model, discriminator = models
    return {
        "kind": "generator",
        "objective": config.objective,
        "proposal": type(config.proposal).__name__,
        "round": _on_disc(config),
        "model": model.name,
        "model_sha256": model.sha256,
        **({} if config.objective == "mle" else {"judge_model": discriminator.name}),
        "trained": "everything" if how.lora is None else f"LoRA of rank {how.lora.rank}",
        "rounds": outcome.step,
        "steps": outcome.step,
        "stopped": outcome.stopped,
        "learning_rate": how.learning_rate,
        "dtype": model.config.dtype,
        "judge_learning_rate": how.discriminator_learning_rate,
        "optimiser": how.optimiser,
        "seed": how.seed,
    }


def _on_disc(config: GcnConfig) -> dict[str, Any]:
    """Returns a round's settings by the names that folders and cards have for them."""
    return kept_names(asdict(config) | {"proposal": settings_on_disc(config.proposal)})


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
    """Removes the cards where a finished training goes on: they describe what it was."""
    path = folder / "card.json"
    if jax.process_index() or not path.is_file():
        return
    if read_json(path).get("rounds", 0) < rounds:
        (folder / "judge" / "card.json").unlink(missing_ok=True)
        path.unlink()


def begin_networks(
    model: LoadedModel, own: LoadedModel, training: Pairs, how: GcnTraining, mesh: Mesh
) -> tuple[Networks, dict[str, Any], dict[str, Any]]:
    """Returns both networks, begun as `model` and `own`, their trainable and frozen parameters.

    The discriminator's head is standardised by the training texts.
    """
    generator, base, join = trainable_of(model, how.lora, mesh, seed=how.seed)
    network, own_base, own_join = trainable_of(own, how.lora, mesh, seed=how.seed + 1)
    if own is model:
        # LoRA's additions of both networks stand beside one frozen network.
        own_base = base
    first = place(model.params, mesh) if base is None else base
    shape = CausalConfig(own.config, HeadConfig(CLASSES, own.config.width, (), how.dropout))
    some = range(min(len(training), 16 * STANDARD_BATCHES))
    standard = standard_of(
        shape, own.params, (training.rows(some[at : at + 16]) for at in some[::16])
    )

    def join_discriminator(trainable: Any, frozen: Any) -> Any:
        head = {**trainable["head"], **standard}
        return {"network": own_join(trainable["network"], frozen), "head": head}

    networks = Networks(
        model.config,
        shape,
        join=lambda trainable, frozen: join(trainable, frozen["base"]),
        discriminator_join=join_discriminator,
        first=lambda frozen: frozen["first"],
    )
    head = begin_head(shape.head, seed=how.seed, standardised=True)
    trainable = {"generator": generator, "discriminator": {"network": network, "head": head}}
    frozen = {"generator": {"base": base, "first": first}, "discriminator": own_base}
    return networks, trainable, frozen
