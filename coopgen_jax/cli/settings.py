"""From options to the settings of a decoder."""

from collections.abc import Mapping
from typing import Any

from coopgen_jax.cli.checks import check_options, check_target
from coopgen_jax.cli.method_flags import Method, in_flags, method_of
from coopgen_jax.cli.options import GenerateOptions
from coopgen_jax.cli.token_options import read_words
from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.errors import UserError

# What `--compare` writes beside every text.
COMPARED_TOP_P = 0.9


def decoder_config(options: GenerateOptions) -> DecoderSettings:
    """Returns the settings that the options ask for; what is left unset is the preset's.

    Raises:
      UserError: an option is out of its range or does not go with the others.
    """
    check_options(options)
    for path in options.words.get("bag", ()):
        # Their words need the tokenizer; that there are any is seen before it is loaded.
        read_words(path)
    method = method_of(options.method, options.preset)
    size = {"new_tokens": options.new_tokens, "samples": options.samples}
    config = with_given(method, size | dict(options.settings))
    check_target(options, config)
    return config


def with_given(method: Method, settings: Mapping[str, Any]) -> DecoderSettings:
    """Returns a method's settings with those that are given.

    Raises:
      UserError: one is out of its range or does not go with the others; the sentence names flags.
    """
    try:
        return method.base.with_settings(**settings)
    except ValueError as error:
        raise UserError(in_flags(str(error), method)) from error


def compared_config(options: GenerateOptions) -> SamplingConfig:
    """Returns the settings of the plain sampling that `--compare` writes beside the texts."""
    return SamplingConfig(options.new_tokens, options.samples, Rules(top_p=COMPARED_TOP_P))
