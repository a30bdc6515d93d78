"""The recipe of low-rank additions to a loaded CLIP or SigLIP, by the contrastive loss."""

import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from coopgen_jax.data.image_colours import CaptionedColours, normalised
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.clip_vectors import all_similarities
from coopgen_jax.evaluation.retrieval import image_retrieval, retrieval_figures, text_retrieval
from coopgen_jax.models.clip import image_vectors, text_vectors
from coopgen_jax.models.lora import LoraConfig, add_lora, init_lora, merge_lora
from coopgen_jax.models.pixels import PixelConfig
from coopgen_jax.models.pretrained.clip_saving import save_clip
from coopgen_jax.models.pretrained.image_networks import LoadedClip
from coopgen_jax.parallel.mesh import place
from coopgen_jax.training.card import save_head
from coopgen_jax.training.contrastive import contrastive_loss
from coopgen_jax.training.loop import Begin, Listener, Outcome
from coopgen_jax.training.recipes.recipe import Recipe, Subject, carry_out
from coopgen_jax.training.run import RecipeConfig, Rows, Run

Towers = Literal["both", "text"]
# What is trained, by the name of its parameters in a CLIP.
SIDES: dict[Towers, tuple[str, ...]] = {"both": ("vision", "text"), "text": ("text",)}
# Rows that are read at once where nothing is trained.
READ = 32


def train_clip_lora(
    clip: LoadedClip,
    training: CaptionedColours,
    validation: CaptionedColours,
    config: RecipeConfig,
    *,
    towers: Towers = "both",
    folder: Path,
    mesh: Mesh,
    listener: Listener = lambda done, total, means: None,
    begin: Begin = lambda: None,
) -> dict[str, Any]:
    """Trains low-rank additions to a CLIP; `load_clip` and `load_discriminator` take the folder.

    The additions (`models.lora`) to the towers' kernels are all that is trained: projections, norms
    and the scale of the logits stay as they are. In the folder they are inside the kernels;
    "head.safetensors" has them at a scale of one. A pair competes with the others that its device
    has of the step's batch. The card says how well images and captions of the validation rows find
    one another (`evaluation.retrieval`), and how well they did before. A SigLIP is trained by the
    same loss, not by the sigmoid loss that it was made with: the bias of its logits plays no part.

    All colours are in the device's memory: 150 kB an image at 224 pixels.

    Args:
      clip: the network, in float32.
      training: images and captions to train on.
      validation: others, to choose the best additions by.
      config: how to train; `lora` says the additions, and `batch.longest` the most tokens that are
        read of a caption, special ones included.
      towers: "both", or "text" to leave the tower of the images as it is: their vectors are then
        computed once.
      folder: where everything goes; a run that stopped there goes on.
      mesh: the devices.
      listener: see `loop.Listener`.
      begin: see `loop.Begin`.

    Raises:
      UserError: captions exceed the CLIP's context, `lora` is missing, the folder holds another
        training, or a loss is not finite.
    """
    lora, context = config.lora, clip.config.text.context
    if lora is None:
        raise UserError("lora is None: a CLIP is trained by additions, give a LoraConfig")
    if config.batch.longest > context:
        raise UserError(
            f"captions of {config.batch.longest} tokens exceed the CLIP's context of {context}: "
            "shorten them"
        )
    rows = [
        Rows(clip.rows(data.captions, longest=config.batch.longest), data.image_of.tolist())
        for data in (training, validation)
    ]
    subject = Subject(
        kind="clip",
        source=clip.sha256,
        rows=(rows[0], rows[1]),
        texts=training.captions,
        settings={
            "towers": towers,
            "dtype": clip.config.text.tower.dtype,
            "captioned_sha256": _digest(training, validation),
        },
    )
    make = partial(_recipe, clip, training, validation, subject, config, lora, towers, mesh)
    whole = replace(config, batch=replace(config.batch, shortest=None))
    return carry_out(subject, make, whole, folder=folder, mesh=mesh, listener=listener, begin=begin)


def _digest(*parts: CaptionedColours) -> str:
    found = hashlib.sha256()
    for data in parts:
        found.update(np.ascontiguousarray(data.colours).tobytes())
    return found.hexdigest()


def init_clip_lora(
    key: jax.Array, params: Any, lora: LoraConfig, towers: Towers = "both"
) -> dict[str, Any]:
    """Returns additions to towers that change nothing yet, by the tower's name: "vision", "text".

    See `lora.init_lora`.
    """
    keys = jax.random.split(key, len(SIDES[towers]))
    return {
        side: init_lora(one, params[side], lora)
        for one, side in zip(keys, SIDES[towers], strict=True)
    }


def with_clip_lora(params: Any, additions: dict[str, Any], lora: LoraConfig) -> Any:
    """Returns a CLIP's parameters with additions in the kernels of its towers."""
    changed = {
        side: merge_lora(add_lora(params[side], own, lora)) for side, own in additions.items()
    }
    return {**params, **changed}


