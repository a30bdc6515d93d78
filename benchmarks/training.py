"""What is trained in the benchmarks: a network, random texts, and an objective."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.parts import CLASSES, SHAPES
from benchmarks.settings import Settings
from benchmarks.timing import compiled
from coopgen_jax.discriminators.causal import CausalConfig
from coopgen_jax.discriminators.head import HeadConfig
from coopgen_jax.models import lora
from coopgen_jax.models.layer_layout import for_training, stored
from coopgen_jax.models.pretrained.loaded_model import load
from coopgen_jax.models.reading import read
from coopgen_jax.models.transformer import DecoderConfig, Params, init_decoder, unembed
from coopgen_jax.parallel.mesh import make_mesh
from coopgen_jax.testing import TINY_LLAMA
from coopgen_jax.training.gcn.imitation import weighted_likelihood_loss
from coopgen_jax.training.gcn.importance import importance, self_normalised
from coopgen_jax.training.objectives import classification_loss, language_model_loss, states_read
from coopgen_jax.training.step import Loss, begin_on, make_step

OBJECTIVES = ("writes", "judges", "imitates")
RANK, RATE, DECAY = 8, 1e-4, 0.01
LORA = lora.LoraConfig(rank=RANK, alpha=2.0 * RANK)


def optimiser() -> optax.GradientTransformation:
    """Returns what both sides train with."""
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(RATE, weight_decay=DECAY))


def network(settings: Settings) -> tuple[DecoderConfig, Params]:
    """Returns a network's shape and its weights in float32, the layers stacked.

    Raises:
      ValueError: it is not of the Llama family.
    """
    if settings.model == "default":
        loaded = load(stacked=True)
        return replace(loaded.config, dtype=settings.dtype), loaded.params
    config = TINY_LLAMA if settings.model == "tiny" else SHAPES[str(settings.model)]
    if config.norm != "rms":
        raise ValueError("training is compared with transformers' Llama: leave --model out")
    config = replace(config, dtype=settings.dtype)
    return config, jax.jit(lambda key: init_decoder(key, config))(jax.random.key(0))


def make_batch(config: DecoderConfig, batch: int, length: int) -> dict[str, np.ndarray]:
    """Returns texts of random tokens with all that the objectives want: time does not tell."""
    rng = np.random.default_rng(0)
    drawn = ("log_prob", "log_judged", "log_proposal")
    return {
        "tokens": rng.integers(0, config.vocab_size, (batch, length)).astype(np.int32),
        "mask": np.ones((batch, length), bool),
        "written": np.ones((batch, length), bool),
        "label": (np.arange(batch) % len(CLASSES)).astype(np.int32),
        "index": np.arange(batch, dtype=np.int32),
        **{name: rng.normal(size=batch).astype(np.float32) for name in drawn},
    }


@jax.jit
def weighted(batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns the batch with GCN's weights, of log-probabilities known since it was sampled."""
    rows = len(batch["tokens"])
    log_weight = importance(batch["log_prob"], batch["log_judged"], batch["log_proposal"])
    return {**batch, "weight": rows * self_normalised(log_weight, jnp.zeros(rows, jnp.int32))}


@dataclass(frozen=True, eq=False)
class Task:
    """One objective to train for.

    loss: it; trainable, frozen: what is trained for it, and what is not.
    forward: what the network gives it, `(trainable, frozen, batch) -> array`.
    head: the kernel and the bias of a judge's head.
    """

    loss: Loss
    trainable: Any
    frozen: Any
    forward: Callable[[Any, Any, Any], jax.Array]
    head: tuple[np.ndarray, np.ndarray] | None = None


def make_task(objective: str, config: DecoderConfig, params: Params, *, whole: bool) -> Task:
    """Returns what is trained: all of the network, or LoRA's additions to it."""
    trainable: Any
    if whole:
        # A copy, since a step gives its state's memory away.
        trainable, frozen = for_training(jax.tree.map(jnp.copy, params)), None
    else:
        trainable = lora.init_lora(jax.random.key(0), params, LORA)
        frozen = for_training(stored(params, config.dtype))

    def join(trainable: Any, frozen: Any) -> Params:
        return trainable if whole else lora.add_lora(frozen, trainable, LORA)

    if objective != "judges":

        def logits(trainable: Any, frozen: Any, batch: Any) -> jax.Array:
            own = join(trainable, frozen)
            return unembed(config, own, read(config, own, batch["tokens"], batch["mask"])[1])

        chosen = language_model_loss if objective == "writes" else weighted_likelihood_loss
        loss = chosen(config, join=join)
        return Task(loss, trainable, frozen, logits)
    judge = CausalConfig(config, HeadConfig(CLASSES, config.width, ()), start_token=0)
    rng = np.random.default_rng(1)
    kernel = 0.02 * rng.normal(size=(config.width, len(CLASSES))).astype(np.float32)
    head = kernel, np.zeros(len(CLASSES), np.float32)
    standard = {"centre": jnp.zeros(config.width), "scale": jnp.ones(config.width)}

    def both(trainable: Any, frozen: Any) -> Any:
        own = join(trainable["network"], frozen)
        return {"network": own, "head": {"output": trainable["head"], **standard}}

    def states(trainable: Any, frozen: Any, batch: Any) -> jax.Array:
        return states_read(judge, join(trainable["network"], frozen), batch)

    trainable = {
        "network": trainable,
        "head": {"kernel": jnp.asarray(head[0]), "bias": jnp.zeros(2)},
    }
    return Task(
        classification_loss(judge, join=both, prefixes=True), trainable, frozen, states, head
    )


class Ours:
    """Our step, on one device."""

    def __init__(self, task: Task, batch: dict[str, np.ndarray]):
        self.task, self.key = task, jax.random.key(0)
        self.batch = jax.tree.map(jnp.asarray, batch)
        mesh, adamw = make_mesh(1), optimiser()
        step = make_step(task.loss, adamw, mesh=mesh)
        self.state = begin_on(mesh, task.trainable, adamw)
        given = (self.state, task.frozen, weighted(self.batch), self.key)
        self.state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves((self.state, task.frozen)))
        self.compiled = compiled(step, *given)

    def __call__(self) -> jax.Array:
        """Takes a step; returns the loss in front of it."""
        given = (self.task.frozen, weighted(self.batch), self.key)
        self.state, means = self.compiled.call(self.state, *given)
        return means["loss"]
