"""Saves a CLIP or a SigLIP as a Hugging Face folder, which `load_clip` and transformers read."""

from pathlib import Path
from typing import Any

from coopgen_jax.models.clip import ClipConfig
from coopgen_jax.models.pixels import FILTERS, PixelConfig
from coopgen_jax.models.pretrained.assemble import Params
from coopgen_jax.models.pretrained.clip_families import LEGACY_END, clip_sources
from coopgen_jax.models.pretrained.saving import save_folder, tensors_of
from coopgen_jax.models.vision import TowerConfig
from coopgen_jax.tokenizer import Tokenizer

# Half precision would move the temperature.
EXACT = ("logit_scale", "logit_bias")


def save_clip(
    folder: Path,
    config: ClipConfig,
    params: Params,
    tokenizer: Tokenizer,
    pixels: PixelConfig,
    *,
    dtype: str,
) -> None:
    """Writes config.json, model.safetensors, preprocessor_config.json and the tokenizer's files.

    The folder is made, and files of these names in it are replaced. `dtype` is that of the tensors
    in the file, "float32", "float16" or "bfloat16"; the scale and the bias of the logits stay
    float32.

    Raises:
      UserError: the disk is full; then the folder is as it was.
    """
    family = "siglip" if config.vision.attentive else "clip"
    values = {**_values(family, config), "dtype": dtype}
    tensors = tensors_of(params, clip_sources(family))
    more = {"preprocessor_config.json": _preparation(family, pixels)}
    save_folder(folder, values, tensors, tokenizer, tokenizer.core, more=more, exact=EXACT)


def _values(family: str, config: ClipConfig) -> dict[str, Any]:
    text, vision = config.text, config.vision
    name = {"clip": "CLIPModel", "siglip": "SiglipModel"}[family]
    said = {
        **_tower(text.tower),
        "vocab_size": text.vocab_size,
        "max_position_embeddings": text.context,
        "pad_token_id": text.pad_token,
        "eos_token_id": LEGACY_END if text.end_token is None else text.end_token,
    }
    seen = {
        **_tower(vision.tower),
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
    }
    if family == "siglip":
        said["projection_size"] = config.width
    return {
        "model_type": family,
        "architectures": [name],
        "text_config": {"model_type": f"{family}_text_model", **said},
        "vision_config": {"model_type": f"{family}_vision_model", **seen},
        **({} if family == "siglip" else {"projection_dim": config.width}),
    }


def _tower(config: TowerConfig) -> dict[str, Any]:
    return {
        "num_hidden_layers": config.layers,
        "hidden_size": config.width,
        "num_attention_heads": config.heads,
        "intermediate_size": config.ffn_width,
        "layer_norm_eps": config.norm_epsilon,
        "hidden_act": config.activation,
    }


def _preparation(family: str, pixels: PixelConfig) -> dict[str, Any]:
    name = {"clip": "CLIPImageProcessor", "siglip": "SiglipImageProcessor"}[family]
    square = {"height": pixels.size, "width": pixels.size}
    cut = pixels.shortest is not None
    return {
        "image_processor_type": name,
        "do_resize": True,
        "size": {"shortest_edge": pixels.shortest} if cut else square,
        "do_center_crop": cut,
        **({"crop_size": square} if cut else {}),
        "resample": int(FILTERS[pixels.resampling]),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(pixels.mean),
        "image_std": list(pixels.deviation),
    }
