"""Loads networks that see images, with how pictures are prepared for them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from coopgen_jax.errors import UserError
from coopgen_jax.models.clip import ClipConfig, init_clip
from coopgen_jax.models.pixels import PixelConfig
from coopgen_jax.models.pretrained.assemble import assemble
from coopgen_jax.models.pretrained.clip_families import (
    clip_config,
    clip_sources,
    family_of,
    pixel_config,
)
from coopgen_jax.models.pretrained.folder import Folder
from coopgen_jax.models.pretrained.loaded_model import (
    headers_of,
    limit_tokenizer,
    locate,
    resolve_dtype,
)
from coopgen_jax.models.pretrained.packaged import PACKAGED
from coopgen_jax.tokenizer import Tokenizer

Params = dict[str, Any]
KIND = "image network"


@dataclass(frozen=True, eq=False)
class LoadedClip:
    """A CLIP or a SigLIP with all that belongs to it.

    Attributes:
      config: the network's shape.
      params: what `clip.image_vectors` and `clip.text_vectors` take.
      tokenizer: of its text side, which wraps a text in the special tokens that it reads.
      pixels: how pictures are prepared.
      name: the name or path that it was loaded by.
      sha256: of the file that holds the weights; of several files, that of the list of theirs.
      licence: of the weights as the folder declares it, None where it does not.
    """

    config: ClipConfig
    params: Params
    tokenizer: Tokenizer
    pixels: PixelConfig
    name: str
    sha256: str
    licence: str | None


def load_clip(name_or_path: str | Path, *, dtype: str = "float32") -> LoadedClip:
    """Loads a CLIP or a SigLIP.

    Args:
      name_or_path: a folder with config.json, safetensors and tokenizer.json, as transformers saves
        a `CLIPModel` or a `SiglipModel`, and preferably preprocessor_config.json; or the name of
        such a model of the Hugging Face hub, "organisation/name".
      dtype: of parameters and of products with them, "float32", "bfloat16" or "auto".

    Raises:
      UserError: there is no such model, or its files are damaged or of an unknown kind.
    """
    dtype = resolve_dtype(dtype)
    if str(name_or_path) in PACKAGED:
        raise UserError(
            f"{name_or_path} reads no texts: give the folder of a CLIP or a SigLIP, or its name on "
            "the Hugging Face hub"
        )
    path, _ = locate(name_or_path, KIND)
    with headers_of(path):
        folder = Folder(path)
        config = clip_config(folder, dtype)
        pixels = pixel_config(folder, config.vision)
        tokenizer = folder.tokenizer()
        shapes = jax.eval_shape(lambda: init_clip(jax.random.key(0), config))
    limit_tokenizer(tokenizer, config.text.vocab_size, folder.label)
    params = assemble(shapes, clip_sources(family_of(folder)), folder, dtype)
    return LoadedClip(
        config, params, tokenizer, pixels, str(name_or_path), folder.sha256(), folder.licence()
    )
