"""Tiny random networks of CLIP's and SigLIP's kind, saved by transformers with a tokenizer."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

from tests.models.classifier_files import BEGIN, END, PAD, VOCABULARY, classifier_tokenizer

TOWER = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
VISION = {"image_size": 15, "patch_size": 4}
TEXT = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 12,
    "bos_token_id": BEGIN,
    "eos_token_id": END,
    "pad_token_id": PAD,
}
# Name of a case: the family's name in transformers, and options of text, vision and both.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "clip": ("CLIP", {}, {}, {"projection_dim": 10}),
    "clip-of-old": ("CLIP", {"eos_token_id": 2}, {}, {"projection_dim": 10}),
    "openclip": ("CLIP", {"hidden_act": "gelu"}, {"hidden_act": "gelu"}, {"projection_dim": 10}),
    "siglip": ("Siglip", {"projection_size": 16}, {"patch_size": 5}, {}),
}


def save_clip(case: str, folder: Path) -> tuple[Path, transformers.PreTrainedModel]:
    family, text, vision, both = CASES[case]
    config = getattr(transformers, f"{family}Config")(
        text_config=TOWER | TEXT | text,
        vision_config=TOWER | VISION | vision | {"num_hidden_layers": 2},
        **both,
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}Model")(config).eval()
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            norm = "norm" in path.lower() and "weight" in path
            parameter.normal_(1.0 if norm else 0.0, 0.3)
    model.save_pretrained(folder)
    classifier_tokenizer(case).save(str(folder / "tokenizer.json"))
    return folder, model


def save_preparation(folder: Path, family: str, size: int) -> Any:
    """Saves how pictures are prepared, and returns what prepares them in transformers."""
    resized = {"height": size, "width": size} if family == "Siglip" else {"shortest_edge": size + 3}
    own = {"size": resized}
    if family == "CLIP":
        own["crop_size"] = {"height": size, "width": size}
    processor = getattr(transformers, f"{family}ImageProcessorPil")(**own)
    processor.save_pretrained(folder)
    path = folder / "preprocessor_config.json"
    assert json.loads(path.read_text())["size"]
    return processor


def transparent_pictures() -> list[Image.Image]:
    """Pictures of half transparent colours, of a palette with a transparent one, and of greys."""
    colours = picture(0, 40, 23)
    half = colours.convert("RGBA")
    half.putalpha(picture(1, 40, 23).convert("L"))
    palette = colours.quantize(8)
    palette.info["transparency"] = 3
    return [half, palette, half.convert("LA")]


def picture(seed: int, width: int, height: int) -> Image.Image:
    """A picture of smooth colours, so that every way of scaling keeps most of it."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BILINEAR)
