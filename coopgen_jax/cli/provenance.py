"""What a run tells of itself beside its texts."""

from dataclasses import asdict
from typing import Any

from coopgen_jax.cli.model_options import settings_of
from coopgen_jax.cli.options import GenerateOptions
from coopgen_jax.cli.settings import compared_config
from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator


def run_settings(options: GenerateOptions, config: DecoderSettings) -> dict[str, Any]:
    """Returns all that texts depend on beside prompts and weights."""
    compared = {"method": "sample", **asdict(compared_config(options))}
    return {
        "method": options.method,
        "target": options.target,
        "preset": options.preset if isinstance(config, MCTSConfig) else None,
        "seed": options.seed,
        "batch_size": options.batch_size,
        "devices": options.devices if options.devices > 1 else None,
        "tensor": options.tensor if options.tensor > 1 else None,
        "hosts": options.hosts,
        "dtype": options.dtype,
        "chat": options.chat,
        **settings_of(options),
        "reference": options.reference,
        **asdict(config),
        "compare": compared if options.compare else None,
    }


def classes_of(discriminator: LoadedDiscriminator | None) -> tuple[str, ...]:
    """Returns the classes of a guide, none without one."""
    return discriminator.discriminator.classes if discriminator else ()


def about_guide(
    options: GenerateOptions, discriminator: LoadedDiscriminator | None
) -> dict[str, Any] | None:
    """Returns what is known of a guide."""
    if discriminator is None:
        return None
    return {
        "name": options.discriminator,
        "classes": list(classes_of(discriminator)),
        "card": discriminator.card,
    }
