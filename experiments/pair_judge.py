"""A discriminator that reads a source and a text behind it: was it people who wrote the text?

It is the causal discriminator of cooperative training, but learns from texts that were written
before: `load_discriminator` takes its folder, as a guide or to judge whole texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax

from coopgen_jax.data.pairs import Pairs
from coopgen_jax.discriminators.causal import CausalConfig, read_tokens
from coopgen_jax.discriminators.head import Head, HeadConfig
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.models.pretrained.saving import save_model
from coopgen_jax.parallel.mesh import make_mesh
from coopgen_jax.training.card import save_head
from coopgen_jax.training.gcn.gcn_networks import CLASSES, HUMAN
from coopgen_jax.training.loop import train
from coopgen_jax.training.objectives import classification_loss
from coopgen_jax.training.recipes.causal_recipe import STANDARD_BATCHES, standard_of
from coopgen_jax.training.recipes.full_network import full_network, trainable_of
from coopgen_jax.training.run import RecipeConfig
from coopgen_jax.training.step import begin_on, make_step, make_validation, mean_over
from coopgen_jax.training.training_folder import claim
from experiments.train_heads import told

# Of so many sources one is held out.
HELD_OUT = 8


def both_sides(human: Pairs, written: Pairs, numbers: Sequence[int]) -> dict[str, np.ndarray]:
    """Returns human texts for some sources and, behind them, the written ones, as rows."""
    parts = human.rows(numbers), written.rows(numbers)
    rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    label = np.repeat(np.asarray([HUMAN, 1 - HUMAN], np.int32), len(numbers))
    return rows | {"label": label, "index": np.arange(len(label), dtype=np.int32)}


@dataclass(frozen=True)
class Sides:
    """Batches by number; all sources come up in every turn.

    Attributes:
      human: Sources and human texts.
      written: The same sources and sampled texts.
      training: Numbers of the sources to train on.
      sources: Sources of a batch, with a text of either side each.
      seed: Of their order.
    """

    human: Pairs
    written: Pairs
    training: tuple[int, ...]
    sources: int
    seed: int

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        """Returns batch `number`."""
        order = grain.MapDataset.source(self.training).seed(self.seed).shuffle().repeat()
        places = range(number * self.sources, (number + 1) * self.sources)
        return both_sides(self.human, self.written, [int(order[place]) for place in places])


def optimiser_of(how: RecipeConfig) -> optax.GradientTransformation:
    """Returns AdamW behind a clipped gradient, its learning rate warmed up and then falling."""
    warmup = max(1, round(how.warmup * how.loop.steps))
    rate = optax.warmup_cosine_decay_schedule(
        0.0, how.learning_rate, warmup, max(warmup + 1, how.loop.steps)
    )
    return optax.chain(
        optax.clip_by_global_norm(how.clip), optax.adamw(rate, weight_decay=how.weight_decay)
    )


def train_pair_judge(
    model: LoadedModel,
    human: Pairs,
    written: Pairs,
    how: RecipeConfig,
    *,
    beginnings: bool,
    folder: Path,
) -> dict[str, Any]:
    """Trains the discriminator, going on where it was interrupted, and returns its card.

    Args:
      model: the language model that it begins as, its layers stacked.
      human: sources and human texts.
      written: the same sources, in the same order, and other texts.
      how: how to train; half the rows of a step are human.
      beginnings: whether it learns every beginning of a text, for a guide, or whole texts.
      folder: where everything goes.
    """
    mesh, seed = make_mesh(1), how.batch.seed
    settings = {"beginnings": beginnings, "dtype": model.config.dtype}
    claim(folder, "pair judge", model.sha256, how, (human, written), **settings)
    head = HeadConfig(CLASSES, model.config.width, how.hidden, how.dropout)
    judge = CausalConfig(model.config, head)
    network, fixed, join = trainable_of(model, how.lora, mesh, seed=seed)
    drawn = Head(head).init(jax.random.key(seed), jnp.zeros((1, head.inputs)))["params"]
    begun = {name: leaf for name, leaf in drawn.items() if name not in ("centre", "scale")}
    numbers = range(len(human))
    held_out = numbers[::HELD_OUT]
    training = tuple(number for number in numbers if number not in held_out)
    count = how.batch.rows // 2
    sides = Sides(human, written, training, count, seed)
    standard = standard_of(judge, model.params, (sides[n] for n in range(STANDARD_BATCHES)))

    def joined(trainable: Any, fixed: Any) -> Any:
        head = {**trainable["head"], **standard}
        return {"network": join(trainable["network"], fixed), "head": head}

    optimiser = optimiser_of(how)
    step = make_step(
        classification_loss(judge, join=joined, prefixes=beginnings), optimiser, mesh=mesh
    )
    measure = make_validation(classification_loss(judge, join=joined, training=False), mesh=mesh)
    key = jax.random.key(seed)

    def validate(trainable: Any) -> dict[str, float]:
        # What is left over is read again rather than compiled again.
        starts = range(0, max(1, len(held_out) - len(held_out) % count), count)
        batches = [
            both_sides(human, written, [held_out[(at + n) % len(held_out)] for n in range(count)])
            for at in starts
        ]
        return mean_over(batches, lambda batch: measure(trainable, fixed, batch, key))

    outcome = train(
        begin_on(mesh, {"network": network, "head": begun}, optimiser),
        step=lambda state, batch: step(state, fixed, batch, key),
        batches=sides, validate=validate, folder=folder, config=replace(how.loop, keep="last"),
        listener=told(folder.name, "step"),
    )  # fmt: skip
    card = {
        "kind": "causal",
        "classes": list(CLASSES),
        "hidden": list(how.hidden),
        "reads_prompt": True,
        "start_token": None,
        "model": model.name,
        "model_sha256": model.sha256,
        "sources": len(training),
        "beginnings": beginnings,
        "steps": outcome.step,
        "stopped": outcome.stopped,
        "best": outcome.best,
        "held_out": validate(outcome.trainable),
    }
    save_model(
        folder / "network", model.config, full_network(join, outcome.trainable["network"], fixed),
        model.tokenizer, dtype=how.saved_dtype,
    )  # fmt: skip
    weights = {**outcome.trainable["head"], **standard}
    save_head(folder, jax.tree.map(np.asarray, weights), card)
    return card


def says_human(judge: LoadedDiscriminator, texts: Pairs, *, rows: int = 16) -> np.ndarray:
    """Returns p(human | source, text) `[n]` of whole texts, read `rows` at once."""
    bound: Any = judge.discriminator.evaluate
    read = jax.jit(partial(read_tokens, bound.config))
    found: list[float] = []
    for at in range(0, len(texts), rows):
        numbers = list(range(at, min(at + rows, len(texts))))
        padded = texts.rows([*numbers, *[numbers[-1]] * (rows - len(numbers))])
        log_class = read(judge.params, padded["tokens"], padded["mask"])
        found += np.exp(np.asarray(log_class)[: len(numbers), HUMAN]).tolist()
    return np.asarray(found)
