"""A decoder's settings in the names that files have for them.

Results, headers of texts and cards name the settings of the decoder that wrote them. These names
stay, whatever shape the settings have in Python, so that older files are gone on with.
"""

from typing import Any

from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.flat_settings import flat
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
from coopgen_jax.decoding.rules.shaping import NO_RULES
from coopgen_jax.decoding.rules.stop import StopStrings
from coopgen_jax.decoding.rules.watermark import Watermark
from coopgen_jax.search.config import Halving

# Settings whose names on disc are others.
RENAMED = {
    "mix_base": "full_share",
    "foresight_power": "width",
    "reused_nodes": "kept",
    "visit_limit": "enough",
}
_AGAINST_REPETITION = ("repetition_penalty", "no_repeat_ngram")
_TRUNCATION = ("top_k", "top_p", "min_p", "typical_p", "eta")
# The rules that files have always named, by method; others are named where they are asked for.
NAMED_RULES: dict[type, tuple[str, ...]] = {
    BeamConfig: ("no_repeat_ngram",),
    BlockwiseConfig: ("temperature", "top_k", "top_p"),
    DASConfig: ("no_repeat_ngram",),
    FudgeConfig: (*_AGAINST_REPETITION, "temperature"),
    GediConfig: (*_AGAINST_REPETITION, "temperature"),
    MCTSConfig: (*_AGAINST_REPETITION, "penalise_prompt", "temperature"),
    PPLMConfig: ("temperature", "top_k"),
    SMCConfig: ("temperature",),
    SamplingConfig: (
        *_AGAINST_REPETITION, "bad_words", "forced", "temperature", *_TRUNCATION,
    ),
    StochasticBeamConfig: ("temperature",),
}  # fmt: skip
# What searches are no longer told, as older files say it.
_GONE = {"policy": "spread", "stride": 4, "renormalise": False, "virtual_loss": 1.0}
# What files say of a search's alternatives where they are not selected.
_UNSELECTED = {
    "kl": 0.0, "visit_temperature": 0.0, "anneal": False, "value_power": 0.0, "mix_base": 0.0,
    "rollout": 0, "rollout_confidence": None, "considered": 0, "value_scale": Halving.value_scale,
}  # fmt: skip
_OF_SEARCH = (
    "alpha", "likelihood", "foresight_power", "kl", "visit_temperature", "anneal", "value_power",
    "mix_base", "rollout", "rollout_confidence",
)  # fmt: skip
_INSIDE_SEARCH = (
    "simulations", "wave", *_GONE, "considered", "value_scale", "candidates", "depth", "c_puct",
    "first_play_urgency", "reused_nodes", "early_stop", "visit_limit",
)  # fmt: skip


def settings_on_disc(config: DecoderSettings) -> dict[str, Any]:
    """Returns a decoder's settings by their names on disc, nested where a search or a proposal is.

    A decoder that these files have not known names its own settings by their flat names.
    """
    if isinstance(config, RerankConfig):
        own = {name: getattr(config, name) for name in ("of", "samples", "alpha", "length_penalty")}
        texts = 1 if isinstance(config.proposal, BeamConfig) else config.samples
        return {"proposal": settings_on_disc(config.written) | {"samples": texts}, **own}
    if isinstance(config, MCTSConfig):
        return _of_search(config)
    found = {name: value for name, value in flat(config).items() if not hasattr(config.rules, name)}
    if isinstance(config, DASConfig):
        found["pool"] = found.pop("candidates")
    if isinstance(config, GediConfig):
        found["greedy"] = not found.pop("draw")
    return {RENAMED.get(n, n): value for n, value in found.items()} | _rules(config)


def _of_search(config: MCTSConfig) -> dict[str, Any]:
    found = _UNSELECTED | _GONE | flat(config)
    found["early_stop"] = config.engine.stops_early
    found["visit_limit"] = config.search.visit_limit

    def named(names: tuple[str, ...]) -> dict[str, Any]:
        return {RENAMED.get(name, name): found[name] for name in names}

    size = named(("new_tokens", "samples"))
    return size | _rules(config) | named(_OF_SEARCH) | {"search": named(_INSIDE_SEARCH)}


def _rules(config: DecoderSettings) -> dict[str, Any]:
    """Returns the rules that files of a method name, and others that are asked for."""
    named, values = NAMED_RULES.get(type(config), ()), flat(config.rules)
    found = {}
    for name, value in values.items():
        if name in named or value != getattr(NO_RULES, name):
            found[name] = _written(value)
    return found


def _written(value: Any) -> Any:
    """Returns a rule as JSON can have it."""
    if isinstance(value, StopStrings):
        return list(value.strings)
    if isinstance(value, Watermark):
        return value.on_disc()
    return value


def same_texts(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Tells whether two headers are of the same texts.

    What a search that draws by PUCT is told of halving, and whether it stops early, changes no
    text.
    """
    return _telling(one) == _telling(other)


def _telling(header: dict[str, Any]) -> dict[str, Any]:
    settings = header.get("settings")
    if not isinstance(settings, dict) or not isinstance(settings.get("search"), dict):
        return header
    search = settings["search"]
    silent = {"early_stop"} | ({"value_scale"} if not search.get("considered") else set())
    kept = {name: value for name, value in search.items() if name not in silent}
    return header | {"settings": settings | {"search": kept}}
