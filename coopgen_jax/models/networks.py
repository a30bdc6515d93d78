"""The language model of a network, whatever family it is of."""

import jax

from coopgen_jax.models import decoder
from coopgen_jax.models.encoder_decoder import encoder_decoder
from coopgen_jax.models.language_model import LanguageModel
from coopgen_jax.models.t5 import T5Config, init_t5
from coopgen_jax.models.transformer import DecoderConfig, Params, init_decoder


def language_model(
    config: DecoderConfig, taps: tuple[int, ...] = (), *, chunk: int = 256, tensor: int = 1
) -> LanguageModel:
    """Returns the functions of a network; equal for equal arguments.

    Args:
      config: the network's shape.
      taps: layers whose states are wanted, each from 0 to `config.layers`; an encoder-decoder has
        none to give.
      chunk: the most prompt tokens that a decoder reads at once, or that attend to a source.
      tensor: devices that share the network; its functions then run under `map_over_mesh`.

    Raises:
      UserError: there are taps of an encoder-decoder.
      ValueError: a tap is not a layer of the network, or there is nothing in a chunk.
    """
    if isinstance(config, T5Config):
        return encoder_decoder(config, taps, chunk=chunk, tensor=tensor)
    return decoder.language_model(config, taps, chunk=chunk, tensor=tensor)


def init_network(key: jax.Array, config: DecoderConfig) -> Params:
    """Returns random parameters of a network; see `init_decoder` and `init_t5`."""
    return init_t5(key, config) if isinstance(config, T5Config) else init_decoder(key, config)
