"""A model of the Hugging Face hub, by its name."""

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from coopgen_jax.errors import UserError

# Nothing that could carry code or pickles is fetched.
FILES = [
    "README.md",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model-*-of-*.safetensors",
    "model.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
]


def snapshot(name: str) -> Path:
    """Returns the folder of the hub's model `name`, fetched into the hub's cache once."""
    try:
        return Path(snapshot_download(name, allow_patterns=FILES))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(
            f"{name} is no folder here and could not be had from the Hugging Face hub ({reason}): "
            "check the name and the network, or give a local folder"
        ) from error
