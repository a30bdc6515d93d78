"""A model of the Hugging Face hub, by its name."""

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from coopgen_jax.errors import UserError

# Nothing that could carry code or pickles is fetched.
FILES = [
    "README.md",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "model-*-of-*.safetensors",
    "model.safetensors",
    "model.safetensors.index.json",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
]


def is_hub_name(name: str) -> bool:
    """Tells whether a name can be one of the hub, "organisation/name"."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not name.endswith(".gguf")


def snapshot(name: str, *, fetch: bool = True) -> Path:
    """Returns the folder of the hub's model `name`, fetched into the hub's cache once.

    Raises:
      UserError: it cannot be had, or is not in the cache where nothing is to be fetched.
    """
    try:
        found = snapshot_download(name, allow_patterns=FILES, local_files_only=not fetch)
        return Path(found)
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(
            f"{name} is no folder here and could not be had from the Hugging Face hub ({reason}): "
            "check the name and the network, or give a local folder"
        ) from error
