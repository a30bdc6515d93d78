"""The bare network calls of a round of cooperative training by tree search."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.rounds import JUDGE_STEPS, Made
from benchmarks.search import bare_calls
from benchmarks.timing import compiled
from benchmarks.train_step import bare
from benchmarks.training import Task
from coopgen_jax.data.pairs import Drawn
from coopgen_jax.decoding.job import Job
from coopgen_jax.decoding.mcts import ppl_mcts as mcts
from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig
from coopgen_jax.discriminators.causal import causal, read_tokens
from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.reading import read
from coopgen_jax.models.transformer import unembed
from coopgen_jax.training.gcn.gcn_networks import HUMAN
from coopgen_jax.training.gcn.imitation import weighted_likelihood_loss
from coopgen_jax.training.objectives import classification_loss, states_read


class Floor:
    """The network calls that a round by tree search must make, and nothing else.

    Prompts are read, every token's search calls both networks once per wave and once for the token
    drawn; the discriminator reads its batches forwards and backwards and the texts forwards, the
    generator reads them forwards and backwards.
    """

    def __init__(self, made: Made, proposal: MCTSConfig, drawn: Drawn):
        networks, texts = made.networks, len(drawn.prompt.tokens) * proposal.samples
        shape, frozen = networks.discriminator, made.frozen
        self.tokens = proposal.new_tokens
        self.job = Job(
            prompt=jax.tree.map(jnp.asarray, drawn.prompt),
            target=jnp.full(len(drawn.prompt.tokens), HUMAN, jnp.int32),
            config=proposal,
            language_model=language_model(networks.generator),
            params=networks.join(made.trainable["generator"], frozen["generator"]),
            discriminator=causal(shape),
            discriminator_params=networks.discriminator_join(
                made.trainable["discriminator"], frozen["discriminator"]
            ),
        )
        single = replace(proposal.search, simulations=1, wave=1)
        self.single = self.job.replace(config=replace(proposal, search=single))
        self.begin = compiled(mcts.begin, self.job).call
        calls = partial(bare_calls, both=True)
        states = jax.eval_shape(mcts.begin, self.job).states
        self.search, self.draw = (
            compiled(calls, job, states, donate_argnums=1).call for job in (self.job, self.single)
        )
        self._training(made, {name: jnp.asarray(rows) for name, rows in made.people.rows(
            [number % len(made.people) for number in range(texts)]
        ).items()})  # fmt: skip

    def _training(self, made: Made, rows: dict[str, jax.Array]) -> None:
        networks, trainable = made.networks, made.trainable
        discriminator, generator = networks.discriminator, networks.generator

        def states(trainable: Any, frozen: Any, batch: Any) -> jax.Array:
            return states_read(
                discriminator, networks.discriminator_join(trainable, frozen)["network"], batch
            )

        def logits(trainable: Any, frozen: Any, batch: Any) -> jax.Array:
            params = networks.join(trainable, frozen)
            _, stream, _, _ = read(generator, params, batch["tokens"], batch["mask"])
            return unembed(generator, params, stream)

        tasks = {
            "discriminator": Task(
                classification_loss(discriminator),
                trainable["discriminator"],
                made.frozen["discriminator"],
                states,
            ),
            "generator": Task(
                weighted_likelihood_loss(generator),
                trainable["generator"],
                made.frozen["generator"],
                logits,
            ),
        }
        self.steps = {
            name: partial(bare(task, task.trainable, rows), task.trainable)
            for name, task in tasks.items()
        }
        params, tokens = self.job.discriminator_params, (rows["tokens"], rows["mask"])
        reading = compiled(partial(read_tokens, discriminator), params, *tokens).call
        self.read = lambda: reading(params, *tokens)

    def __call__(self) -> Any:
        """Makes a round's calls."""
        states, found = self.begin(self.job).states, []
        for _ in range(self.tokens):
            states, _ = self.search(self.job, states)
            states, total = self.draw(self.single, states)
            found.append(total)
        steps = [self.steps["discriminator"]() for _ in range(JUDGE_STEPS)]
        return found, steps, self.read(), self.steps["generator"]()
