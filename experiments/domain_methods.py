"""The methods that domains compare, as records; their names are those of `coopgen compare`.

Every method is a function of the folder of what was trained, in which guides are trunk, causal and
generative, and of the tokens of a text.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from coopgen_jax.comparison.method_run import MethodRun
from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.methods.beam import BeamConfig
from coopgen_jax.decoding.methods.fudge import FudgeConfig
from coopgen_jax.decoding.methods.gedi import GediConfig
from coopgen_jax.decoding.methods.pplm_config import PPLMConfig
from coopgen_jax.decoding.methods.rerank import RerankConfig
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.decoding.methods.smc import SMCConfig
from coopgen_jax.decoding.presets import PRESETS
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.models.pretrained.steering import Steering

NUCLEUS = Rules(top_p=0.9)
DomainMethod = Callable[[Path, int], MethodRun]


def made(
    work: Path, name: str, config: DecoderSettings, guide: str = "trunk", **more: Any
) -> MethodRun:
    """Returns a method of the domain's language model and one of its guides."""
    about = {"model": str(work / "lm"), "discriminator": str(work / guide)}
    return MethodRun(name, config, **(about | more))


def nucleus(work: Path, tokens: int) -> MethodRun:
    """Plain sampling from the likeliest tokens that make up nine tenths."""
    return made(work, "sample:top_p=0.9", SamplingConfig(tokens, rules=NUCLEUS))


def greedy(work: Path, tokens: int) -> MethodRun:
    """The likeliest token each time."""
    config = SamplingConfig(tokens, rules=Rules(temperature=0.0))
    return made(work, "greedy", config, method="greedy")


def class_conditional(work: Path, tokens: int) -> MethodRun:
    """Sampling from the network of the generative guide behind its prefix (CC-LM)."""
    network = f"{work}/generative/network"
    return MethodRun(
        f"sample:top_p=0.9:model={network}:control_code={{target}}\\::discriminator=none",
        SamplingConfig(tokens, rules=NUCLEUS),
        model=network,
        steering=Steering(control_code="{target}:"),
    )


def gedi(work: Path, tokens: int) -> MethodRun:
    """GeDi under the generative guide."""
    name = f"gedi:discriminator={work}/generative"
    return made(work, name, GediConfig(new_tokens=tokens), "generative")


def pplm(work: Path, tokens: int) -> MethodRun:
    """PPLM along the gradient of the shared trunk's head."""
    return made(work, "pplm", PPLMConfig(new_tokens=tokens))


def best_of_samples(work: Path, tokens: int) -> MethodRun:
    """The best of twenty samples under the guide (sampling-argmax)."""
    config = RerankConfig(tokens, rules=NUCLEUS, of=20)
    return made(work, "rerank:of=20:top_p=0.9", config)


def best_of_beams(work: Path, tokens: int) -> MethodRun:
    """The best of ten beams under the guide."""
    config = RerankConfig(new_tokens=tokens, of=10, proposal=BeamConfig(beams=10))
    return made(work, "rerank:beams=10", config)


def fudge(work: Path, tokens: int) -> MethodRun:
    """Candidates re-scored by log p(target | text)."""
    return made(work, "fudge", FudgeConfig(new_tokens=tokens))


def fudge_by_value(work: Path, tokens: int) -> MethodRun:
    """Candidates re-scored by p(target | text) (RAD)."""
    config = FudgeConfig(new_tokens=tokens, score="value", strength=10.0)
    return made(work, "fudge:score=value:strength=10", config)


def experts(work: Path, tokens: int) -> MethodRun:
    """Sampling with an expert of the target, and the model itself as anti-expert."""
    expert = f"{work}/expert-{{target}}"
    return made(
        work,
        f"sample:top_p=0.9:expert={expert}:expert_weight=2",
        SamplingConfig(tokens, rules=NUCLEUS),
        steering=Steering(expert=expert, expert_weight=2.0),
    )


def particles(work: Path, tokens: int) -> MethodRun:
    """Sequential Monte Carlo with four particles."""
    return made(work, "smc:samples=4", SMCConfig(new_tokens=tokens, samples=4))


def search(guide: str = "", simulations: int = 32) -> DomainMethod:
    """Returns the search with waves of eight.

    Args:
      guide: trunk, causal or generative, or the name of a packaged head; the trunk where nothing is
        named.
      simulations: texts judged per token.
    """

    def method(work: Path, tokens: int) -> MethodRun:
        config = PRESETS["default"].with_settings(
            new_tokens=tokens, simulations=simulations, wave=8
        )
        path = f"{work}/{guide}" if guide in ("trunk", "causal", "generative") else guide
        return made(
            work,
            f"mcts:simulations={simulations}:wave=8" + (f":discriminator={path}" if guide else ""),
            config,
            preset="default",
            **({"discriminator": path} if guide else {}),
        )

    return method


# Methods of a domain with a generative guide.
BASELINES: tuple[DomainMethod, ...] = (nucleus, greedy, class_conditional, gedi)
