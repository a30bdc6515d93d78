"""The recipe of captioners: teacher forcing of captions behind the prefix of their image."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from coopgen_jax.errors import UserError
from coopgen_jax.models.image_prefix import (
    ImagePrefixConfig,
    image_prefix,
    init_image_prefix,
    read_behind,
)
from coopgen_jax.models.pretrained.captioner import front_of
from coopgen_jax.models.pretrained.image_networks import LoadedBackbone
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.models.pretrained.saving import save_model
from coopgen_jax.models.transformer import DecoderConfig, output_factors
from coopgen_jax.parallel.mesh import place
from coopgen_jax.tokenizer import Tokenizer
from coopgen_jax.training.card import save_head
from coopgen_jax.training.chunked_likelihood import log_likelihoods_of_states
from coopgen_jax.training.loop import Begin, Listener
from coopgen_jax.training.objectives import Join, all_trainable
from coopgen_jax.training.recipes.begin_head import standardisation
from coopgen_jax.training.recipes.full_network import (
    check_network,
    full_network,
    network_card,
    trainable_of,
)
from coopgen_jax.training.recipes.language_model_recipe import perplexity_entry
from coopgen_jax.training.recipes.recipe import Recipe, Subject, carry_out
from coopgen_jax.training.run import RecipeConfig, Rows
from coopgen_jax.training.step import Loss, Sums

# An image's number and one of its captions.
Caption = tuple[int, str]


def train_captioner(
    model: LoadedModel,
    features: np.ndarray,
    training: Sequence[Caption],
    validation: Sequence[Caption],
    config: RecipeConfig,
    *,
    backbone: LoadedBackbone | None = None,
    tokens: int = 8,
    hidden: int | None = None,
    folder: Path,
    mesh: Mesh,
    listener: Listener = lambda done, total, means: None,
    begin: Begin = lambda: None,
) -> dict[str, Any]:
    """Trains a captioner by teacher forcing; `load_captioner` takes the folder.

    The network between features and prefix is trained, and with it all of the language model or, by
    LoRA, additions to it. Captions are not cut to prefixes. The rest is as in `train_causal`.

    Args:
      model: the language model, whose layers are stacked.
      features: `[n, F]` of every image, of training and of validation, from a frozen network.
      training: captions, each with its image's row in `features`.
      validation: others, of other images.
      config: how to train.
      backbone: what made the features, which the card then names; None where they come from
        elsewhere.
      tokens: vectors of a prefix.
      hidden: units between features and prefix; None for twice the model's width.
      folder: where everything goes, checkpoints included; a run that stopped there goes on.
      mesh: the devices.
      listener: called after every step.
      begin: called in front of the first one; see `loop.Begin`.

    Raises:
      UserError: features or captions are of no use, the backbone makes others, the layers are no
        stack, or the folder holds another training.
    """
    if tokens < 1:
        raise UserError(f"a prefix of {tokens} vectors says nothing of an image: give 1 or more")
    check_network(model, config, tokens + 1)
    features = np.asarray(features, np.float32)
    if features.ndim != 2 or not np.isfinite(features).all():
        raise UserError("features must be a row of finite numbers for every image")
    if backbone and features.shape[1] != backbone.width:
        raise UserError(
            f"features are rows of {features.shape[1]}, and {backbone.name} makes rows of "
            f"{backbone.width}: give those of this backbone"
        )
    vision = backbone.identity if backbone else {}
    config = replace(config, batch=replace(config.batch, shortest=None, balanced=False))
    coded = partial(caption_rows, model.tokenizer, images=len(features))
    rows = coded(training), coded(validation)
    shape = ImagePrefixConfig(
        inputs=features.shape[1],
        tokens=tokens,
        width=model.config.width,
        hidden=hidden or 2 * model.config.width,
    )
    subject = Subject(
        "captioner",
        model.sha256,
        rows,
        [text for _, text in training],
        {
            "dtype": model.config.dtype,
            "features_sha256": hashlib.sha256(features.tobytes()).hexdigest(),
            "image_prefix": asdict(shape),
            "backbone_sha256": vision.get("backbone_sha256"),
        },
    )
    make = partial(_recipe, model, shape, features, rows[0], config, mesh, vision)
    return carry_out(
        subject, make, config, folder=folder, mesh=mesh, listener=listener, begin=begin
    )


def caption_rows(tokenizer: Tokenizer, captions: Sequence[Caption], images: int) -> Rows:
    """Returns captions as ids between what begins and what ends a text, labelled by their image.

    Raises:
      UserError: a caption is empty, its image has no features, or no token ends a text.
    """
    if not tokenizer.end_tokens:
        raise UserError("the model has no token that ends a text: take another one to train")
    ids = tokenizer.encode_batch([text.strip() for _, text in captions])
    for (image, text), row in zip(captions, ids, strict=True):
        if not row:
            raise UserError(f"a caption of image {image} is empty: leave it out")
        if not 0 <= image < images:
            raise UserError(f"the caption {text!r} is of image {image}, and there are {images}")
    front, end = front_of(tokenizer), tokenizer.end_tokens[0]
    return Rows([[front, *row, end] for row in ids], [image for image, _ in captions])


def caption_log_likelihoods(
    config: DecoderConfig,
    shape: ImagePrefixConfig,
    params: Any,
    features: jax.Array,
    tokens: jax.Array,
    mask: jax.Array,
) -> jax.Array:
    """Returns log p of every token of captions behind their images, `[B, S]`, in nats.

    It is zero at padding and at a row's first token, which begins the text. A batch of captions
    weighs these in `caption_objectives.weighted_captions_loss`.

    Args:
      config: the language model's shape.
      shape: that of the network between features and prefix.
      params: `{"network", "prefix"}`.
      features: `[B, F]` of each caption's image.
      tokens: `[B, S]` int32, padded on the right, what begins and what ends a text included.
      mask: `[B, S]` bool.
    """
    vectors = image_prefix(shape, params["prefix"], features)
    stream, whole = read_behind(config, params["network"], vectors, tokens, mask)
    first = jnp.arange(tokens.shape[1])[None] == 0
    counted = jnp.pad(mask & ~first, ((0, 0), (shape.tokens, 0)))
    factors = output_factors(config, params["network"], stream)
    return log_likelihoods_of_states(*factors, whole, counted)[:, shape.tokens :]


def captioner_loss(
    config: DecoderConfig, shape: ImagePrefixConfig, *, join: Join = all_trainable
) -> Loss:
    """Returns the negative log-likelihood of captions behind their images, in nats a token.

    A batch's labels `[B]` are rows of the table `frozen["features"]` `[n, F]`. `join` gives
    `{"network", "prefix"}`.
    """

    def loss(trainable: Any, frozen: Any, batch: Any, key: jax.Array) -> Sums:
        features = frozen["features"][batch["label"]]
        log_p = caption_log_likelihoods(
            config, shape, join(trainable, frozen), features, batch["tokens"], batch["mask"]
        )
        return {"loss": (-jnp.sum(log_p), jnp.sum(batch["mask"][:, 1:], dtype=jnp.float32))}

    return loss


def _recipe(
    model: LoadedModel,
    shape: ImagePrefixConfig,
    features: np.ndarray,
    rows: Rows,
    config: RecipeConfig,
    mesh: Mesh,
    vision: dict[str, str],
) -> Recipe:
    network, held, join = trainable_of(model, config.lora, mesh, seed=config.batch.seed)
    # Features are standardised by those of the images that are trained on.
    standard = standardisation([features[np.unique(rows.labels)]])
    drawn = init_image_prefix(jax.random.key(config.batch.seed), shape)
    prefix = {name: leaf for name, leaf in drawn.items() if name not in standard}

    loss = captioner_loss(model.config, shape, join=joined(join, standard))
    return Recipe(
        objective=(loss, loss),
        trainable={"network": network, "prefix": prefix},
        frozen={"network": held, "features": place(jnp.asarray(features), mesh)},
        card={**asdict(shape), **vision, **network_card(model, config.lora)},
        measure=perplexity_entry,
        export=joined(partial(full_network, join), standard),
        deliver=partial(save_captioner, model, config.saved_dtype),
        dtype=model.config.dtype,
    )


def joined(join: Join, standard: dict[str, Any]) -> Join:
    """Returns the join of a captioner, `(trainable, frozen) -> {"network", "prefix"}`.

    `join` is the network's, whose frozen parameters are `frozen["network"]`; `standard` is the
    standardisation of features, which is not trained.
    """

    def both(trainable: Any, frozen: Any) -> Any:
        return {
            "network": join(trainable["network"], frozen["network"]),
            "prefix": {**trainable["prefix"], **standard},
        }

    return both


def save_captioner(
    model: LoadedModel, dtype: str, folder: Path, weights: dict[str, Any], card: dict[str, Any]
) -> None:
    """Writes a captioner, its network in the folder "network" below; the card comes last.

    Its `weights`, `{"network", "prefix"}`, are on the host; see `full_network.save_discriminator`.
    """
    network = folder / "network"
    save_model(network, model.config, weights["network"], model.tokenizer, dtype=dtype)
    save_head(folder, weights["prefix"], card)
