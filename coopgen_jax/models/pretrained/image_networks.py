"""Loads networks that see images, with how pictures are prepared for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from coopgen_jax.errors import UserError
from coopgen_jax.models.clip import ClipConfig, init_clip
from coopgen_jax.models.efficientnet import (
    LITE0,
    EfficientNetConfig,
    efficientnet,
    efficientnet_shapes,
)
from coopgen_jax.models.pixels import PixelConfig
from coopgen_jax.models.pretrained.assemble import Source, assemble
from coopgen_jax.models.pretrained.clip_families import (
    clip_config,
    clip_sources,
    family_of,
    pixel_config,
)
from coopgen_jax.models.pretrained.families import sources_of
from coopgen_jax.models.pretrained.folder import Folder
from coopgen_jax.models.pretrained.loaded_model import (
    headers_of,
    limit_tokenizer,
    locate,
    resolve_dtype,
)
from coopgen_jax.models.pretrained.packaged import PACKAGED
from coopgen_jax.models.pretrained.torch_file import TorchFile
from coopgen_jax.models.vision import VisionConfig, init_vision, see
from coopgen_jax.tokenizer import Tokenizer

Params = dict[str, Any]
KIND = "image network"
DEFAULT_BACKBONE = "efficientnet-lite0"
# Its network was trained on colours from 0 to 255 less 127, divided by 128.
LITE0_PIXELS = PixelConfig(
    size=LITE0.image_size,
    shortest=LITE0.image_size + 32,
    mean=(127 / 255,) * 3,
    deviation=(128 / 255,) * 3,
)


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

    def tokens(self, texts: Sequence[str]) -> tuple[jax.Array, jax.Array]:
        """Returns the tokens `[B, S]` of texts and the mask of real ones, for `text_vectors`.

        A text that is too long loses its last tokens, but not the one that ends it.
        """
        rows = self.rows(texts)
        tokens = np.zeros((len(rows), max(map(len, rows), default=0)), np.int32)
        mask = np.arange(tokens.shape[1])[None] < np.array([len(row) for row in rows])[:, None]
        tokens[mask] = [number for row in rows for number in row]
        return jnp.asarray(tokens), jnp.asarray(mask)

    def rows(self, texts: Sequence[str], *, longest: int | None = None) -> list[list[int]]:
        """Returns the ids of every text with what stands around it, `longest` at most.

        By default that is the context. See `tokens`.
        """
        begin, end = self.tokenizer.wrapping
        room = (longest or self.config.text.context) - len(begin) - len(end)
        return [[*begin, *row[:room], *end] for row in self.tokenizer.encode_batch(texts)]


@dataclass(frozen=True, eq=False)
class LoadedBackbone:
    """A network that describes images, with all that belongs to it.

    Attributes:
      config: the network's shape.
      params: what `image_states` takes.
      pixels: how pictures are prepared.
      name: the name or path that it was loaded by.
      sha256: of the file that holds the weights; of several files, that of the list of theirs.
      licence: of the weights as their files declare it, None where they do not.
    """

    config: EfficientNetConfig | VisionConfig
    params: Params
    pixels: PixelConfig
    name: str
    sha256: str
    licence: str | None

    @property
    def width(self) -> int:
        """How many numbers describe an image."""
        config = self.config
        return config.width if isinstance(config, EfficientNetConfig) else config.tower.width

    @property
    def identity(self) -> dict[str, str]:
        """What a card says of the backbone: its name, or its folder in full, and its sha256."""
        folder = Path(self.name).expanduser()
        name = str(folder.resolve()) if folder.is_dir() else self.name
        return {"backbone": name, "backbone_sha256": self.sha256}


def image_states(
    config: EfficientNetConfig | VisionConfig, params: Params, pixels: jax.Array
) -> jax.Array:
    """Returns the states `[B, E]` float32 by which a backbone describes images.

    They are those in front of any head or projection. See `pixels_of` for the pixels `[B, size,
    size, 3]`.
    """
    if isinstance(config, EfficientNetConfig):
        return efficientnet(config, params, pixels)
    return see(config, params, pixels)[1]


def load_backbone(
    name_or_path: str | Path = DEFAULT_BACKBONE, *, dtype: str = "float32"
) -> LoadedBackbone:
    """Loads a network that describes images.

    Args:
      name_or_path: "efficientnet-lite0", fetched once; or the folder of a CLIP or a SigLIP, or its
        name on the Hugging Face hub, of which the side that sees images is taken.
      dtype: of parameters and of products with them, "float32", "bfloat16" or "auto"; that of
        "efficientnet-lite0" is always float32.

    Raises:
      UserError: there is no such model, or its files are damaged or of an unknown kind.
    """
    dtype = resolve_dtype(dtype)
    path, packaged = locate(name_or_path, KIND)
    name = str(name_or_path)
    if packaged:
        weights = TorchFile(path / packaged.weights)
        params = assemble(efficientnet_shapes(LITE0), efficientnet_sources(LITE0), weights)
        known = packaged.sha256, packaged.licence
        return LoadedBackbone(LITE0, params, LITE0_PIXELS, name, *known)
    with headers_of(path):
        folder = Folder(path)
        config = clip_config(folder, dtype).vision
        pixels = pixel_config(folder, config)
        shapes = {"vision": jax.eval_shape(lambda: init_vision(jax.random.key(0), config))}
    params = assemble(shapes, clip_sources(family_of(folder)), folder, dtype)["vision"]
    return LoadedBackbone(config, params, pixels, name, folder.sha256(), folder.licence())


def efficientnet_sources(config: EfficientNetConfig) -> dict[str, Source]:
    """Returns where each parameter of an EfficientNet-Lite stands in its file, by its path."""
    sources = _convolution_sources("stem", "_conv_stem", "_bn0")
    sources |= _convolution_sources("last", "_conv_head", "_bn1")
    for number in range(sum(stage.blocks for stage in config.stages)):
        path, name = f"block_{number}", f"_blocks.{number}"
        parts = {"widen": ("expand", 0), "each": ("depthwise", 1), "narrow": ("project", 2)}
        for part, (convolution, norm) in parts.items():
            own = f"{name}._{convolution}_conv", f"{name}._bn{norm}"
            sources |= _convolution_sources(f"{path}/{part}", *own)
    return sources | sources_of({"head": "_fc"}, transposed=True)


def _convolution_sources(path: str, convolution: str, norm: str) -> dict[str, Source]:
    statistics = {"mean": "running_mean", "variance": "running_var"}
    sources = {f"{path}/kernel": Source(f"{convolution}.weight", transposed=True)}
    sources |= sources_of({f"{path}/norm": norm}, "scale")
    return sources | {
        f"{path}/norm/{leaf}": Source(f"{norm}.{name}") for leaf, name in statistics.items()
    }


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
