"""Trained discriminators by name or by path: a head beside its card, or a classifier's folder."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load_file

from coopgen_jax.discriminators.bidirectional import BidirectionalConfig, bidirectional
from coopgen_jax.discriminators.card_entries import ENTRIES
from coopgen_jax.discriminators.causal import CausalConfig, causal, read_tokens
from coopgen_jax.discriminators.clip_heads import (
    KIND,
    ClipHeadsConfig,
    LoadedClipHeads,
    heads_guide,
    heads_shapes,
)
from coopgen_jax.discriminators.generative import GenerativeConfig, generative
from coopgen_jax.discriminators.head import Head, HeadConfig
from coopgen_jax.discriminators.host.python_file import is_python, load_function
from coopgen_jax.discriminators.host.rereading import rereading
from coopgen_jax.discriminators.host.retokenise import Crossing
from coopgen_jax.discriminators.host.sequence_classifier import sequence_classifier
from coopgen_jax.discriminators.image_guide import clip_guide
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.discriminators.shared_trunk import SharedTrunkConfig, shared_trunk
from coopgen_jax.discriminators.trunk_layers import (
    TrunkLayersConfig,
    init_trunk_layers,
    small_network,
    trunk_layers,
)
from coopgen_jax.errors import UserError
from coopgen_jax.models.language_model import Bound
from coopgen_jax.models.lora import LoraConfig, add_lora, init_lora, merge_lora
from coopgen_jax.models.pretrained.classifiers import about_classifier
from coopgen_jax.models.pretrained.hub import is_hub_name, snapshot
from coopgen_jax.models.pretrained.image_networks import load_clip
from coopgen_jax.models.pretrained.loaded_model import LoadedModel, load, load_encoder
from coopgen_jax.tokenizer import same_tokens

PACKAGED = Path(__file__).parent.parent / "heads"


def packaged_heads() -> dict[str, Path]:
    """Returns the folders of the heads that come with the package, by name."""
    return {card.parent.name: card.parent for card in sorted(PACKAGED.glob("**/card.json"))}


def is_packaged(folder: Path) -> bool:
    """Returns whether a folder lies in the package."""
    return folder.resolve().is_relative_to(PACKAGED.resolve())


def load_discriminator(
    name_or_folder: str | Path, *, language_model: LoadedModel
) -> LoadedDiscriminator:
    """Loads a trained discriminator.

    Args:
      name_or_folder: the name of a head that comes with the package; a folder with card.json and
        head.safetensors; a Hugging Face folder of a sequence classifier (BERT, RoBERTa, DistilBERT,
        DeBERTa-v2, ModernBERT, GPT-2, Llama, Mistral or Qwen2); the name of such a model of the
        Hugging Face hub, "organisation/name"; or python:FILE.py:FUNCTION, whose file is executed
        (see `read_function`).
      language_model: the loaded language model that it is to guide.

    Returns:
      The discriminator, its weights and its card.

    Raises:
      UserError: there is no such head or classifier, its files are damaged, or its kind is unknown.
    """
    if is_python(name_or_folder):
        return load_function(str(name_or_folder), tokenizer=language_model.tokenizer)
    folder = folder_of(name_or_folder)
    if not (folder / "card.json").is_file():
        return sequence_classifier(
            folder,
            name=str(name_or_folder),
            tokenizer=language_model.tokenizer,
            dtype=language_model.config.dtype,
        )
    card, head = _read(folder)
    with _damaged(folder):
        return KINDS[card["kind"]](folder, card, head, language_model)


def load_clip_heads(folder: str | Path) -> LoadedClipHeads:
    """Loads the heads that `coopgen train clip` wrote, without a language model to guide.

    Raises:
      UserError: there is no such folder, its files are damaged, or it holds something else.
    """
    folder = Path(folder).expanduser()
    card, head = _read(folder)
    if card["kind"] != KIND:
        raise UserError(
            f"{folder} is a head of kind {card['kind']!r}, which sees no images: give a folder "
            "that `coopgen train clip` wrote"
        )
    with _damaged(folder):
        return _heads(card, head)


def _read(folder: Path) -> tuple[dict[str, Any], Any]:
    """Returns the card and the weights in a folder; raises UserError where they are damaged."""
    try:
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        flat = load_file(folder / "head.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder} holds no readable head: {error}") from error
    # A head is kept in half precision to be small, and computed in single precision.
    head = unflatten_dict({k: jnp.asarray(v, jnp.float32) for k, v in flat.items()}, sep=".")
    kind = card.get("kind") if isinstance(card, dict) else None
    if kind not in KINDS:
        raise UserError(f"{folder} is a head of kind {kind!r}: known are {', '.join(KINDS)}")
    for name, fits in ENTRIES.items():
        if name in card and not fits(card[name]):
            raise UserError(
                f"{folder}'s card is damaged ({name} is {card[name]!r}): train the head anew"
            )
    with _damaged(folder):
        return card, _tempered(head, card.get("temperature", 1.0))


@contextmanager
def _damaged(folder: Path) -> Iterator[None]:
    """Names the folder in an error about what it holds, and what it lacks."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{folder}: {error}") from error
    except KeyError as error:
        raise UserError(f"{folder}'s card or weights lack {error}: train the head anew") from error


