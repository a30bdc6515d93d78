"""Folders of tiny networks: a writer, an oracle, a guide and judges."""

from pathlib import Path

import jax
import jax.numpy as jnp

from coopgen_jax.data.fingerprint import fingerprint, write_fingerprint
from coopgen_jax.discriminators.head import Head, HeadConfig
from coopgen_jax.models.pretrained.loaded_model import load
from coopgen_jax.training.card import save_head
from tests.models.model_files import hf_model, save

CLASSES = ("bad", "good")


def write_head(folder: Path, base: Path, seed: int, *rows: str) -> Path:
    """Writes a head of random weights, trained on `rows`."""
    model = load(base)
    head = HeadConfig(CLASSES, 2 * model.config.width, ())
    params = Head(head).init(jax.random.key(seed), jnp.zeros((1, head.inputs)))["params"]
    params = jax.tree.map(lambda leaf: leaf, params)
    params["output"]["kernel"] = 5 * params["output"]["kernel"]
    card = {
        "kind": "shared-trunk", "classes": list(CLASSES), "hidden": [], "reads_prompt": False,
        "model": str(base), "model_sha256": model.sha256, "taps": [2],
    }  # fmt: skip
    save_head(folder, params, card)
    if rows:
        write_fingerprint(folder, fingerprint(rows))
    return folder


def write_all(folder: Path) -> Path:
    """Writes base, oracle, guide, and judges that are independent, not so, and unknown."""
    save(hf_model("llama"), folder / "base")
    save(hf_model("gpt2"), folder / "oracle")
    write_head(folder / "guide", folder / "base", 0, "one", "two")
    write_head(folder / "judge", folder / "base", 1, "three", "four")
    write_head(folder / "knowing", folder / "base", 2, "Two ", "five")
    write_head(folder / "unknown", folder / "base", 3)
    write_head(folder / "six", folder / "base", 4, "six", "seven")
    write_fingerprint(folder / "oracle", fingerprint(["six"]))
    (folder / "oracle" / "card.json").write_text('{"kind": "language model"}')
    return folder
