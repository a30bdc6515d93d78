"""One round of cooperative training: sample, train the discriminator, weigh, train the generator.

Generative Cooperative Networks (Lamprier et al., ICML 2022, arXiv 2201.12320), with SelfGAN
(Scialom et al., NeurIPS 2021, arXiv 2106.06363), discrete GANs and distributional control beside
them. In round t texts y_i are sampled with q^, D_t learns to tell them from those of people, and
the generator takes steps along

    sum_i w_i grad log p(y_i | x_i),  w_i ~ p_{t-1}(y_i | x_i) D_t(y_i, x_i) / q^(y_i | x_i)

for GCN; `weigh` has the other objectives. A round is a function of the state, of what is drawn for
it and of its number, so that one which was interrupted is begun anew and ends as it would have.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.parallel.mesh import Mapper
from coopgen_jax.training.gcn.gcn_config import GcnConfig
from coopgen_jax.training.gcn.gcn_networks import (
    HUMAN,
    Networks,
    gather_rows,
    make_readers,
    make_sampler,
)
from coopgen_jax.training.gcn.imitation import imitates
from coopgen_jax.training.gcn.replay import Replay, draw, remember
from coopgen_jax.training.gcn.weighing import Means, gather, weigh
from coopgen_jax.training.objectives import judges
from coopgen_jax.training.step import TrainState, make_step

# What is drawn for a round is told apart by these numbers.
_SAMPLE, _NEGATIVE, _MIX, _JUDGE, _GENERATOR, _AHEAD = range(6)


@struct.dataclass
class GcnState:
    """What rounds change.

    generator, judge: parameters that are trained, with their optimisers.
    replay: texts of earlier rounds, as rows `written`, and beside them people's, `human`.
    log_partition: `[]` log Z of the target p_0 D, estimated over all rounds; see `weights`.
    step: `[]` int32 rounds done.
    """

    generator: TrainState
    judge: TrainState
    replay: Replay
    log_partition: jax.Array
    step: jax.Array

    @property
    def learnt(self) -> dict[str, Any]:
        """The parameters of both networks."""
        return {"generator": self.generator.learnt, "judge": self.judge.learnt}


def make_round(
    networks: Networks,
    config: GcnConfig,
    optimisers: tuple[optax.GradientTransformation, optax.GradientTransformation],
    *,
    mesh: Mesh,
    mapper: Mapper = "shard_map",
    pieces: int = 1,
    sharded: bool = False,
    conditional: bool = False,
    watch: Callable[[str, Any], None] = lambda phase, found: None,
) -> Callable[..., tuple[GcnState, Means]]:
    """Returns a round, `(state, fixed, drawn, key) -> (state, means)`; the state is given away.

    Args:
      networks: both networks.
      config: the round's.
      optimisers: the generator's and the discriminator's.
      mesh: the devices, among which sources, rows and the replay are split.
      mapper: see `map_over_mesh`.
      pieces: parts that a step's rows are read in; see `step.gradient`.
      sharded: whether devices share the optimisers' states; see `step.make_step`.
      conditional: whether texts are compared with those of their own source only.
      watch: told of every phase with what it has found: "sampled" (`Sampled`), "judged" (the
        discriminator's means), "weighed" (the weights), "learnt" (the generator's means).

    `fixed` is `{"generator", "judge"}`, the parameters that are not trained; `drawn` is a
    `data.pairs.Drawn` that lies on the mesh, and `key` that of the whole training.
    """
    judged = judges(networks.judge, join=networks.judge_join, beginnings=beginnings(config))
    judge_step = make_step(
        judged, optimisers[1], pieces=pieces, mesh=mesh, mapper=mapper, sharded=sharded
    )
    learns = imitates(
        networks.generator, join=networks.join, reference=networks.first, kl=config.kl
    )
    generator_step = make_step(
        learns, optimisers[0], pieces=pieces, mesh=mesh, mapper=mapper, sharded=sharded
    )
    sampler = make_sampler(
        networks, config.proposal, guided=config.guided, mesh=mesh, mapper=mapper
    )
    plain = SamplingConfig(new_tokens=config.proposal.new_tokens, samples=config.proposal.samples)
    own_sampler = sampler
    if not config.own:
        own_sampler = make_sampler(networks, plain, guided=False, mesh=mesh, mapper=mapper)
    greedy = replace(plain, samples=1, rules=Rules(temperature=0.0))
    greedy_sampler = make_sampler(networks, greedy, guided=False, mesh=mesh, mapper=mapper)
    says_human, likelihood = make_readers(networks, mesh=mesh, mapper=mapper)
    gathered = jax.jit(partial(gather, config, conditional=conditional))
    rows_of = jax.jit(gather_rows)
    weighed = jax.jit(partial(weigh, config))
    mixed = jax.jit(partial(_mixed, config))
    added = jax.jit(remember, donate_argnums=0)

    def read_truth(state: GcnState, fixed: Any, drawn: Any, key: jax.Array) -> Any:
        rows = drawn.truth | {"weight": jnp.ones(len(drawn.truth["index"]))}
        return state, rows, {}

    def read_sampled(state: GcnState, fixed: Any, drawn: Any, key: jax.Array) -> Any:
        generator, judge = state.generator.learnt, state.judge
        folded = partial(jax.random.fold_in, key)
        generation = sampler(folded(_SAMPLE), drawn.prompt, generator, judge.learnt, fixed)
        sampled = gathered(drawn.prompt, generation)
        watch("sampled", sampled)
        negative = sampled.rows
        if config.negatives == "generator" and not config.own:
            generation = own_sampler(
                folded(_NEGATIVE), drawn.prompt, generator, judge.learnt, fixed
            )
            negative = rows_of(drawn.prompt, generation)
        replay, means = state.replay, Means()

        def teach(judge: Any, pairs: Any, number: int) -> tuple[Any, Means]:
            batch = mixed(jax.random.fold_in(folded(_MIX), number), replay, pairs)
            return judge_step(judge, fixed["judge"], batch, folded(_JUDGE))

        # In front of its first round the discriminator learns on fresh texts of the generator, of
        # ever other sources: one round's would be known by heart before the language is.
        done = 0
        for number, (prompt, human) in enumerate(drawn.ahead):
            noise = jax.random.fold_in(folded(_AHEAD), number)
            texts = own_sampler(noise, prompt, generator, judge.learnt, fixed)
            fresh = {"human": human, "written": rows_of(prompt, texts)}
            replay = added(replay, fresh) if config.replay_rows else replay
            for _ in range(min(config.turn, config.steps_ahead - done)):
                judge, means = teach(judge, fresh, done)
                done += 1
        pairs = {"human": drawn.human, "written": negative}
        for number in range(done, done + config.judge_steps):
            judge, means = teach(judge, pairs, number)
        means = {f"judge_{name}": mean for name, mean in means.items()}
        watch("judged", means)
        more = {}
        if config.objective == "gdc":
            more["log_first"] = likelihood(networks.first(fixed["generator"]), sampled.rows)
        if config.baseline == "greedy":
            best = greedy_sampler(folded(_SAMPLE), drawn.prompt, generator, judge.learnt, fixed)
            of_source = says_human(judge.learnt, fixed["judge"], rows_of(drawn.prompt, best))
            more["log_human_greedy"] = jnp.repeat(of_source, config.proposal.samples)
        weight, log_partition, described = weighed(
            sampled,
            says_human(judge.learnt, fixed["judge"], sampled.rows),
            round_number=state.step,
            log_partition=state.log_partition,
            **more,
        )
        watch("weighed", weight)
        means |= described | {
            "length": jnp.mean(sampled.length.astype(jnp.float32)),
            "ended": jnp.mean(sampled.finished.astype(jnp.float32)),
            "nats_per_text": -jnp.mean(sampled.log_prob),
        }
        replay = added(replay, pairs) if config.replay_rows else replay
        state = replace(state, judge=judge, replay=replay, log_partition=log_partition)
        return state, sampled.rows | {"weight": weight}, means

    def one(state: GcnState, fixed: Any, drawn: Any, key: jax.Array) -> tuple[GcnState, Means]:
        key = jax.random.fold_in(key, state.step)
        reads = read_truth if config.objective == "mle" else read_sampled
        state, batch, means = reads(state, fixed, drawn, key)
        generator = state.generator
        for _ in range(config.generator_steps):
            generator, learnt = generator_step(
                generator, fixed["generator"], batch, jax.random.fold_in(key, _GENERATOR)
            )
        watch("learnt", learnt)
        return replace(state, generator=generator, step=state.step + 1), means | learnt

    return one


def beginnings(config: GcnConfig) -> bool:
    """Returns whether the discriminator learns every beginning of a text."""
    return config.guided if config.beginnings is None else config.beginnings


def _mixed(config: GcnConfig, key: jax.Array, replay: Replay, pairs: Any) -> dict[str, jax.Array]:
    """Returns a discriminator's batch: sampled rows and people's of the same sources, in turns."""
    half = config.judge_rows // 2
    share = config.replay_share if config.replay_rows else 0.0
    drawn = draw(key, replay, pairs, count=half, share=share)
    both = jax.tree.map(
        lambda a, b: jnp.stack([a, b], axis=1).reshape(2 * half, *a.shape[1:]),
        drawn["human"],
        drawn["written"],
    )
    label = jnp.tile(jnp.asarray([HUMAN, 1 - HUMAN], jnp.int32), half)
    return both | {"label": label, "index": jnp.arange(2 * half, dtype=jnp.int32)}