def _tempered(weights: Any, temperature: float) -> Any:
    """Returns weights whose log-probabilities are divided by a temperature (Guo et al. 2017).

    A class head's is one of its output layer, a look-ahead head's of its queries, a generative
    discriminator's of prior and power.
    """
    if temperature == 1.0:
        return weights
    cooled = dict(weights)
    if "head" in weights:
        cooled["head"] = _tempered(weights["head"], temperature)
    named = {"output", "queries"} | ({"log_prior", "scale"} if "log_prior" in weights else set())
    for name in named & set(weights):
        cooled[name] = jax.tree.map(lambda array: array / temperature, weights[name])
    return cooled


def folder_of(name_or_folder: str | Path, *, fetch: bool = True) -> Path:
    """Returns the folder of a trained discriminator or of a Hugging Face model.

    The former has a card.json, the latter a config.json. A name of the hub is looked up in its
    cache alone where nothing is to be fetched.

    Raises:
      UserError: there is no such folder.
    """
    packaged, name = packaged_heads(), str(name_or_folder)
    folder = packaged.get(name, Path(name_or_folder).expanduser())
    if any((folder / file).is_file() for file in ("card.json", "config.json")):
        return folder
    if is_hub_name(name) and not folder.exists():
        return snapshot(name, fetch=fetch)
    raise UserError(
        f"{name} is neither a folder with a card.json nor one of the heads {', '.join(packaged)}, "
        "nor a Hugging Face classifier: a folder with a config.json, or a name of the hub such as "
        "organisation/name"
    )


