"""What a run says of itself beside its texts."""

from typing import Any

from coopgen_jax.cli.model_options import steering_options
from coopgen_jax.cli.options import GenerateOptions
from coopgen_jax.cli.settings import compared_config
from coopgen_jax.comparison.header import settings_of
from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.names_on_disc import settings_on_disc


def run_settings(options: GenerateOptions, config: DecoderSettings) -> dict[str, Any]:
    """Returns all that texts depend on beside prompts and weights."""
    compared = {"method": "sample", **settings_on_disc(compared_config(options))}
    machines = {
        "devices": options.devices if options.devices > 1 else None,
        "tensor": options.tensor if options.tensor > 1 else None,
        "hosts": options.hosts,
    }
    shared = (
        "target", "seed", "batch_size", "dtype", "chat", "control_strings", "method", "preset",
        "reference",
    )  # fmt: skip
    settings = settings_of(
        config,
        **{name: getattr(options, name) for name in shared},
        steering=steering_options(options),
        machines=machines,
    )
    return settings | {"compare": compared if options.compare else None}
