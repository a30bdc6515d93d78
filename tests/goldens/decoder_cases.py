"""Every decoder's settings on small things, and how they are run: all that knows their names."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from coopgen_jax.decoding.decode import decode, mcts
from coopgen_jax.decoding.generation import Generation
from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig
from coopgen_jax.decoding.methods.beam import BeamConfig
from coopgen_jax.decoding.methods.blockwise import BlockwiseConfig
from coopgen_jax.decoding.methods.das import DASConfig
from coopgen_jax.decoding.methods.fudge import FudgeConfig
from coopgen_jax.decoding.methods.gedi import GediConfig
from coopgen_jax.decoding.methods.pplm_config import PPLMConfig
from coopgen_jax.decoding.methods.rerank import RerankConfig
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.decoding.methods.smc import SMCConfig
from coopgen_jax.decoding.methods.stochastic_beam import StochasticBeamConfig
from coopgen_jax.decoding.presets import PRESETS
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.discriminators.head import Head, HeadConfig
from coopgen_jax.discriminators.shared_trunk import SharedTrunkConfig, shared_trunk
from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.language_model import Prompt
from coopgen_jax.models.transformer import init_decoder
from coopgen_jax.search.config import Halving, Puct, SearchConfig
from coopgen_jax.testing import TINY_LLAMA, ToyLanguage, toy_discriminator, toy_language_model
from tests.goldens.comparing import plain

TOY = ToyLanguage(vocab_size=7)
# The default preset's waves are as wide as its candidates are many.
WIDE = ToyLanguage(vocab_size=17)
ROWS = ((0, 1, 2, 4, 3), (3,), (2, 2, 5))
TARGET = (1, 0, 1)
SIZE: dict[str, Any] = {"new_tokens": 5, "samples": 2}
SEARCH = SearchConfig(
    simulations=24,
    wave=2,
    candidates=5,
    depth=4,
    reused_nodes=8,
    c_puct=0.7,
    first_play_urgency="parent",
)


def tables(toy: ToyLanguage, seed: int) -> dict[str, jax.Array]:
    """Random numbers that are no integers, so that no two texts are exactly as good."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.standard_normal((toy.states, toy.vocab_size))
    scores = 1.5 * rng.standard_normal((toy.states, 2))
    return {
        "logits": jnp.asarray(logits, jnp.float32),
        "scores": jnp.asarray(scores, jnp.float32),
    }


def prompts() -> Prompt:
    """The prompts, padded on the left; their numbers in the job are not those of the rows."""
    longest = max(map(len, ROWS))
    tokens = np.zeros((len(ROWS), longest), np.int32)
    mask = np.zeros((len(ROWS), longest), bool)
    for number, row in enumerate(ROWS):
        tokens[number, longest - len(row) :], mask[number, longest - len(row) :] = row, True
    index = jnp.arange(4, 4 + len(ROWS))
    return Prompt(tokens=jnp.asarray(tokens), mask=jnp.asarray(mask), index=index)


def preset(name: str) -> Callable[[], Any]:
    """A preset as it is, but for the length and the number of texts."""
    return lambda: replace(PRESETS[name], **SIZE)


def searching(search: SearchConfig = SEARCH, **settings: Any) -> Callable[[], Any]:
    return lambda: MCTSConfig(rules=Rules(), search=search).with_settings(**SIZE, **settings)


def sampling(**settings: Any) -> Callable[[], Any]:
    return lambda: SamplingConfig().with_settings(**SIZE, **settings)


def of_kind(kind: Any, **settings: Any) -> Callable[[], Any]:
    return lambda: kind().with_settings(**SIZE | settings)


def ranked(proposal: Callable[[], Any], **settings: Any) -> Callable[[], Any]:
    def made() -> RerankConfig:
        texts = proposal()
        plain = replace(texts, rules=Rules())
        return RerankConfig(**SIZE, rules=texts.rules, proposal=plain, **settings)

    return made


def halved(**settings: Any) -> SearchConfig:
    root = Halving(considered=4, **settings)
    return replace(SEARCH, root=root, simulations=16)


def every_rule() -> Callable[[], Any]:
    return sampling(
        repetition_penalty=1.3, no_repeat_ngram=2, bad_words=((1, 2), (4,)), forced=(3,),
        temperature=1.4, top_k=6, top_p=0.95, min_p=0.02, typical_p=0.95, eta=0.05, mirostat=2.0,
        mirostat_rate=0.3,
    )  # fmt: skip


