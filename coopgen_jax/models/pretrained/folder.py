"""A Hugging Face folder: config.json, safetensors and tokenizer.json."""

import hashlib
import json
import re
from itertools import takewhile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import tokenizers
from safetensors import SafetensorError, safe_open

from coopgen_jax.errors import UserError
from coopgen_jax.files import sha256_of
from coopgen_jax.tokenizer import Tokenizer

INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".ckpt", ".pkl", ".pt", ".pth")


class Folder:
    """The files of a model; tensors are read when they are asked for."""

    def __init__(self, path: Path) -> None:
        """Reads the configuration and the tensors' names."""
        self.path = path
        self.label = str(path)
        config = self.json("config.json")
        if config is None:
            raise UserError(f"{path} has no config.json: {_without_config(path)}")
        self.config = config
        self.files = _weight_files(self)
        # Importing JAX has taught NumPy the type bfloat16, which safetensors asks it for.
        self._tensors: dict[str, Any] = {}
        for file in self.files:
            try:
                handle = safe_open(file, framework="numpy")
            except (OSError, SafetensorError) as error:
                raise UserError(
                    f"{file} cannot be read as safetensors ({error}): it is missing, cut short or "
                    "damaged, fetch it again"
                ) from error
            self._tensors.update(dict.fromkeys(handle.keys(), handle))

    def json(self, name: str) -> dict[str, Any] | None:
        """Returns what a JSON file says, None where there is no such file."""
        path = self.path / name
        if not path.is_file():
            return None
        try:
            value = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise UserError(f"{path} is not valid JSON ({error}): fetch it again") from error
        if not isinstance(value, dict):
            raise UserError(f"{path} does not hold a JSON object: fetch it again")
        return value

    def find(self, name: str) -> str | None:
        """Returns the name under which a tensor is kept.

        Bare networks lack the first part of the usual names, and old BERT files call the scales
        and biases of their norms gamma and beta.
        """
        old = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        old = old.replace("LayerNorm.bias", "LayerNorm.beta")
        names = (name, name.partition(".")[2], old, old.partition(".")[2])
        return next((found for found in names if found in self._tensors), None)

    def saved_again(self, auto: str) -> str:
        """Returns the command that saves what a class of transformers reads, in today's formats."""
        return (
            f'python -c "from transformers import {auto}; '
            f'{auto}.from_pretrained({str(self.path)!r}).save_pretrained({str(self.path)!r})"'
        )

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of a tensor."""
        return tuple(self._tensors[name].get_slice(name).get_shape())

    def read(self, name: str) -> np.ndarray:
        """Returns a tensor; raises UserError where it is not of numbers of 16, 32 or 64 bits."""
        handle = self._tensors[name]
        kind = handle.get_slice(name).get_dtype()
        if kind not in ("F64", "F32", "F16", "BF16"):
            raise UserError(
                f"tensor {name!r} of {self.label} is stored as {kind}, which is not read: use a "
                "copy of the model in F32, F16 or BF16"
            )
        try:
            values = handle.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise UserError(f"tensor {name!r} of {self.label} cannot be read: {error}") from error
        return values.astype(np.float32) if values.dtype == jnp.bfloat16 else values

    def sha256(self) -> str:
        """Returns the sha256 of the weights; of several files, that of the list of theirs."""
        sums = [sha256_of(file) for file in self.files]
        if len(sums) == 1:
            return sums[0]
        lines = [f"{found}  {file.name}\n" for found, file in zip(sums, self.files, strict=True)]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def licence(self) -> str | None:
        """Returns the licence that the model card names, or None."""
        card = self.path / "README.md"
        if not card.is_file():
            return None
        head = card.read_text("utf-8", "replace").partition("\n---")[0]
        found = re.search(r"^license:\s*(\S+)", head, re.MULTILINE)
        return found[1] if found else None

    def tokenizer(self, *, closed: bool = False) -> Tokenizer:
        """Returns the folder's tokenizer.

        Where it is `closed` prompts are sources, which a token that ends a text stands behind.
        """
        path = self.path / "tokenizer.json"
        if not path.is_file():
            raise UserError(
                f"{self.path} has no tokenizer.json: save the model's fast tokenizer beside it, by "
                + self.saved_again("AutoTokenizer")
            )
        try:
            core = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # The package raises nothing more particular.
            raise UserError(f"{path} cannot be read ({error}): fetch it again") from error
        named = self.json("special_tokens_map.json") or {}
        settings = named | (self.json("tokenizer_config.json") or {})
        ends = self.end_tokens(core, settings)
        core.no_padding()
        wrapped = core.encode("a", add_special_tokens=True)
        pieces = zip(wrapped.ids, wrapped.special_tokens_mask, strict=True)
        return Tokenizer(
            core,
            begin_tokens=[number for number, special in takewhile(lambda piece: piece[1], pieces)],
            end_tokens=ends,
            close_tokens=ends[:1] if closed else (),
            chat_template=self._chat_template(settings),
            bos_token=_name(settings, "bos_token")
            if "bos_token" in settings
            else _name_of(core, self.config, "bos_token_id"),
            eos_token=_name(settings, "eos_token"),
        )

    def end_tokens(self, core: tokenizers.Tokenizer, settings: dict[str, Any]) -> list[int]:
        """Returns the ids that end a text, as the generation or network configuration has them."""
        ends: list[int | None] = []
        for source in (self.json("generation_config.json") or {}, self.config):
            value = source.get("eos_token_id")
            ends += value if isinstance(value, list) else [value]
        name = _name(settings, "eos_token")
        if name is not None:
            ends.append(core.token_to_id(name))
        return [end for end in dict.fromkeys(ends) if end is not None]

    def _chat_template(self, settings: dict[str, Any]) -> str | None:
        path = self.path / "chat_template.jinja"
        if path.is_file():
            return path.read_text("utf-8")
        template = (self.json("chat_template.json") or settings).get("chat_template")
        if isinstance(template, list):
            named = {entry["name"]: entry["template"] for entry in template}
            return named.get("default")
        return template


def _name(settings: dict[str, Any], key: str) -> str | None:
    """Returns what a token is called, which is an entry of its own or the content of one."""
    found = settings.get(key)
    return found.get("content") if isinstance(found, dict) else found


def _name_of(core: tokenizers.Tokenizer, config: dict[str, Any], key: str) -> str | None:
    number = config.get(key)
    return core.id_to_token(number) if type(number) is int and number >= 0 else None


def _weight_files(folder: Folder) -> list[Path]:
    index = folder.json(INDEX)
    if index is not None:
        names = sorted(set(index.get("weight_map", {}).values()))
        if any(Path(name).name != name for name in names):
            raise UserError(f"{folder.path / INDEX} names files outside its folder: fetch it again")
        return [folder.path / name for name in names]
    single = folder.path / "model.safetensors"
    if single.is_file():
        return [single]
    pickles = sorted(path.name for path in folder.path.iterdir() if path.suffix in PICKLES)
    if pickles:
        raise UserError(
            f"{folder.path} holds its weights as a pickle only ({pickles[0]}), and pickles are "
            f"never opened: convert it to safetensors, by {folder.saved_again(_auto(folder))}"
        )
    raise UserError(
        f"{folder.path} has no weights: put model.safetensors, or its shards and {INDEX}, there"
    )


def _auto(folder: Folder) -> str:
    """Returns the class of transformers that reads a folder with its head."""
    named = str((folder.config.get("architectures") or [""])[0])
    kinds = {
        "Idefics3ForConditionalGeneration": "AutoModelForImageTextToText",
        "SmolVLMForConditionalGeneration": "AutoModelForImageTextToText",
        "ForSequenceClassification": "AutoModelForSequenceClassification",
        "ForCausalLM": "AutoModelForCausalLM",
        "LMHeadModel": "AutoModelForCausalLM",
        "ForConditionalGeneration": "AutoModelForSeq2SeqLM",
    }
    return next((auto for ending, auto in kinds.items() if named.endswith(ending)), "AutoModel")


def _without_config(path: Path) -> str:
    files = sorted(path.glob("*.gguf"))
    if files:
        return f"name the GGUF file itself, {files[0]}"
    return "give the folder that a model was saved to"
