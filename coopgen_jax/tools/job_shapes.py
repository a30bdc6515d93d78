"""A decoding job of shapes alone: what a program is planned, traced or compiled from, unread.

No weights are made, so that a network of any size fits. Inside `parallel.platform.made_for` the
parameters lie as they would on a device of that kind, which need not be there.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.job import Job
from coopgen_jax.decoding.rules.watermark import marking_of
from coopgen_jax.discriminators.causal import CausalConfig, causal, init_causal
from coopgen_jax.discriminators.head import Head, HeadConfig
from coopgen_jax.discriminators.shared_trunk import SharedTrunkConfig, shared_trunk
from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.language_model import Prompt
from coopgen_jax.models.layer_layout import for_this_device, stored
from coopgen_jax.models.transformer import DecoderConfig, init_decoder

Guide = Literal["trunk", "causal"]
CLASSES = ("negative", "positive")


def job_of_shapes(
    config: DecoderConfig,
    decoding: DecoderSettings,
    *,
    batch: int,
    prompt_length: int,
    guide: Guide = "trunk",
) -> Job:
    """Returns a job whose arrays are `jax.ShapeDtypeStruct`s, for `eval_shape` and `jit.lower`.

    Args:
      config: the language model's shape; its `dtype` is that of the weights, norms but float32.
      decoding: the settings of any decoder.
      batch: prompts.
      prompt_length: their padded length, in tokens.
      guide: "trunk", a head on the language model's states, or "causal", a network of the language
        model's shape; both judge two classes.
    """
    key = jax.random.key(0)
    judge = CausalConfig(config, HeadConfig(CLASSES, config.width, ()))
    taps = tuple(sorted({config.layers // 3, 2 * config.layers // 3, config.layers}))
    head = HeadConfig(CLASSES, 2 * len(taps) * config.width)
    discriminator = causal(judge)
    if guide == "trunk":
        discriminator = shared_trunk(SharedTrunkConfig(taps, False, head))

    def made() -> Job:
        guide_params: Any = init_causal(key, judge)
        guide_params["network"] = stored(guide_params["network"], config.dtype)
        if guide == "trunk":
            guide_params = Head(head).init(key, jnp.zeros((1, head.inputs)))["params"]
        tokens = jnp.zeros((batch, prompt_length), jnp.int32)
        return Job(
            prompt=Prompt(tokens=tokens, mask=tokens > 0, index=tokens[:, 0]),
            target=tokens[:, 0],
            params=for_this_device(stored(init_decoder(key, config), config.dtype)),
            discriminator_params=guide_params,
            language_model=language_model(config, discriminator.taps),
            discriminator=discriminator,
            config=decoding,
            marking=marking_of(jnp.zeros(4), tokens[:, 0]) if decoding.rules.watermark else None,
        )

    job: Job = jax.eval_shape(made)
    return job
