"""Folders of Idefics3 and SmolVLM: configurations to shapes, and the names of their tensors."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from coopgen_jax.errors import UserError
from coopgen_jax.models.image_connector import ConnectedVisionConfig
from coopgen_jax.models.pixels import PixelConfig
from coopgen_jax.models.pretrained.assemble import Source
from coopgen_jax.models.pretrained.clip_families import (
    clip_sources,
    colours_of,
    resampling_of,
    side_settings,
    tower_config,
)
from coopgen_jax.models.pretrained.families import (
    Settings,
    check_numbers,
    decoder_config,
    decoder_sources,
)
from coopgen_jax.models.pretrained.folder import Folder
from coopgen_jax.models.transformer import DecoderConfig
from coopgen_jax.models.vision import VisionConfig
from coopgen_jax.tokenizer import Tokenizer

FAMILIES = ("idefics3", "smolvlm")
# What transformers takes for granted where a config.json is silent.
VISION = {
    "hidden_size": 1152,
    "intermediate_size": 3072,
    "num_attention_heads": 16,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
LLAMA = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
}
LANCZOS = 1


def connected_settings(folder: Folder) -> Settings:
    """Returns what a config.json says; raises UserError where it is none of `FAMILIES`."""
    settings = Settings(folder.config, folder.label)
    settings.choose("model_type", "unnamed", FAMILIES)
    return settings


def text_config(folder: Folder, ends: tuple[int, ...], dtype: str) -> DecoderConfig:
    """Returns the shape of the language model."""
    settings = connected_settings(folder)
    # Whether the output layer is the embedding is said of both sides together.
    own = {**_text(settings), "tie_word_embeddings": settings.get("tie_word_embeddings", False)}
    return decoder_config(own, folder.label, ends, dtype)


def declared_ends(folder: Folder) -> tuple[int, ...]:
    """Returns the ids that end a text, as the language model's own settings have them."""
    ends = _text(connected_settings(folder)).get("eos_token_id")
    return tuple(ends) if isinstance(ends, list) else (() if ends is None else (ends,))


def text_sources() -> dict[str, Source]:
    """Returns where each parameter of the language model stands, by its path."""

    def moved(source: Source) -> Source:
        _, _, inner = source.name.partition(".")
        return replace(source, name=f"model.text_model.{inner}")

    sources = decoder_sources("llama")
    return {path: moved(one) if path != "head" else one for path, one in sources.items()}


def _text(settings: Settings) -> dict[str, Any]:
    found = settings.get("text_config", {})
    if not isinstance(found, Mapping):
        raise ValueError("text_config is no table of settings")
    Settings(found, settings.label).choose("model_type", "llama", ("llama",))
    return {**LLAMA, **found, "model_type": "llama"}


def vision_config(folder: Folder, width: int, dtype: str) -> ConnectedVisionConfig:
    """Returns the shape of the tower and of its connector to a language model of a width."""
    settings = connected_settings(folder)
    seen = side_settings(settings, "vision_config", VISION)
    if seen.get("num_channels", 3) != 3:
        raise seen.refuse("num_channels", seen.get("num_channels"), "only 3 is")
    vision = VisionConfig(
        tower=tower_config(seen, dtype),
        image_size=seen.get("image_size", 224),
        patch_size=seen.get("patch_size", 32),
        attentive=True,
    )
    factor = settings.get("scale_factor", 2)
    for part in (vision, vision.tower):
        check_numbers(part)
    if type(factor) is not int:
        raise ValueError(f"scale_factor is {factor!r}: it must be a whole number")
    return ConnectedVisionConfig(vision, factor, width)


def vision_sources() -> dict[str, Source]:
    """Returns where each parameter of the tower and of its connector stands, by its path."""
    sources = {
        path: replace(source, name=f"model.{source.name}")
        for path, source in clip_sources("siglip").items()
        if path.startswith("vision/")
    }
    connector = Source("model.connector.modality_projection.proj.weight", transposed=True)
    return {**sources, "connector/kernel": connector}


def picture_settings(folder: Folder, config: VisionConfig) -> tuple[PixelConfig, int | None]:
    """Returns how pictures are prepared, and what their longer side is scaled to beforehand.

    That is as transformers does it without splitting a picture.
    """
    file = folder.json("preprocessor_config.json")
    if file is None:
        file = (folder.json("processor_config.json") or {}).get("image_processor", {})
    settings = Settings(file, folder.label)
    for key in ("do_rescale", "do_normalize"):
        if settings.get(key, True) is not True:
            raise settings.refuse(key, settings.get(key), "only True is")
    read = settings.get("max_image_size", {"longest_edge": config.image_size})["longest_edge"]
    if read != config.image_size:
        raise ValueError(f"pictures are prepared for {read} pixels, not {config.image_size}")
    longest = settings.get("size", {"longest_edge": 4 * config.image_size})["longest_edge"]
    if type(longest) is not int:
        raise ValueError(f"size is {longest!r}: it must be a whole number")
    plain = (0.5, 0.5, 0.5)
    pixels = PixelConfig(
        size=config.image_size,
        resampling=resampling_of(settings, LANCZOS),
        mean=colours_of(settings.get("image_mean", plain)),
        deviation=colours_of(settings.get("image_std", plain)),
    )
    return pixels, longest if settings.get("do_resize", True) else None


def around_image(
    tokenizer: Tokenizer, image_token: str, count: int, question: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the ids in front of an image's `count` vectors, and those behind them.

    They are those of a conversation in which a user shows the image and asks a question. A model
    without a chat template reads the question behind the image.

    Raises:
      UserError: the question holds a special token, or the template does not show the image once.
    """
    found = tokenizer.control_strings(question)
    if found:
        raise UserError(f"the question holds the special token {found[0]!r}: leave it out")
    text = image_token + question
    if tokenizer.chat_template is not None:
        text = tokenizer.chat([{"type": "image"}, {"type": "text", "text": question}])
    if text.count(image_token) != 1:
        raise UserError(
            f"the model's chat template has {text.count(image_token)} places for the image "
            f"({image_token}) where there must be one: fetch the model again"
        )
    shown = f"<fake_token_around_image><global-img>{image_token * count}<fake_token_around_image>"
    ids = tokenizer.encode(text.replace(image_token, shown))
    begin, _ = tokenizer.wrapping
    if tuple(ids[: len(begin)]) != begin:
        ids = [*begin, *ids]
    number = tokenizer.core.token_to_id(image_token)
    places = [place for place, one in enumerate(ids) if one == number]
    if not places or places != list(range(places[0], places[0] + count)):
        raise UserError(
            f"the tokenizer does not read {image_token} as one token: fetch the model again"
        )
    return tuple(ids[: places[0]]), tuple(ids[places[-1] + 1 :])
