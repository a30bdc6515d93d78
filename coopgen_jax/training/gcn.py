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
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from coopgen_jax.data.pairs import rows_behind
from coopgen_jax.decoding.decoders import decode
from coopgen_jax.decoding.generation import Generation
from coopgen_jax.decoding.sampling import SamplingConfig
from coopgen_jax.decoding.smc import SMCConfig
from coopgen_jax.decoding.spread import on_mesh
from coopgen_jax.discriminators.causal import CausalConfig, causal, read_tokens
from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.reading import read
from coopgen_jax.models.transformer import DecoderConfig, Params, unembed
from coopgen_jax.parallel import BATCH, Mapper, P, map_over_mesh
from coopgen_jax.training import losses, weights
from coopgen_jax.training.gcn_config import GcnConfig
from coopgen_jax.training.imitation import imitates
from coopgen_jax.training.objectives import Join, judges, whole
from coopgen_jax.training.replay import Replay, draw, remember
from coopgen_jax.training.step import TrainState, make_step

CLASSES = ("generated", "human")
HUMAN = 1
# What is drawn for a round is told apart by these numbers.
_SAMPLE, _NEGATIVE, _MIX, _JUDGE, _GENERATOR, _AHEAD = range(6)
# Steps of the discriminator on texts of one sampling where no round says.
AHEAD = 4
Means = dict[str, jax.Array]


@struct.dataclass
class GcnState:
    """What rounds change.

    generator, judge: parameters that are trained, with their optimisers.
    replay: texts of earlier rounds, as rows.
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


@struct.dataclass
class Sampled:
    """A round's texts and what is known of them, `M`.

    rows: as `rows_behind` returns them.
    condition: `[M]` int32 number of a text's source.
    log_prob: `[M]` under the generator that sampled them.
    log_proposal: `[M]` with which they were drawn; of particles what makes their log weight that of
      the target p D of the discriminator that guided them, put as such a probability.
    length: `[M]` int32 tokens.
    finished: `[M]` bool whether they have come to an end.
    """

    rows: dict[str, jax.Array]
    condition: jax.Array
    log_prob: jax.Array
    log_proposal: jax.Array
    length: jax.Array
    finished: jax.Array


@dataclass(frozen=True)
class Networks:
    """Both networks' shapes and how their parameters are put together.

    generator: the shape of the language model; join: `(learnt, fixed) -> params` of it.
    judge: the discriminator's; judge_join: `(learnt, fixed) -> {"network", "head"}`.
    first: `fixed -> params` of the generator before all training.
    """

    generator: DecoderConfig
    judge: CausalConfig
    join: Join = whole
    judge_join: Join = whole
    first: Callable[[Any], Params] = lambda fixed: fixed


def gather_rows(prompt: Any, generation: Generation) -> dict[str, jax.Array]:
    """Returns the texts of a generation `[B, R]` behind their sources; see `rows_behind`."""
    return rows_behind(prompt, generation.tokens, generation.length)


def gather(config: GcnConfig, prompt: Any, generation: Generation, *, conditional: bool) -> Sampled:
    """Returns the texts of a generation `[B, R]` as rows, a source's one after another."""
    samples = generation.tokens.shape[1]
    source = jnp.repeat(prompt.index, samples)
    log_proposal = generation.log_proposal
    if isinstance(config.proposal, SMCConfig):
        judged = config.proposal.power * generation.log_class[..., HUMAN]
        log_proposal = generation.log_prob + judged - generation.log_weight
    return Sampled(
        rows=gather_rows(prompt, generation),
        condition=source if conditional else jnp.zeros_like(source),
        log_prob=generation.log_prob.reshape(-1),
        log_proposal=log_proposal.reshape(-1),
        length=generation.length.reshape(-1),
        finished=generation.finished.reshape(-1),
    )


def weigh(
    config: GcnConfig,
    sampled: Sampled,
    log_human: jax.Array,
    *,
    round_number: jax.Array,
    log_partition: jax.Array,
    log_first: jax.Array | None = None,
    log_human_greedy: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, Means]:
    """Returns what each of `M` texts counts, so that their mean is the objective's sum.

    Args:
      config: the round's; `objective` decides.
      sampled: the texts.
      log_human: `[M]` log-probability that the discriminator gives people for them.
      round_number: `[]` rounds done before.
      log_partition: `[]` see `GcnState`.
      log_first: `[M]` under the generator before all training, for "gdc".
      log_human_greedy: `[M]` of the greedy text of each one's source, for that baseline.

    Returns:
      The weights `[M]`, times `M`; the estimate of log Z over all rounds; and what to record.
    """
    texts = len(log_human)
    reward = jnp.exp(log_human)
    means: Means = {"reward": jnp.mean(reward)}
    log_weight = weights.importance(sampled.log_prob, log_human, sampled.log_proposal)
    if config.weighable:
        means |= _described(log_weight, sampled.condition)
    if config.objective == "gcn":
        share = weights.self_normalised(log_weight, sampled.condition, clip=config.clip)
        return share * texts, log_partition, means
    if config.objective == "gdc" and log_first is not None:
        target = weights.importance(log_first, log_human, sampled.log_proposal)
        there = jnp.ones(texts, bool)
        log_partition = weights.partition(log_partition, round_number, target, there)
        counted = weights.distributional(log_first, log_human, sampled.log_proposal, log_partition)
        return counted, log_partition, means | {"log_z_first": log_partition}
    if config.objective == "selfgan":
        return jnp.ones(texts), log_partition, means
    counted = weights.advantage(
        reward, sampled.condition, baseline=config.baseline,
        greedy=None if log_human_greedy is None else jnp.exp(log_human_greedy),
    )  # fmt: skip
    if config.scheduler == "z":
        counted = weights.self_normalised(log_human, sampled.condition) * texts
    if config.scheduler == "manual":
        counted = counted * 0.5 ** (round_number.astype(jnp.float32) / config.half_life)
    return counted, log_partition, means


