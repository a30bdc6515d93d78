"""A vision-language model of the Idefics3 or SmolVLM kind, as a captioner."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from coopgen_jax.errors import UserError
from coopgen_jax.models.image_connector import (
    ConnectedVisionConfig,
    connected_vectors,
    init_connected_vision,
)
from coopgen_jax.models.pixels import PixelConfig, pixels_of
from coopgen_jax.models.pretrained.assemble import assemble
from coopgen_jax.models.pretrained.captioner import LoadedCaptioner, load_captioner
from coopgen_jax.models.pretrained.connected_families import (
    around_image,
    connected_settings,
    declared_ends,
    picture_settings,
    text_config,
    text_sources,
    vision_config,
    vision_sources,
)
from coopgen_jax.models.pretrained.families import check_numbers
from coopgen_jax.models.pretrained.folder import Folder
from coopgen_jax.models.pretrained.hub import is_hub_name, snapshot
from coopgen_jax.models.pretrained.loaded_model import (
    LoadedModel,
    decoder_shapes,
    fit_tokenizer,
    headers_of,
    resolve_dtype,
)

QUESTION = "Describe this image in one short sentence."
# Images are read so many at once, for each has a thousand patches; pictures are prepared so many.
BATCH, PREPARED = 4, 64
_connected = jax.jit(connected_vectors, static_argnums=0)


@dataclass(frozen=True, eq=False)
class VisionLanguageCaptioner:
    """A vision-language model with all that belongs to it.

    `generate(captioner.model, captioner.fronts(n), vectors=captioner.see(pictures), ...)` writes
    captions of `n` pictures by any method. The model reads the ids in front of an image, the
    image's vectors and the ids behind it; the first two are what `see` returns, so that the texts
    which `generate` continues begin behind the image.

    A picture is read as one square: large pictures are not split into tiles, as by transformers
    with `do_image_splitting=False`.

    Attributes:
      model: the language model. Its tokenizer puts nothing in front of a text: what begins one
        stands in front of the image.
      config: the shape of the vision tower and its connector.
      params: their parameters, as `image_connector.connected_vectors` takes them.
      pixels: how pictures are prepared.
      longest: length that a picture's longer side is scaled to beforehand, None to leave it out.
      image_token: the name of the token in whose place an image's vectors stand.
      ahead: ids in front of an image.
      behind: ids behind it, which a caption continues.
    """

    model: LoadedModel
    config: ConnectedVisionConfig
    params: Any
    pixels: PixelConfig
    longest: int | None
    image_token: str
    ahead: tuple[int, ...]
    behind: tuple[int, ...]

    def asking(self, question: str) -> "VisionLanguageCaptioner":
        """Returns the captioner that is asked another question of every image.

        Raises:
          UserError: the question holds a special token.
        """
        sides = around_image(self.model.tokenizer, self.image_token, self.config.vectors, question)
        return replace(self, ahead=sides[0], behind=sides[1])

    def see(self, pictures: Iterable[Image.Image]) -> np.ndarray:
        """Returns what `vectors` does, of pictures.

        Raises:
          UserError: there is none, or one is a strip.
        """
        pixels = map(partial(pixels_of, self.pixels, longest=self.longest), pictures)
        found = []
        while part := list(islice(pixels, PREPARED)):
            found.append(self.vectors(np.stack(part)))
        if not found:
            raise UserError("there is no picture: give at least one")
        return np.concatenate(found)

    def vectors(self, pixels: np.ndarray) -> np.ndarray:
        """Returns what stands in front of captions: the ids in front of images and the images.

        Args:
          pixels: `[n, size, size, 3]` float32, as `pixels_of` makes them.

        Returns:
          `[n, len(ahead) + K, E]` float32.

        Raises:
          UserError: the images have another size.
        """
        size = self.pixels.size
        if pixels.ndim != 4 or pixels.shape[1:] != (size, size, 3) or not len(pixels):
            raise UserError(
                f"pixels have the shape {pixels.shape}: this model reads [n, {size}, {size}, 3]"
            )
        rows, batch = [], min(BATCH, len(pixels))
        for start in range(0, len(pixels), batch):
            part = pixels[start : start + batch]
            # A last, shorter batch is filled up, so that it compiles to nothing new.
            filled = np.concatenate([part, np.repeat(part[-1:], batch - len(part), axis=0)])
            seen = _connected(self.config, self.params, jnp.asarray(filled))
            rows.append(np.asarray(seen)[: len(part)])
        table = self.model.params["embedding"]
        spelt = np.asarray(table[jnp.asarray(self.ahead, jnp.int32)], np.float32)
        front = np.broadcast_to(spelt, (len(pixels), *spelt.shape))
        return np.concatenate([front, np.concatenate(rows)], axis=1)

    def fronts(self, images: int) -> list[list[int]]:
        """Returns the ids that captions of so many images continue: those behind an image."""
        return [list(self.behind) for _ in range(images)]


def load_vision_language(
    name_or_path: str | Path, *, question: str = QUESTION, dtype: str = "float32"
) -> VisionLanguageCaptioner:
    """Loads a vision-language model as a captioner.

    Args:
      name_or_path: a folder with config.json, safetensors and tokenizer.json, as transformers saves
        an `Idefics3ForConditionalGeneration` or a `SmolVLMForConditionalGeneration`, and preferably
        its preprocessor_config.json and chat_template.jinja; or the name of such a model of the
        Hugging Face hub, "organisation/name". Its language model is a Llama.
      question: what the model is asked of every image.
      dtype: of parameters and of products with them, "float32", "bfloat16" or "auto".

    Raises:
      UserError: there is no such model, or its files are damaged or of an unknown kind.
    """
    dtype = resolve_dtype(dtype)
    path = Path(name_or_path).expanduser()
    if not path.is_dir():
        if not is_hub_name(str(name_or_path)):
            raise UserError(
                f"there is no captioner {str(name_or_path)!r}: it is neither a folder here nor a "
                "name of the Hugging Face hub such as organisation/name"
            )
        path = snapshot(str(name_or_path))
    with headers_of(path):
        folder = Folder(path)
        settings = connected_settings(folder)
        tokenizer = folder.tokenizer()
        if not tokenizer.declared_ends:
            tokenizer.declared_ends = declared_ends(folder)
            tokenizer.end_tokens = (*tokenizer.declared_ends, *tokenizer.end_tokens)
        shape = text_config(folder, tokenizer.end_tokens, dtype)
        check_numbers(shape)
        config = vision_config(folder, shape.width, dtype)
        pixels, longest = picture_settings(folder, config.vision)
        image_token = tokenizer.core.id_to_token(settings.get("image_token_id", 128257))
        if image_token is None:
            raise UserError(
                f"{folder.label} has no token that stands for an image in its tokenizer"
            )
        wanted = jax.eval_shape(lambda: init_connected_vision(jax.random.key(0), config))
    shape = fit_tokenizer(tokenizer, shape, folder.label)
    ahead, behind = around_image(tokenizer, image_token, config.vectors, question)
    tokenizer.begin_tokens = ()
    language = assemble(decoder_shapes(shape), text_sources(), folder, dtype)
    params = assemble(wanted, vision_sources(), folder, dtype)
    name, known = str(name_or_path), (folder.sha256(), folder.licence())
    model = LoadedModel(shape, language, tokenizer, name, *known)
    return VisionLanguageCaptioner(
        model, config, params, pixels, longest, image_token, ahead, behind
    )


def open_captioner(
    name_or_path: str | Path, *, question: str | None = None, dtype: str = "float32"
) -> LoadedCaptioner | VisionLanguageCaptioner:
    """Loads what writes captions: a folder of `train_captioner`, or a vision-language model.

    Both have a `model`, `vectors(...)` of images and `fronts(n)`, which `generate` takes. The first
    reads features of a backbone, the other pixels; `see` takes its pictures.

    Args:
      name_or_path: see `load_captioner` and `load_vision_language`.
      question: what a vision-language model is asked, None for `QUESTION`.
      dtype: see `load_vision_language`.

    Raises:
      UserError: there is no captioner, it is damaged, or there is a question that it cannot be
        asked.
    """
    if not (Path(name_or_path).expanduser() / "card.json").is_file():
        asked = QUESTION if question is None else question
        return load_vision_language(name_or_path, question=asked, dtype=dtype)
    if question is not None:
        raise UserError(
            f"{name_or_path} is a captioner that reads no questions: leave the question out, or "
            "give a vision-language model"
        )
    return load_captioner(name_or_path, dtype=dtype)