CASES: dict[str, Callable[[], Any]] = {
    **{f"mcts preset {name}": preset(name) for name in PRESETS},
    "mcts alpha mean": searching(alpha=0.6, repetition_penalty=1.4, penalise_prompt=False),
    "mcts alpha product": searching(alpha=0.6, likelihood="product", no_repeat_ngram=2),
    "mcts temperature and width": searching(
        replace(SEARCH, root=Puct(visit_limit=16)), temperature=0.7, foresight_power=0.8
    ),
    "mcts halved width": searching(halved(value_scale=0.3), foresight_power=0.5, alpha=0.7),
    "mcts visits annealed share": searching(
        visit_temperature=0.8, anneal=True, mix_base=0.2, temperature=1.2, no_repeat_ngram=2
    ),
    "mcts values drawn halved share": searching(
        halved(), value_power=2.0, mix_base=0.3, repetition_penalty=1.2
    ),
    "mcts roll-out to a confidence": searching(rollout=3, rollout_confidence=0.7, temperature=0.8),
    "mcts reference drawn": searching(
        replace(SEARCH, first_play_urgency="value"), kl=0.2, visit_temperature=1.0
    ),
    "sampling": sampling(),
    "sampling greedy": sampling(temperature=0.0),
    "sampling greedy ruled": sampling(
        temperature=0.0, repetition_penalty=1.5, no_repeat_ngram=2, bad_words=((3,),), forced=(1, 2)
    ),
    "sampling nucleus": sampling(temperature=1.5, top_k=5, top_p=0.8),
    "sampling typical and eta": sampling(typical_p=0.7, eta=0.1, min_p=0.05),
    "sampling mirostat": sampling(mirostat=1.5, mirostat_rate=0.5),
    "sampling full share": sampling(top_p=0.6, temperature=0.7, mix_base=0.4),
    "sampling every rule": every_rule(),
    "beam ruled": of_kind(BeamConfig, beams=3, length_penalty=0.5, no_repeat_ngram=2),
    "beam diverse": of_kind(BeamConfig, beams=2, groups=2, diversity=0.7),
    "stochastic beam warm": of_kind(StochasticBeamConfig, samples=3, temperature=1.5),
    "fudge log": of_kind(FudgeConfig, candidates=4, strength=1.5, temperature=1.2),
    "fudge value": of_kind(FudgeConfig, candidates=5, score="value", strength=3.0),
    "fudge look ahead": of_kind(
        FudgeConfig, candidates=7, look_ahead=True, repetition_penalty=1.2, no_repeat_ngram=2
    ),
    "fudge greedy": of_kind(FudgeConfig, candidates=4, greedy=True),
    "gedi greedy": of_kind(GediConfig),
    "gedi draw": of_kind(
        GediConfig, draw=True, strength=2.0, filter_p=0.5, target_p=0.9, temperature=0.8,
        no_repeat_ngram=2,
    ),
    "smc systematic": of_kind(SMCConfig, samples=4),
    "smc residual": of_kind(
        SMCConfig, samples=4, resampling="residual", threshold=0.9, temperature=1.3, power=2.0
    ),
    "rerank samples": ranked(sampling(top_p=0.9, mix_base=0.2), of=4),
    "rerank samples alpha": ranked(
        sampling(temperature=1.3, no_repeat_ngram=2), of=3, alpha=0.4, length_penalty=0.5
    ),
    "rerank beams diverse": ranked(
        of_kind(BeamConfig, beams=3, groups=2, diversity=0.5), of=3
    ),
    "blockwise nucleus": of_kind(BlockwiseConfig, block=3, of=4, top_k=5, top_p=0.9, temperature=2),
    "das": of_kind(DASConfig, beams=3, candidates=6),
    "das ruled": of_kind(
        DASConfig, beams=2, candidates=5, alpha=0.5, length_penalty=0.7, no_repeat_ngram=2
    ),
    "pplm both": of_kind(
        PPLMConfig, bags=((5, 9, 30),), step_size=0.4, kl=0.3, fusion=0.7, gamma=1.2, iterations=2,
        window=2, decay=True, temperature=0.8, top_k=0,
    ),
}  # fmt: skip

TAPS = (1, 2)


@functools.cache
def network() -> tuple[Any, Any]:
    """A tiny network's parameters and those of a head on its states, for what takes gradients."""
    # Larger than drawn, so that tokens differ; the states that heads read are then of order one.
    params = jax.tree.map(lambda leaf: 2 * leaf, init_decoder(jax.random.key(0), TINY_LLAMA))
    head = Head(HEAD).init(jax.random.key(1), jnp.zeros((1, HEAD.inputs)))["params"]
    return params, jax.tree.map(lambda leaf: 0.3 * leaf, head)


HEAD = HeadConfig(("bad", "good"), 2 * len(TAPS) * TINY_LLAMA.width, (8,))
STATIC = ("language_model", "discriminator", "config")


def written(name: str) -> Generation:
    """Returns what a case writes, as one compiled loop."""
    config = CASES[name]()
    key, prompt, target = jax.random.key(11), prompts(), jnp.asarray(TARGET, jnp.int32)
    if name.startswith("pplm"):
        params, head = network()
        guide = shared_trunk(SharedTrunkConfig(TAPS, True, HEAD))
        return jax.jit(decode, static_argnames=STATIC)(
            key, prompt, language_model=language_model(TINY_LLAMA, TAPS),
            params=params, discriminator=guide, discriminator_params=head, target=target,
            config=config,
        )  # fmt: skip
    toy = WIDE if name.startswith("mcts preset") else TOY
    settings = {
        "language_model": toy_language_model(toy), "params": tables(toy, 0),
        "discriminator": toy_discriminator(toy), "discriminator_params": tables(toy, 0),
        "target": target, "config": config,
    }  # fmt: skip
    if name == "mcts reference drawn":
        other = {"reference": toy_language_model(toy), "reference_params": tables(toy, 1)}
        return jax.jit(mcts, static_argnames=(*STATIC, "reference"))(
            key, prompt, **settings, **other
        )
    return jax.jit(decode, static_argnames=STATIC)(key, prompt, **settings)


FIELDS = (
    "tokens", "length", "log_prob", "log_proposal", "log_weight", "log_class", "simulations",
    "model_tokens",
)  # fmt: skip


def figures(name: str) -> dict[str, Any]:
    """Returns a case's record as JSON."""
    generation = jax.device_get(written(name))
    return plain({field: np.asarray(getattr(generation, field)).tolist() for field in FIELDS})