def _recipe(
    clip: LoadedClip,
    training: CaptionedColours,
    validation: CaptionedColours,
    subject: Subject,
    config: RecipeConfig,
    lora: LoraConfig,
    towers: Towers,
    mesh: Mesh,
) -> Recipe:
    shape = clip.config
    see = jax.jit(partial(_seen, shape, clip.pixels))
    say = jax.jit(partial(text_vectors, shape))
    merge = jax.jit(partial(with_clip_lora, lora=lora))
    both = towers == "both"
    # One table of the images: the validation images stand behind the others.
    parts = [data.colours if both else _images(see, clip.params, data.colours)
             for data in (training, validation)]  # fmt: skip
    behind = Rows(subject.rows[1].ids, (validation.image_of + len(training.colours)).tolist())
    frozen = place({"clip": clip.params, "images": np.concatenate(parts)}, mesh)

    def vectors(trainable: Any, frozen: Any, batch: Any, key: Any) -> tuple[jax.Array, jax.Array]:
        params = with_clip_lora(frozen["clip"], trainable["additions"], lora)
        images = frozen["images"][batch["label"]]
        seen = _seen(shape, clip.pixels, params, images) if both else images
        # A batch is padded beyond the longest caption, and perhaps beyond the context.
        tokens, mask = (batch[name][:, : shape.text.context] for name in ("tokens", "mask"))
        return seen, text_vectors(shape, params, tokens, mask)

    def loss_of(*, training: bool) -> Any:
        inner = contrastive_loss(vectors, training=training)

        def loss(trainable: Any, frozen: Any, batch: Any, key: jax.Array) -> Any:
            scale = frozen["clip"]["logit_scale"].reshape(())
            return inner({"additions": trainable, "log_scale": scale}, frozen, batch, key)

        return loss

    def measure(run: Run, outcome: Outcome) -> dict[str, Any]:
        found = {}
        for name, params in (
            ("retrieval", merge(clip.params, outcome.trainable)),
            ("retrieval_before", clip.params),
        ):
            images = _images(see, params, validation.colours) if both else parts[1]
            texts = _texts(say, params, subject.rows[1].ids)
            found[name] = _retrieval(images, texts, validation.image_of)
        return found

    def export(trainable: Any, frozen: Any) -> Any:
        scaled = jax.tree.map(np.asarray, _at_scale_one(trainable, lora))
        params = merge(frozen["clip"], trainable)
        return {"additions": scaled, "clip": jax.tree.map(np.asarray, params)}

    def deliver(folder: Path, weights: Any, card: dict[str, Any]) -> None:
        kept = (clip.tokenizer, clip.pixels)
        save_clip(folder, shape, weights["clip"], *kept, dtype=config.saved_dtype)
        save_head(folder, weights["additions"], card)

    begun = jax.jit(partial(init_clip_lora, lora=lora, towers=towers))
    trainable = begun(jax.random.key(config.batch.seed), clip.params)
    return Recipe(
        objective=(loss_of(training=True), loss_of(training=False)),
        trainable=trainable,
        frozen=frozen,
        card={**_card(clip, lora, towers), "images": len(training.colours)},
        measure=measure,
        export=export,
        deliver=deliver,
        rows=(subject.rows[0], behind),
        dtype=shape.text.tower.dtype,
    )


def _card(clip: LoadedClip, lora: LoraConfig, towers: Towers) -> dict[str, Any]:
    path = Path(clip.name).expanduser()
    layers = clip.params["text"]["layers"]
    return {
        "classes": ["other", "image"],
        "clip": str(path.resolve()) if path.is_dir() else clip.name,
        "clip_sha256": clip.sha256,
        "trained": f"LoRA of rank {lora.rank}",
        "towers": list(SIDES[towers]),
        "lora": {"rank": lora.rank, "targets": sorted(set(lora.targets) & set(layers))},
    }


def _seen(config: Any, pixels: PixelConfig, params: Any, colours: jax.Array) -> jax.Array:
    return image_vectors(config, params, normalised(pixels, colours))


def _images(see: Any, params: Any, colours: np.ndarray) -> np.ndarray:
    """Returns the vectors `[I, F]` of images, a few at a time."""
    rows = []
    for start in range(0, len(colours), READ):
        part = colours[start : start + READ]
        filled = np.concatenate([part, np.repeat(part[-1:], READ - len(part), axis=0)])
        rows.append(np.asarray(see(params, jnp.asarray(filled)))[: len(part)])
    return np.concatenate(rows)


def _texts(say: Any, params: Any, ids: list[list[int]]) -> np.ndarray:
    """Returns the vectors `[T, F]` of rows of ids, a few at a time."""
    width = max(map(len, ids))
    rows = []
    for start in range(0, len(ids), READ):
        part = ids[start : start + READ]
        filled = part + [part[-1]] * (READ - len(part))
        mask = np.arange(width)[None] < np.array([len(row) for row in filled])[:, None]
        tokens = np.zeros(mask.shape, np.int32)
        tokens[mask] = [number for row in filled for number in row]
        rows.append(np.asarray(say(params, jnp.asarray(tokens), jnp.asarray(mask)))[: len(part)])
    return np.concatenate(rows)


def _retrieval(images: np.ndarray, texts: np.ndarray, own: np.ndarray) -> dict[str, Any]:
    cosines = all_similarities(texts, images)
    return {
        "images": len(images),
        "image_to_text": retrieval_figures(text_retrieval(cosines, own)),
        "text_to_image": retrieval_figures(image_retrieval(cosines, own)),
    }


def _at_scale_one(additions: Any, lora: LoraConfig) -> Any:
    scale = lora.alpha / lora.rank
    return {
        side: {name: {**one, "lora_up": scale * one["lora_up"]} for name, one in own.items()}
        for side, own in additions.items()
    }
