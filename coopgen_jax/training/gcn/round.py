"""One round of cooperative training: sample, train the discriminator, weigh, train the generator.

Generative Cooperative Networks (Lamprier et al., ICML 2022, arXiv 2201.12320), with SelfGAN
(Scialom et al., NeurIPS 2021, arXiv 2106.06363), discrete GANs and distributional control beside
them. In round t texts y_i are sampled from q^, the discriminator D_t is trained to tell them from
human ones, and the generator takes steps along

    sum_i w_i grad log p(y_i | x_i),  w_i ~ p_{t-1}(y_i | x_i) D_t(y_i, x_i) / q^(y_i | x_i)

for GCN; `weigh` has the other objectives. A round is a function of the state, of its own data and
of its number, so that an interrupted round is begun anew and ends as it would have.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.models.rematerialisation import Remat
from coopgen_jax.parallel.mesh import Mapper
from coopgen_jax.training.checkpoint_names import stored_as
from coopgen_jax.training.gcn.gcn_config import GcnConfig
from coopgen_jax.training.gcn.gcn_networks import (
    HUMAN,
    Networks,
    gather_rows,
    make_readers,
    make_sampler,
)
from coopgen_jax.training.gcn.imitation import weighted_likelihood_loss
from coopgen_jax.training.gcn.replay import Replay, draw, remember
from coopgen_jax.training.gcn.weighing import Means, Sampled, gather, weigh
from coopgen_jax.training.objectives import classification_loss
from coopgen_jax.training.step import TrainState, make_step

# These numbers give each random draw of a round a key of its own.
_SAMPLE, _NEGATIVE, _MIX, _DISCRIMINATOR, _GENERATOR, _AHEAD = range(6)


@stored_as(discriminator="judge")
@dataclass(frozen=True)
class GcnState:
    """What rounds change.

    Attributes:
      generator: its trainable parameters and the state of its optimiser.
      discriminator: the same of the discriminator.
      replay: texts of earlier rounds, as rows `written`, and human texts beside them, `human`.
      log_partition: `[]` log Z of the target p_0 D, estimated over all rounds; see `importance`.
      step: `[]` int32 rounds done.
    """

    generator: TrainState
    discriminator: TrainState
    replay: Replay
    log_partition: jax.Array
    step: jax.Array

    @property
    def trainable(self) -> dict[str, Any]:
        """The trainable parameters of both networks."""
        return {
            "generator": self.generator.trainable,
            "discriminator": self.discriminator.trainable,
        }


class Round:
    """A compiled round, `(state, frozen, drawn, key) -> (state, means)`; the state is donated.

    `frozen` is `{"generator", "discriminator"}`, the parameters that are not trained; `drawn` is a
    `data.pairs.Drawn` that lies on the mesh, and `key` that of the full training.

    Args:
      networks: both.
      config: the round's.
      optimisers: the generator's and the discriminator's.
      mesh: the devices, among which sources, rows and the replay are split.
      mapper: see `map_over_mesh`.
      micro_batches: parts that a step's rows are read in; see `step.gradient`.
      sharded: whether devices share the optimisers' states; see `step.make_step`.
      sharded_parameters: whether they share the trainable parameters too.
      remat: what steps compute again instead of keeping it; see `rematerialised`.
      conditional: whether texts are compared with those of their own source only.
      watch: called after every phase with its result: "sampled" (`Sampled`), "judged" (the
        discriminator's means), "weighed" (the weights), "trained" (the generator's means).
    """

    def __init__(
        self,
        networks: Networks,
        config: GcnConfig,
        optimisers: tuple[optax.GradientTransformation, optax.GradientTransformation],
        *,
        mesh: Mesh,
        mapper: Mapper = "shard_map",
        micro_batches: int = 1,
        sharded: bool = False,
        sharded_parameters: bool = False,
        remat: Remat | None = None,
        conditional: bool = False,
        watch: Callable[[str, Any], None] = lambda phase, found: None,
    ) -> None:
        over: dict[str, Any] = {"mesh": mesh, "mapper": mapper}
        steps = {
            **over, "micro_batches": micro_batches, "sharded": sharded,
            "sharded_parameters": sharded_parameters, "remat": remat,
        }  # fmt: skip
        self.networks, self.config, self.watch = networks, config, watch
        classifies = classification_loss(
            networks.discriminator, join=networks.discriminator_join, prefixes=config.reads_prefixes
        )
        imitation = weighted_likelihood_loss(
            networks.generator, join=networks.join, reference=networks.first, kl=config.kl
        )
        self.generator_step = make_step(
            imitation, optimisers[0], **steps, dtype=networks.generator.dtype
        )
        self.discriminator_step = make_step(
            classifies, optimisers[1], **steps, dtype=networks.discriminator.network.dtype
        )
        self.sampler = make_sampler(networks, config.proposal, guided=config.guided, **over)
        self.own_sampler = self.sampler
        if not config.own:
            self.own_sampler = make_sampler(networks, config.plain, guided=False, **over)
        greedy = replace(config.plain, samples=1, rules=Rules(temperature=0.0))
        self.greedy_sampler = make_sampler(networks, greedy, guided=False, **over)
        self.log_human, self.log_likelihood = make_readers(networks, **over)
        self.gather = jax.jit(partial(gather, config, conditional=conditional))
        self.rows_of = jax.jit(gather_rows)
        self.weigh = jax.jit(partial(weigh, config))
        self.mix = jax.jit(partial(_mixed, config))
        self.add = jax.jit(remember, donate_argnums=0)

    def __call__(
        self, state: GcnState, frozen: Any, drawn: Any, key: jax.Array
    ) -> tuple[GcnState, Means]:
        """Runs it."""
        key = jax.random.fold_in(key, state.step)
        if self.config.objective == "mle":
            batch, means = drawn.truth | {"weight": jnp.ones(len(drawn.truth["index"]))}, Means()
        else:
            state, batch, means = self._cooperate(state, frozen, drawn, key)
        generator = state.generator
        for _ in range(self.config.generator_steps):
            generator, trained = self.generator_step(
                generator, frozen["generator"], batch, jax.random.fold_in(key, _GENERATOR)
            )
        self.watch("trained", trained)
        return replace(state, generator=generator, step=state.step + 1), means | trained

    def _cooperate(
        self, state: GcnState, frozen: Any, drawn: Any, key: jax.Array
    ) -> tuple[GcnState, dict[str, jax.Array], Means]:
        """Samples, trains the discriminator and weighs; returns the generator's batch."""
        sampled, pairs = self._sample(state, frozen, drawn, key)
        state, means = self._train_discriminator(state, frozen, drawn, pairs, key)
        weight, log_partition, described = self._weigh(state, frozen, drawn, sampled, key)
        means |= described | {
            "length": jnp.mean(sampled.length.astype(jnp.float32)),
            "ended": jnp.mean(sampled.finished.astype(jnp.float32)),
            "nats_per_text": -jnp.mean(sampled.log_prob),
        }
        replay = self._remember(state.replay, pairs)
        state = replace(state, replay=replay, log_partition=log_partition)
        return state, sampled.rows | {"weight": weight}, means

    def _sample(
        self, state: GcnState, frozen: Any, drawn: Any, key: jax.Array
    ) -> tuple[Sampled, dict[str, Any]]:
        """Returns the round's texts, and the discriminator's human and negative rows."""
        networks = state.generator.trainable, state.discriminator.trainable, frozen
        generation = self.sampler(jax.random.fold_in(key, _SAMPLE), drawn.prompt, *networks)
        sampled = self.gather(drawn.prompt, generation)
        self.watch("sampled", sampled)
        negative = sampled.rows
        if self.config.negatives == "generator" and not self.config.own:
            noise = jax.random.fold_in(key, _NEGATIVE)
            generation = self.own_sampler(noise, drawn.prompt, *networks)
            negative = self.rows_of(drawn.prompt, generation)
        return sampled, {"human": drawn.human, "written": negative}

    def _train_discriminator(
        self, state: GcnState, frozen: Any, drawn: Any, pairs: Any, key: jax.Array
    ) -> tuple[GcnState, Means]:
        config, replay, discriminator = self.config, state.replay, state.discriminator
        generator, means = state.generator.trainable, Means()

        def trained(discriminator: TrainState, pairs: Any, number: int) -> tuple[TrainState, Means]:
            noise = jax.random.fold_in(jax.random.fold_in(key, _MIX), number)
            batch = self.mix(noise, replay, pairs)
            dropout = jax.random.fold_in(key, _DISCRIMINATOR)
            return self.discriminator_step(discriminator, frozen["discriminator"], batch, dropout)

        # In front of its first round the discriminator is trained on fresh texts of the generator,
        # of ever other sources: it would memorise those of one round before it reads the language.
        done = 0
        for number, (prompt, human) in enumerate(drawn.ahead):
            noise = jax.random.fold_in(jax.random.fold_in(key, _AHEAD), number)
            texts = self.own_sampler(noise, prompt, generator, discriminator.trainable, frozen)
            fresh = {"human": human, "written": self.rows_of(prompt, texts)}
            replay = self._remember(replay, fresh)
            for _ in range(min(config.turn, config.steps_ahead - done)):
                discriminator, means = trained(discriminator, fresh, done)
                done += 1
        for number in range(done, done + config.discriminator_steps):
            discriminator, means = trained(discriminator, pairs, number)
        means = {f"judge_{name}": mean for name, mean in means.items()}
        self.watch("judged", means)
        return replace(state, discriminator=discriminator, replay=replay), means

    def _weigh(
        self, state: GcnState, frozen: Any, drawn: Any, sampled: Sampled, key: jax.Array
    ) -> tuple[jax.Array, jax.Array, Means]:
        """Returns the weights of the round's texts, the new log Z, and what to record."""
        trainable, more = state.discriminator.trainable, {}
        if self.config.objective == "gdc":
            first = self.networks.first(frozen["generator"])
            more["log_first"] = self.log_likelihood(first, sampled.rows)
        if self.config.baseline == "greedy":
            noise = jax.random.fold_in(key, _SAMPLE)
            best = self.greedy_sampler(
                noise, drawn.prompt, state.generator.trainable, trainable, frozen
            )
            rows = self.rows_of(drawn.prompt, best)
            of_source = self.log_human(trainable, frozen["discriminator"], rows)
            more["log_human_greedy"] = jnp.repeat(of_source, self.config.proposal.samples)
        weight, log_partition, described = self.weigh(
            sampled,
            self.log_human(trainable, frozen["discriminator"], sampled.rows),
            round_number=state.step,
            log_partition=state.log_partition,
            **more,
        )
        self.watch("weighed", weight)
        return weight, log_partition, described

    def _remember(self, replay: Replay, pairs: Any) -> Replay:
        return self.add(replay, pairs) if self.config.replay_rows else replay


def _mixed(config: GcnConfig, key: jax.Array, replay: Replay, pairs: Any) -> dict[str, jax.Array]:
    """Returns a discriminator's batch: sampled and human rows of the same sources, in turns."""
    half = config.discriminator_rows // 2
    share = config.replay_share if config.replay_rows else 0.0
    drawn = draw(key, replay, pairs, count=half, share=share)
    both = jax.tree.map(
        lambda a, b: jnp.stack([a, b], axis=1).reshape(2 * half, *a.shape[1:]),
        drawn["human"],
        drawn["written"],
    )
    label = jnp.tile(jnp.asarray([HUMAN, 1 - HUMAN], jnp.int32), half)
    return both | {"label": label, "index": jnp.arange(2 * half, dtype=jnp.int32)}