def classes_of(folder: Path) -> tuple[str, ...]:
    """Returns the names of a discriminator's classes by its card, or by its config.json.

    Raises:
      UserError: they cannot be read.
    """
    if not (folder / "card.json").is_file():
        return about_classifier(folder).classes
    try:
        return tuple(json.loads((folder / "card.json").read_text(encoding="utf-8"))["classes"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder} holds no readable head: {error}") from error


def _head_config(card: dict[str, Any], head: Any) -> HeadConfig:
    """Returns the shape of a head whose weights are those that its card describes."""
    config = HeadConfig(tuple(card["classes"]), head["centre"].shape[0], tuple(card["hidden"]))
    inputs = jax.ShapeDtypeStruct((1, config.inputs), jnp.float32)
    _compare(head, jax.eval_shape(Head(config).init, jax.random.key(0), inputs)["params"])
    return config


def _compare(found: Any, wanted: Any) -> None:
    """Raises UserError where arrays do not have the wanted shapes or are not finite."""
    found, wanted = flatten_dict(found, sep="."), flatten_dict(wanted, sep=".")
    for name, leaf in wanted.items():
        if name not in found:
            raise KeyError(name)
        if found[name].shape != leaf.shape:
            raise UserError(
                f"{name} has the shape {found[name].shape} and the card asks for {leaf.shape}: "
                "train the head anew"
            )
        # By NumPy: JAX would compile two programs for every shape, at every start.
        if not np.isfinite(np.asarray(found[name], np.float32)).all():
            raise UserError(f"{name} holds values that are not finite: train the head anew")


def _warn_of_copy(name: str) -> None:
    warnings.warn(
        f"this head was trained on another copy of {name}: its probabilities may be wrong",
        stacklevel=5,
    )


def _bidirectional(
    folder: Path, card: dict[str, Any], head: Any, language_model: LoadedModel
) -> LoadedDiscriminator:
    # Beside LoRA's additions the head has a name of its own.
    weights, head = head, head.get("head", head)
    shape = _head_config(card, head)
    own = (folder / "encoder").is_dir()
    encoder = load_encoder(folder / "encoder" if own else card["encoder"])
    if not own and encoder.sha256 != card["encoder_sha256"]:
        _warn_of_copy(f"the encoder {card['encoder']}")
    crossing = Crossing(language_model.tokenizer, encoder.tokenizer, width=card["width"])
    config = BidirectionalConfig(encoder.config, shape, crossing, card["reads_prompt"])
    network = encoder.params
    if "lora" in card or "lora" in weights:
        network = _with_lora(network, weights["lora"], **card["lora"])
    params = {"encoder": network, "head": head}
    return LoadedDiscriminator(bidirectional(config), params, card, (crossing,))


def _with_lora(params: Any, additions: Any, *, rank: int, targets: list[str]) -> Any:
    """Returns an encoder's parameters with LoRA's additions, at a scale of one, in its kernels."""
    lora = LoraConfig(rank=rank, alpha=rank, targets=tuple(targets))
    _compare(additions, jax.eval_shape(partial(init_lora, config=lora), jax.random.key(0), params))
    return merge_lora(add_lora(params, additions, lora))


def _shared_trunk(
    _folder: Path, card: dict[str, Any], head: Any, language_model: LoadedModel
) -> LoadedDiscriminator:
    taps = tuple(card["taps"])
    model = language_model.config
    layers = card.get("layers", 0)
    if layers:
        config = _layers_config(card, taps, language_model)
        found = head["entrance"]["projection"]["kernel"].shape[0]
    else:
        shape = _head_config(card, head)
        found = shape.inputs // 2
    if not all(0 <= tap <= model.layers for tap in taps) or found != len(taps) * model.width:
        raise UserError(
            f"this head reads layers {', '.join(map(str, taps))} of {card['model']}, which the "
            "language model loaded here does not have: choose a head made for it"
        )
    if language_model.sha256 != card["model_sha256"]:
        _warn_of_copy(card["model"])
    if not layers:
        trunk = SharedTrunkConfig(taps, card["reads_prompt"], shape)
        return LoadedDiscriminator(shared_trunk(trunk), head, card)
    _compare(head, jax.eval_shape(partial(init_trunk_layers, config=config), jax.random.key(0)))
    if config.look_ahead:
        embedding = jnp.asarray(language_model.params["embedding"], jnp.float32)
        head = {**head, "vocabulary": embedding @ head["keys"]}
    return LoadedDiscriminator(trunk_layers(config), head, card)


def _layers_config(
    card: dict[str, Any], taps: tuple[int, ...], language_model: LoadedModel
) -> TrunkLayersConfig:
    if card["width"] % 32:
        raise UserError(f"its layers have the width {card['width']}, no multiple of 32: train anew")
    network = small_network(layers=card["layers"], width=card["width"], context=card["context"])
    head = HeadConfig(tuple(card["classes"]), card["width"], tuple(card["hidden"]))
    return TrunkLayersConfig(
        taps,
        language_model.config.width,
        network,
        head,
        card["look_ahead"],
        tuple(language_model.tokenizer.end_tokens),
    )


def _causal(
    folder: Path, card: dict[str, Any], head: Any, language_model: LoadedModel
) -> LoadedDiscriminator:
    shape = _head_config(card, head)
    network = load(folder / "network", dtype=language_model.config.dtype)
    config = CausalConfig(network.config, shape, card["start_token"])
    params = {"network": network.params, "head": head}
    if same_tokens(network.tokenizer, language_model.tokenizer):
        return LoadedDiscriminator(causal(config), params, card)
    # Tokens of another vocabulary cannot be read along the tree: every text is read anew.
    if config.start_token is None:
        raise UserError("it reads prompts in the tokens of another vocabulary: train it anew")
    width = card.get("longest", network.config.context - 1)
    crossing = Crossing(language_model.tokenizer, network.tokenizer, width=width, bare=True)
    anew = rereading(Bound(read_tokens, config), config.head.classes, crossing)
    return LoadedDiscriminator(anew, params, card, (crossing,))


def _generative(
    folder: Path, card: dict[str, Any], weights: Any, language_model: LoadedModel
) -> LoadedDiscriminator:
    network = load(folder / "network", dtype=language_model.config.dtype)
    if not same_tokens(network.tokenizer, language_model.tokenizer):
        raise UserError(
            "this discriminator reads the tokens of another vocabulary than the language model's: "
            "choose one that was trained on this model"
        )
    prefixes = tuple(tuple(prefix) for prefix in card["prefixes"])
    config = GenerativeConfig(network.config, tuple(card["classes"]), prefixes)
    params = {"network": network.params, **{n: weights[n] for n in ("log_prior", "scale")}}
    return LoadedDiscriminator(generative(config), params, card)


def _clip_heads(
    _folder: Path, card: dict[str, Any], head: Any, language_model: LoadedModel
) -> LoadedDiscriminator:
    return heads_guide(_heads(card, head), tokenizer=language_model.tokenizer)


def _heads(card: dict[str, Any], head: Any) -> LoadedClipHeads:
    encoder = load_encoder(card["encoder"])
    if encoder.sha256 != card["encoder_sha256"]:
        _warn_of_copy(f"the encoder {card['encoder']}")
    images = head["image"]["centre"].shape[0]
    _compare(head, heads_shapes(ClipHeadsConfig(images, encoder.config.width, card["width"])))
    return LoadedClipHeads(head, encoder, card["longest"], card)


def _clip(
    folder: Path, card: dict[str, Any], _additions: Any, language_model: LoadedModel
) -> LoadedDiscriminator:
    # The additions are inside the kernels of the folder's own CLIP.
    guide = clip_guide(load_clip(folder), tokenizer=language_model.tokenizer)
    return replace(guide, card=card)


# A kind is one function: folder, card, weights and language model in, the discriminator out.
KINDS = {
    "bidirectional": _bidirectional,
    "causal": _causal,
    "clip": _clip,
    KIND: _clip_heads,
    "generative": _generative,
    "shared-trunk": _shared_trunk,
}
