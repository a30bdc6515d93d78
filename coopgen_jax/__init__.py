"""Cooperative text generation in JAX: p(x|c) is proportional to p(x) p(c|x).

A language model proposes, a discriminator judges, and a compiled tree search writes. Names are
imported when they are first used, so that importing the package costs nothing.
"""

from importlib import import_module

_HOME = {
    "BeamConfig": "decoding.beam",
    "BlockwiseConfig": "decoding.blockwise",
    "Capacity": "models.slots",
    "CausalConfig": "discriminators.causal",
    "DASConfig": "decoding.das",
    "DecoderConfig": "models.transformer",
    "Discriminator": "discriminators.discriminator",
    "FudgeConfig": "decoding.fudge",
    "GediConfig": "decoding.gedi",
    "Generation": "decoding.generation",
    "GenerativeConfig": "discriminators.generative",
    "Hosts": "hosts",
    "LanguageModel": "models.language_model",
    "LoadedDiscriminator": "discriminators.loaded",
    "LoadedModel": "models.pretrained.loading",
    "MCTSConfig": "decoding.mcts_config",
    "Member": "models.arithmetic",
    "Nodes": "models.language_model",
    "PPLMConfig": "decoding.pplm_config",
    "PRESETS": "decoding.presets",
    "Prompt": "models.language_model",
    "RerankConfig": "decoding.rerank",
    "SMCConfig": "decoding.smc",
    "SamplingConfig": "decoding.sampling",
    "SearchConfig": "search.config",
    "Slots": "models.slots",
    "StochasticBeamConfig": "decoding.stochastic_beam",
    "T5Config": "models.t5",
    "Term": "discriminators.composition",
    "Text": "written",
    "Tokenizer": "text",
    "Tree": "search.tree",
    "UserError": "errors",
    "bag_of_words": "discriminators.bag_of_words",
    "beam_search": "decoding.beam",
    "blockwise": "decoding.blockwise",
    "causal": "discriminators.causal",
    "combine_logits": "models.arithmetic",
    "combined": "models.pretrained.combined",
    "combined_params": "models.arithmetic",
    "compose": "discriminators.composition",
    "connect": "hosts",
    "das": "decoding.das",
    "fudge": "decoding.fudge",
    "gedi": "decoding.gedi",
    "generate": "shell",
    "generate_on_hosts": "hosts",
    "generative": "discriminators.generative",
    "generative_params": "discriminators.generative",
    "host_function": "discriminators.host_function",
    "init_causal": "discriminators.causal",
    "language_model": "models.networks",
    "load_discriminator": "discriminators.heads",
    "load_language_model": "models.pretrained.loading",
    "log_evidence": "decoding.smc",
    "make_mesh": "parallel",
    "make_prompt": "text",
    "map_over_mesh": "parallel",
    "mcts": "decoding.mcts",
    "on_mesh": "decoding.spread",
    "pplm": "decoding.pplm",
    "rerank": "decoding.rerank",
    "reward": "discriminators.host_function",
    "sample": "decoding.sampling",
    "shard_decoder": "models.sharding",
    "shared_trunk": "discriminators.shared_trunk",
    "single_tokens": "discriminators.bag_of_words",
    "smc": "decoding.smc",
    "stochastic_beam_search": "decoding.stochastic_beam",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = import_module(f"{__name__}.{_HOME[name]}")
    value = getattr(home, "load" if name == "load_language_model" else name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