def _described(log_weight: jax.Array, condition: jax.Array) -> Means:
    """Returns how unequal weights are: as shares of the texts of their condition."""
    texts = weights.texts_of(condition)
    share = weights.effective_sample_size(log_weight, condition) / texts
    return {
        "log_z": jax.nn.logsumexp(log_weight) - jnp.log(float(len(log_weight))),
        "effective_share": jnp.mean(share),
        "weight_entropy": jnp.mean(weights.entropy(log_weight, condition)),
    }


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
    greedy = replace(plain, samples=1, temperature=0.0)
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
        means: Means = {}
        replay = state.replay
        # In front of its first round the discriminator learns on fresh texts of the generator: one
        # round's would be known by heart before the rest of the language is.
        ahead, every = len(drawn.human) - config.judge_steps, config.judge_steps or AHEAD
        for number, human in enumerate(drawn.human):
            rows = negative
            if number < ahead:
                if number % every == 0:
                    noise = jax.random.fold_in(folded(_AHEAD), number)
                    texts = own_sampler(noise, drawn.prompt, generator, judge.learnt, fixed)
                    fresh = rows_of(drawn.prompt, texts)
                    replay = added(replay, fresh) if config.replay_rows else replay
                rows = fresh
            noise = jax.random.fold_in(folded(_MIX), number)
            batch = mixed(noise, replay, rows, human)
            judge, means = judge_step(judge, fixed["judge"], batch, folded(_JUDGE))
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
        replay = added(replay, negative) if config.replay_rows else replay
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


def _mixed(
    config: GcnConfig, key: jax.Array, replay: Replay, rows: Any, human: Any
) -> dict[str, jax.Array]:
    """Returns a discriminator's batch: people's rows and as many sampled ones, in turns."""
    half = config.judge_rows // 2
    share = config.replay_share if config.replay_rows else 0.0
    sampled = draw(key, replay, rows, count=half, share=share)
    both = jax.tree.map(
        lambda a, b: jnp.stack([a, b], axis=1).reshape(2 * half, *a.shape[1:]), human, sampled
    )
    label = jnp.tile(jnp.asarray([HUMAN, 1 - HUMAN], jnp.int32), half)
    return both | {"label": label, "index": jnp.arange(2 * half, dtype=jnp.int32)}


def make_sampler(
    networks: Networks, config: Any, *, guided: bool, mesh: Mesh, mapper: Mapper = "shard_map"
) -> Callable[..., Generation]:
    """Returns a compiled decoder over a mesh, `(key, prompt, generator, judge, fixed) -> texts`."""
    network = language_model(networks.generator)
    given = {"language_model": network, "config": config}
    if guided:
        given["discriminator"] = causal(networks.judge)
    spread = on_mesh(partial(decode, **given), mesh, mapper=mapper)

    def write(key: jax.Array, prompt: Any, generator: Any, judge: Any, fixed: Any) -> Generation:
        params = networks.join(generator, fixed["generator"])
        if not guided:
            return spread(key, prompt, params=params)
        return spread(
            key,
            prompt,
            params=params,
            discriminator_params=networks.judge_join(judge, fixed["judge"]),
            target=jnp.full(prompt.tokens.shape[0], HUMAN, jnp.int32),
        )

    return jax.jit(write)


def make_readers(
    networks: Networks, *, mesh: Mesh, mapper: Mapper = "shard_map"
) -> tuple[Callable[..., jax.Array], Callable[..., jax.Array]]:
    """Returns what reads whole rows over a mesh.

    Returns:
      `(learnt, fixed, rows) -> log p(human | text)` `[M]` of a discriminator, and `(params, rows)
      -> log p(text | source)` `[M]` of a language model shaped as the generator.
    """

    def human(learnt: Any, fixed: Any, rows: Any) -> jax.Array:
        params = networks.judge_join(learnt, fixed)
        return read_tokens(networks.judge, params, rows["tokens"], rows["mask"])[:, HUMAN]

    def likely(params: Any, rows: Any) -> jax.Array:
        _, stream, _, _ = read(networks.generator, params, rows["tokens"], rows["mask"])
        logits = unembed(networks.generator, params, stream)
        each = jax.vmap(losses.log_likelihoods)(logits, rows["tokens"], rows["written"])
        return each.sum(axis=-1)

    by_rows: Any = P(BATCH)
    return (
        jax.jit(map_over_mesh(human, mesh, (P(), P(), by_rows), by_rows, mapper=mapper)),
        jax.jit(map_over_mesh(likely, mesh, (P(), by_rows), by_rows, mapper=mapper)),
    )
