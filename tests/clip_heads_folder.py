"""A folder of random heads, as `coopgen train clip` writes it, on a tiny backbone and encoder."""

from pathlib import Path

import numpy as np

from coopgen_jax.data.fingerprint import fingerprint, write_fingerprint
from coopgen_jax.discriminators.clip_heads import ClipHeadsConfig
from coopgen_jax.models.pretrained.image_networks import load_backbone
from coopgen_jax.models.pretrained.loaded_model import load_encoder
from coopgen_jax.training.card import save_head


def write_clip_heads(
    folder: Path, *, backbone: str, encoder: str, captions: tuple[str, ...] = (), width: int = 6
) -> Path:
    """Writes heads that name a backbone and an encoder, trained on `captions` as it is said."""
    rng = np.random.default_rng(3)
    seen, read = load_backbone(backbone), load_encoder(encoder)
    shape = ClipHeadsConfig(seen.width, read.config.width, width)

    def head(inputs: int) -> dict:
        kernel = rng.normal(size=(inputs, width)).astype(np.float32)
        return {
            "centre": rng.normal(size=inputs).astype(np.float32),
            "scale": rng.uniform(0.5, 2, inputs).astype(np.float32),
            "output": {"kernel": kernel, "bias": rng.normal(size=width).astype(np.float32)},
        }

    weights = {"image": head(shape.images), "text": head(shape.texts)}
    card = {
        "kind": "clip-heads",
        "classes": ["other", "image"],
        "backbone": backbone,
        "backbone_sha256": seen.sha256,
        "encoder": encoder,
        "encoder_sha256": read.sha256,
        "longest": 12,
        "width": width,
    }
    save_head(folder, weights | {"log_scale": np.float32(3.0)}, card)
    write_fingerprint(folder, fingerprint(captions))
    return folder
