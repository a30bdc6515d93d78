"""The recipe of a small CLIP: two linear heads on frozen states of images and of their captions."""

import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from coopgen_jax.data.image_states import Captioned
from coopgen_jax.discriminators.clip_heads import ClipHeadsConfig, head_vectors, heads_shapes
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.clip_vectors import all_similarities
from coopgen_jax.evaluation.retrieval import image_retrieval, retrieval_figures, text_retrieval
from coopgen_jax.evaluation.sentence_features import sentence_features
from coopgen_jax.models.pretrained.image_networks import LoadedBackbone
from coopgen_jax.models.pretrained.loaded_model import LoadedEncoder
from coopgen_jax.parallel.mesh import place
from coopgen_jax.training.card import save_head
from coopgen_jax.training.contrastive import contrastive_loss
from coopgen_jax.training.loop import Begin, Listener, Outcome
from coopgen_jax.training.recipes.recipe import Recipe, Subject, carry_out
from coopgen_jax.training.run import RecipeConfig, Rows, Run

# The scale of the cosines in front of the first step: a temperature of a twentieth.
FIRST_LOG_SCALE = float(np.log(20.0))


def train_clip(
    backbone: LoadedBackbone,
    encoder: LoadedEncoder,
    training: Captioned,
    validation: Captioned,
    config: RecipeConfig,
    *,
    width: int = 512,
    folder: Path,
    mesh: Mesh,
    listener: Listener = lambda done, total, means: None,
    begin: Begin = lambda: None,
) -> dict[str, Any]:
    """Trains two heads by the contrastive loss; `load_discriminator` takes the folder.

    A pair competes with the others that its device has of the step's batch. The card says
    how well images and captions of the validation rows find one another (`evaluation.retrieval`).

    Args:
      backbone: what described the images; it stays as it is.
      encoder: what reads the captions; it stays as it is.
      training: images and captions to train on.
      validation: others, to choose the best heads by.
      config: how to train; `batch.longest` is the most word pieces that are read of a caption.
      width: `F`, of the vectors.
      folder: where everything goes; a run that stopped there goes on.
      mesh: the devices.
      listener: see `loop.Listener`.
      begin: see `loop.Begin`.

    Raises:
      UserError: the folder holds another training, features are of no use, or a loss is not finite.
    """
    for data in (training, validation):
        _check(data, encoder)
    shape = ClipHeadsConfig(backbone.width, encoder.config.width, width, config.dropout)
    subject = Subject(
        kind="clip-heads",
        source=f"{backbone.sha256} {encoder.sha256}",
        rows=(_rows(training), _rows(validation)),
        texts=training.captions,
        settings={
            "width": width,
            "dtype": encoder.config.dtype,
            "captioned_sha256": _digest(training, validation),
        },
    )
    make = partial(_recipe, backbone, encoder, shape, training, validation, config, mesh)
    # A row is the number of a caption.
    whole = replace(config, batch=replace(config.batch, shortest=None))
    return carry_out(subject, make, whole, folder=folder, mesh=mesh, listener=listener, begin=begin)


def _rows(data: Captioned) -> Rows:
    return Rows([[number] for number in range(len(data.captions))], data.image_of.tolist())


def _check(data: Captioned, encoder: LoadedEncoder) -> None:
    """Raises UserError where there are features that are not the encoder's, one a caption."""
    wanted = len(data.captions), encoder.config.width
    if data.features is not None and data.features.shape != wanted:
        raise UserError(
            f"features of captions have the shape {data.features.shape}: give {wanted[0]} rows of "
            f"{wanted[1]}, what {encoder.name} makes of them, or none"
        )


def _features(data: Captioned, encoder: LoadedEncoder, longest: int) -> np.ndarray:
    if data.features is not None:
        return data.features.astype(np.float32)
    return sentence_features(encoder, data.captions, longest=longest)


def _digest(*parts: Captioned) -> str:
    found = hashlib.sha256()
    for data in parts:
        found.update(np.ascontiguousarray(data.states).tobytes())
        found.update("\n".join(data.captions).encode("utf-8", "replace"))
        if data.features is not None:
            found.update(np.ascontiguousarray(data.features).tobytes())
    return found.hexdigest()


