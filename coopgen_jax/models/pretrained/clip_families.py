"""Folders of CLIP and SigLIP: configurations to a network's shape, and the names of its tensors."""

from collections.abc import Mapping
from typing import Any

from coopgen_jax.models.clip import ClipConfig, ClipTextConfig
from coopgen_jax.models.encoder import ACTIVATIONS
from coopgen_jax.models.pixels import FILTERS, PixelConfig
from coopgen_jax.models.pretrained.assemble import Source
from coopgen_jax.models.pretrained.families import Settings, check_numbers, sources_of
from coopgen_jax.models.pretrained.folder import Folder
from coopgen_jax.models.vision import TowerConfig, VisionConfig

FAMILIES = ("clip", "siglip")
# CLIP's own pictures, by which most folders' are normalised.
MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
# What transformers takes for granted where a config.json is silent.
TEXT: dict[str, dict[str, Any]] = {
    "clip": {
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_attention_heads": 8,
        "max_position_embeddings": 77,
        "vocab_size": 49408,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    },
    "siglip": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "max_position_embeddings": 64,
        "vocab_size": 32000,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
    },
}
VISION: dict[str, dict[str, Any]] = {
    family: {**own, "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
    for family, own in TEXT.items()
}
PATCH = {"clip": 32, "siglip": 16}
# An old configuration's end token, which stands for the token of the highest id.
LEGACY_END = 2
# Numbers that Pillow gives its filters.
NUMBERED = {int(number): name for name, number in FILTERS.items()}


def family_of(folder: Folder) -> str:
    """Returns the family of a folder; raises UserError where it is none of `FAMILIES`."""
    settings = Settings(folder.config, folder.label)
    family = settings.get("model_type", "unnamed")
    if family not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise settings.refuse("model_type", family, f"networks that see images are {known}")
    return str(family)


def clip_config(folder: Folder, dtype: str) -> ClipConfig:
    """Returns the shape of a CLIP or a SigLIP; see `families.decoder_config`."""
    family = family_of(folder)
    settings = Settings(folder.config, folder.label)
    sides = [side_settings(settings, f"{side}_config", defaults[family]) for side, defaults in (
        ("text", TEXT), ("vision", VISION))]  # fmt: skip
    said, seen = sides
    attentive = family == "siglip"
    if attentive and not seen.get("vision_use_head", True):
        raise seen.refuse("vision_use_head", False, "only True is")
    if seen.get("num_channels", 3) != 3:
        raise seen.refuse("num_channels", seen.get("num_channels"), "only 3 is")
    end = said.get("eos_token_id", 49407)
    text = ClipTextConfig(
        tower=tower_config(said, dtype),
        vocab_size=said.get("vocab_size"),
        context=said.get("max_position_embeddings"),
        causal=not attentive,
        end_token=None if attentive or end == LEGACY_END else end,
        pad_token=said.get("pad_token_id", 1),
    )
    vision = VisionConfig(
        tower=tower_config(seen, dtype),
        image_size=seen.get("image_size", 224),
        patch_size=seen.get("patch_size", PATCH[family]),
        attentive=attentive,
    )
    width = settings.get("projection_dim", 512)
    if attentive:
        width = said.get("projection_size", said.get("hidden_size"))
    for part in (text, text.tower, vision, vision.tower):
        check_numbers(part)
    return ClipConfig(vision, text, width)


def side_settings(settings: Settings, key: str, defaults: Mapping[str, Any]) -> Settings:
    """Returns what a config.json says of one side, on top of what is taken for granted."""
    found = settings.get(key, {})
    if not isinstance(found, Mapping):
        raise ValueError(f"{key} is no table of settings")
    # An entry that is there but empty is as good as none.
    own = {name: value for name, value in found.items() if value is not None}
    return Settings({"num_hidden_layers": 12, **defaults, **own}, settings.label)


def tower_config(settings: Settings, dtype: str) -> TowerConfig:
    """Returns the shape of one side's blocks."""
    return TowerConfig(
        layers=settings.get("num_hidden_layers"),
        width=settings.get("hidden_size"),
        heads=settings.get("num_attention_heads"),
        ffn_width=settings.get("intermediate_size"),
        norm_epsilon=settings.get("layer_norm_eps"),
        activation=settings.choose("hidden_act", "", ACTIVATIONS),
        dtype=dtype,
    )


def pixel_config(folder: Folder, config: VisionConfig) -> PixelConfig:
    """Returns how a folder's preprocessor_config.json, if there is one, prepares pictures."""
    family = family_of(folder)
    file = folder.json("preprocessor_config.json") or {}
    settings = Settings(file, folder.label)
    cut = settings.get("do_center_crop", family == "clip")
    size = settings.get("size", config.image_size)
    size = size if isinstance(size, Mapping) else {"shortest_edge" if cut else "height": size}
    crop = settings.get("crop_size", config.image_size)
    crop = crop.get("height") if isinstance(crop, Mapping) else crop
    shortest = size.get("shortest_edge") if cut else None
    read = crop if cut else size.get("height", size.get("shortest_edge"))
    if read != config.image_size or (cut and type(shortest) is not int):
        raise ValueError(f"pictures are prepared for {read} pixels, not {config.image_size}")
    plain = (0.5, 0.5, 0.5)
    mean, deviation = (MEAN, DEVIATION) if family == "clip" else (plain, plain)
    return PixelConfig(
        size=config.image_size,
        shortest=shortest,
        resampling=resampling_of(settings, 3),
        mean=colours_of(settings.get("image_mean", mean)),
        deviation=colours_of(settings.get("image_std", deviation)),
    )


def resampling_of(settings: Settings, number: int) -> str:
    """Returns how pictures are scaled, by Pillow's number for it, `number` by default."""
    number = settings.get("resample", number)
    if number not in NUMBERED:
        known = ", ".join(map(str, sorted(NUMBERED)))
        raise settings.refuse("resample", number, f"the known ones are {known}")
    return NUMBERED[number]


def colours_of(values: Any) -> tuple[float, float, float]:
    """Returns three numbers, one for each colour."""
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def clip_sources(family: str) -> dict[str, Source]:
    """Returns where each parameter of a family stands in its safetensors, by its path."""
    sources = {
        "logit_scale": Source("logit_scale"),
        "logit_bias": Source("logit_bias"),
        "vision/class": Source("vision_model.embeddings.class_embedding"),
        "vision/position": Source("vision_model.embeddings.position_embedding.weight"),
        "text/token": Source("text_model.embeddings.token_embedding.weight"),
        "text/position": Source("text_model.embeddings.position_embedding.weight"),
    }
    norms = {
        "vision/input_norm": "vision_model.pre_layrnorm",
        "vision/output_norm": "vision_model.post_layernorm",
        "text/output_norm": "text_model.final_layer_norm",
    }
    head = "text_model.head" if family == "siglip" else "text_projection"
    kernels = {
        "vision/patch": "vision_model.embeddings.patch_embedding",
        "image_projection": "visual_projection",
        "text_projection": head,
    }
    for side in ("vision", "text"):
        layer, path = f"{side}_model.encoder.layers.{{}}", f"{side}/layers"
        norms |= {
            f"{path}/attention_norm": f"{layer}.layer_norm1",
            f"{path}/ffn_norm": f"{layer}.layer_norm2",
        }
        kernels |= {
            f"{path}/query": f"{layer}.self_attn.q_proj",
            f"{path}/key": f"{layer}.self_attn.k_proj",
            f"{path}/value": f"{layer}.self_attn.v_proj",
            f"{path}/output": f"{layer}.self_attn.out_proj",
            f"{path}/up": f"{layer}.mlp.fc1",
            f"{path}/down": f"{layer}.mlp.fc2",
        }
    pool, of_pool = "vision/pool", "vision_model.head"
    sources[f"{pool}/probe"] = Source(f"{of_pool}.probe")
    norms[f"{pool}/norm"] = f"{of_pool}.layernorm"
    kernels |= {
        f"{pool}/output": f"{of_pool}.attention.out_proj",
        f"{pool}/up": f"{of_pool}.mlp.fc1",
        f"{pool}/down": f"{of_pool}.mlp.fc2",
    }
    for third, part in enumerate(("query", "key", "value")):
        for leaf, name in (("kernel", "weight"), ("bias", "bias")):
            joint = f"{of_pool}.attention.in_proj_{name}"
            sources[f"{pool}/{part}/{leaf}"] = Source(joint, third=third)
    return sources | sources_of(norms, "scale") | sources_of(kernels, transposed=True)
