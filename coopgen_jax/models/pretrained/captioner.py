"""A trained captioner: a language model behind the prefixes of images."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load_file

from coopgen_jax.errors import UserError
from coopgen_jax.files import read_json
from coopgen_jax.models.image_prefix import ImagePrefixConfig, image_prefix, init_image_prefix
from coopgen_jax.models.pretrained.image_networks import LoadedBackbone
from coopgen_jax.models.pretrained.loaded_model import LoadedModel, load
from coopgen_jax.tokenizer import Tokenizer

WAY_OUT = "train the captioner anew"
SHAPE = ("inputs", "tokens", "width", "hidden")
VISION = ("backbone", "backbone_sha256")


@dataclass(frozen=True)
class LoadedCaptioner:
    """A captioner with all that belongs to it.

    `generate(captioner.model, captioner.fronts(n), vectors=captioner.vectors(features), ...)`
    writes captions of `n` images by any method.

    Attributes:
      model: the language model.
      prefix: the shape of the network that turns features into prefixes.
      params: its parameters.
      card: the description in its folder.
    """

    model: LoadedModel
    prefix: ImagePrefixConfig
    params: Any
    card: dict[str, Any]

    def vectors(self, features: np.ndarray) -> np.ndarray:
        """Returns the prefixes `[n, K, E]` of images' features `[n, F]`.

        Raises:
          UserError: the features have another width.
        """
        self.check(features)
        return np.asarray(_prefixes(self.prefix)(self.params, features))

    def check(self, features: np.ndarray) -> None:
        """Raises UserError where features are not those that the captioner reads."""
        if features.ndim != 2 or features.shape[1] != self.prefix.inputs:
            raise UserError(
                f"features have the shape {features.shape}: this captioner reads rows of "
                f"{self.prefix.inputs}, of the vision network that it was trained with"
            )

    @property
    def vision(self) -> dict[str, str]:
        """The name and the sha256 of the backbone whose features it reads, where its card says."""
        return {name: self.card[name] for name in VISION if name in self.card}

    def check_backbone(self, backbone: LoadedBackbone) -> None:
        """Raises UserError where the captioner was trained with another backbone than this one."""
        if self.vision.get("backbone_sha256") != backbone.sha256:
            trained = self.vision.get("backbone", "features that no backbone of ours made")
            raise UserError(
                f"this captioner was trained with {trained}, and {backbone.name} has other "
                "weights: give the backbone that it was trained with"
            )

    def fronts(self, images: int) -> list[list[int]]:
        """Returns the ids that captions of so many images continue: what begins a text."""
        return [[front_of(self.model.tokenizer)] for _ in range(images)]


def _prefixes(config: ImagePrefixConfig) -> Any:
    return jax.jit(partial(image_prefix, config))


def front_of(tokenizer: Tokenizer) -> int:
    """Returns the token between a prefix and its caption; raises UserError where there is none."""
    starts = (*tokenizer.begin_tokens, *tokenizer.end_tokens)
    if not starts:
        raise UserError("the model has no token that begins or ends a text: take another one")
    return starts[0]


def load_captioner(
    folder: str | Path, *, dtype: str = "float32", stacked: bool | None = None
) -> LoadedCaptioner:
    """Loads a captioner's folder, as `train_captioner` writes it.

    `dtype` and `stacked` are those of `load`; to be trained its layers are stacked.

    Raises:
      UserError: there is no such folder, or it is damaged.
    """
    path = Path(folder).expanduser()
    if not (path / "card.json").is_file():
        raise UserError(f"{path} is no folder of a captioner: it has no card.json")
    card = read_json(path / "card.json", way_out=WAY_OUT)
    if card.get("kind") != "captioner":
        raise UserError(f"{path} holds a {card.get('kind', 'thing of no kind')}, no captioner")
    try:
        found = load_file(path / "head.safetensors")
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is damaged ({error}): {WAY_OUT}") from error
    if fault := _fault(path, card):
        raise UserError(f"{path} is damaged ({fault}): {WAY_OUT}")
    config = ImagePrefixConfig(**{name: card[name] for name in SHAPE})
    wanted = jax.eval_shape(partial(init_image_prefix, config=config), jax.random.key(0))
    shapes = {name: leaf.shape for name, leaf in flatten_dict(wanted, sep=".").items()}
    if {name: leaf.shape for name, leaf in found.items()} != shapes:
        raise UserError(f"{path} has weights of another shape than its card says: {WAY_OUT}")
    for name, leaf in found.items():
        if not np.isfinite(np.asarray(leaf, np.float32)).all():
            raise UserError(f"{path} is damaged ({name} is not finite): {WAY_OUT}")
    params = unflatten_dict(
        {name: jnp.asarray(leaf, jnp.float32) for name, leaf in found.items()}, sep="."
    )
    model = load(path / "network", dtype=dtype, stacked=stacked)
    return LoadedCaptioner(model, config, params, card)


def _fault(path: Path, card: dict[str, Any]) -> str | None:
    """Returns what is wrong with a captioner's card or folder, None where nothing is."""
    for name in SHAPE:
        if name not in card:
            return f"its card lacks {name!r}"
        if type(card[name]) is not int or card[name] < 1:
            return f"{name} is {card[name]!r}"
    for name in VISION:
        if name in card and not isinstance(card[name], str):
            return f"{name} is {card[name]!r}"
    return None if (path / "network").is_dir() else "it has no network"