def _recipe(
    backbone: LoadedBackbone,
    encoder: LoadedEncoder,
    shape: ClipHeadsConfig,
    training: Captioned,
    validation: Captioned,
    config: RecipeConfig,
    mesh: Mesh,
) -> Recipe:
    longest, first = config.batch.longest, len(training.captions)
    texts = [_features(data, encoder, longest) for data in (training, validation)]
    # One table of the texts and one of the images: the validation rows stand behind the others.
    tables = {
        "text": np.concatenate(texts),
        "image": np.concatenate([training.states, validation.states]).astype(np.float32),
    }
    behind = Rows(
        [[first + number] for number in range(len(validation.captions))],
        (validation.image_of + len(training.states)).tolist(),
    )

    def vectors(trainable: Any, frozen: Any, batch: Any, key: Any) -> tuple[jax.Array, jax.Array]:
        keys = dict(zip(("image", "text"), (None, None) if key is None else jax.random.split(key),
                        strict=True))  # fmt: skip
        numbers = {"image": batch["label"], "text": batch["tokens"][:, 0]}
        image, text = (
            head_vectors(
                {**frozen["standardisation"][side], **trainable[side]},
                frozen["tables"][side][numbers[side]],
                dropout=shape.dropout,
                key=keys[side],
            )
            for side in ("image", "text")
        )
        return image, text

    objective = [contrastive_loss(vectors, training=training) for training in (True, False)]
    frozen = {
        "tables": tables,
        "standardisation": {
            "image": _standardisation(training.states),
            "text": _standardisation(texts[0]),
        },
    }

    def measure(run: Run, outcome: Outcome) -> dict[str, Any]:
        heads = _heads(outcome.trainable, frozen)
        images = np.asarray(head_vectors(heads["image"], jnp.asarray(validation.states)))
        found = np.asarray(head_vectors(heads["text"], jnp.asarray(texts[1])))
        cosines, own = all_similarities(found, images), validation.image_of
        return {
            "retrieval": {
                "images": len(images),
                "image_to_text": retrieval_figures(text_retrieval(cosines, own)),
                "text_to_image": retrieval_figures(image_retrieval(cosines, own)),
            }
        }

    return Recipe(
        objective=(objective[0], objective[1]),
        trainable=_begin(shape, config.batch.seed),
        frozen=place(frozen, mesh),
        card={
            "classes": ["other", "image"],
            **backbone.identity,
            "encoder": _named(encoder.name),
            "encoder_sha256": encoder.sha256,
            "width": shape.width,
            "images": len(training.states),
        },
        measure=measure,
        export=lambda trainable, frozen: jax.tree.map(np.asarray, _heads(trainable, frozen)),
        deliver=lambda folder, weights, card: save_head(folder, weights, card),
        rows=(_rows(training), behind),
    )


def _standardisation(states: np.ndarray) -> dict[str, np.ndarray]:
    spread = states.std(axis=0)
    # A number that is the same for all says nothing.
    scale = np.where(spread > 1e-6, 1 / np.maximum(spread, 1e-6), 0.0)
    return {"centre": states.mean(axis=0, dtype=np.float32), "scale": scale.astype(np.float32)}


def _begin(shape: ClipHeadsConfig, seed: int) -> dict[str, Any]:
    """Returns what is trainable in front of the first step."""
    begun: dict[str, Any] = {"log_scale": jnp.float32(FIRST_LOG_SCALE)}
    keys = jax.random.split(jax.random.key(seed))
    shapes = heads_shapes(shape)
    for key, side in zip(keys, ("image", "text"), strict=True):
        kernel = shapes[side]["output"]["kernel"].shape
        drawn = kernel[0] ** -0.5 * jax.random.normal(key, kernel, jnp.float32)
        begun[side] = {"output": {"kernel": drawn, "bias": jnp.zeros(kernel[1])}}
    return begun


def _heads(trainable: Any, frozen: Any) -> Any:
    """Returns the heads with their standardisation."""
    heads = {
        side: {**frozen["standardisation"][side], **trainable[side]} for side in ("image", "text")
    }
    return {**heads, "log_scale": trainable["log_scale"]}


def _named(name: str) -> str:
    path = Path(name).expanduser()
    return str(path.resolve()) if path.is_dir() else name
