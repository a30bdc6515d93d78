"""The networks that are timed, and a decoding job made of them."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.settings import Settings
from coopgen_jax.decoding.job import Job
from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig
from coopgen_jax.decoding.presets import PRESETS
from coopgen_jax.discriminators.causal import CausalConfig, causal, init_causal
from coopgen_jax.discriminators.discriminator import Discriminator
from coopgen_jax.discriminators.head import Head, HeadConfig
from coopgen_jax.discriminators.loading import load_discriminator
from coopgen_jax.discriminators.shared_trunk import SharedTrunkConfig, shared_trunk
from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.language_model import LanguageModel, Prompt
from coopgen_jax.models.layer_layout import for_this_device, stored
from coopgen_jax.models.pretrained.loaded_model import load
from coopgen_jax.models.published_shapes import SHAPES as PUBLISHED
from coopgen_jax.models.transformer import DecoderConfig, init_decoder
from coopgen_jax.search.config import Halving
from coopgen_jax.testing import TINY_GPT2
from coopgen_jax.tokenizer import Tokenizer

CLASSES = ("negative", "positive")
SHAPES = {
    **PUBLISHED,
    "tiny": replace(TINY_GPT2, vocab_size=211),
    "default-6": DecoderConfig(
        vocab_size=49152, layers=6, width=576, heads=9, kv_heads=3, head_width=64, ffn_width=1536,
        context=8192, norm="rms", norm_epsilon=1e-5, activation="silu", gated=True,
        positions="rotary", rope_theta=100000.0,
    ),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Parts:
    """Both networks with their parameters.

    config: the language model's shape, without tokens that end a text: a search that has ended
      costs nothing.
    language_model: its functions.
    guide: the discriminator; `own_network` tells whether it reads tokens by a network of its own,
      whose calls belong to the floor.
    judge: the shape of that network and its head, None without one.
    tokenizer: of the default model, None of a shape.
    """

    config: DecoderConfig
    language_model: LanguageModel
    params: Any
    guide: Discriminator
    guide_params: Any
    judge: CausalConfig | None
    tokenizer: Tokenizer | None

    @property
    def own_network(self) -> bool:
        """Tells whether the guide has a network of its own."""
        return self.judge is not None


def make_parts(settings: Settings, *, packaged: bool = True) -> Parts:
    """Loads or draws both networks; the default model comes with its packaged head.

    Other networks have a random head on means of their states, and so has the default model where
    `packaged` is false.
    """
    loaded = None
    if settings.model == "default":
        loaded = load(dtype=settings.dtype)
        config, params = replace(loaded.config, end_tokens=()), loaded.params
    else:
        config = replace(SHAPES[settings.model], dtype=settings.dtype)

        def draw(key: jax.Array) -> Any:
            return stored(init_decoder(key, config), settings.dtype)

        params = for_this_device(jax.jit(draw)(jax.random.key(0)))
    key = jax.random.key(1)
    judge = None
    if settings.guide == "causal":
        judge = CausalConfig(config, HeadConfig(CLASSES, config.width, ()))
        guide = causal(judge)
        guide_params = jax.jit(lambda key: init_causal(key, judge))(key)
        guide_params = {
            "network": for_this_device(stored(guide_params["network"], settings.dtype)),
            "head": guide_params["head"],
        }
    elif loaded and packaged:
        head = load_discriminator("sentiment", language_model=loaded)
        guide, guide_params = head.discriminator, head.params
    else:
        taps = tuple(sorted({config.layers // 3, 2 * config.layers // 3, config.layers}))
        shape = HeadConfig(CLASSES, 2 * len(taps) * config.width)
        guide = shared_trunk(SharedTrunkConfig(taps, False, shape))
        guide_params = Head(shape).init(key, jnp.zeros((1, shape.inputs)))["params"]
    return Parts(
        config=config,
        language_model=language_model(config, guide.taps),
        params=params,
        guide=guide,
        guide_params=guide_params,
        judge=judge,
        tokenizer=loaded.tokenizer if loaded else None,
    )


def random_prompts(parts: Parts, batch: int, length: int) -> Prompt:
    """Returns prompts of random tokens: what is timed does not depend on them."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, parts.config.vocab_size, (batch, length))
    return Prompt(
        tokens=jnp.asarray(tokens, jnp.int32),
        mask=jnp.ones(tokens.shape, bool),
        index=jnp.arange(batch),
    )


def considered(config: MCTSConfig) -> int:
    """Returns how many candidates are halved at the root, 0 for PUCT there."""
    root = config.search.root
    return root.considered if isinstance(root, Halving) else 0


def make_job(
    parts: Parts,
    *,
    preset: str = "default",
    batch: int,
    prompt_length: int,
    new_tokens: int,
    samples: int = 1,
    **search: Any,
) -> Job:
    """Returns a decoding job over random prompts; `search` changes settings of the search.

    Early stop is off, so that every token costs the same.
    """
    config = PRESETS[preset]
    # The nodes that outlive a token stay as many, whatever the simulations.
    kept = ("wave", "candidates", "reused_nodes")
    settings = {name: getattr(config.search, name) for name in kept} | search
    settings["candidates"] = min(settings["candidates"], parts.config.vocab_size)
    halved = min(settings.get("considered", considered(config)), settings["candidates"])
    # A wave wider than the preset's halves as many candidates as it has leaves.
    settings["considered"] = max(halved, settings["wave"]) if halved else 0
    if not halved:
        settings.setdefault("early_stop", False)
    return Job(
        prompt=random_prompts(parts, batch, prompt_length),
        target=jnp.ones(batch, jnp.int32),
        config=config.with_settings(new_tokens=new_tokens, samples=samples, **settings),
        language_model=parts.language_model,
        params=parts.params,
        discriminator=parts.guide,
        discriminator_params=parts.guide_params,
    )


# The columns of a table that state what a search was.
STATED = (
    ("batch", "prompts", "d"),
    ("samples", "samples", "d"),
    ("prompt_length", "prompt", "d"),
    ("simulations", "simulations", "d"),
    ("wave", "wave", "d"),
    ("depth", "D", "d"),
    ("candidates", "K", "d"),
    ("considered", "halved", "d"),
    ("kept", "kept", "d"),
    ("penalty", "penalty", ".1f"),
)


def described(job: Job) -> dict[str, Any]:
    """Returns what every row of a table states of its search."""
    config = job.config
    return {
        "batch": job.prompt.tokens.shape[0],
        "samples": config.samples,
        "prompt_length": job.prompt.tokens.shape[1],
        "simulations": config.search.simulations,
        "wave": config.search.wave,
        "depth": config.search.depth,
        "candidates": config.search.candidates,
        "considered": considered(config),
        "value_scale": getattr(config.search.root, "value_scale", None),
        "c_puct": config.search.c_puct,
        "kept": config.search.reused_nodes,
        "penalty": config.rules.repetition_penalty,
        "no_repeat_ngram": config.rules.no_repeat_ngram,
    }
