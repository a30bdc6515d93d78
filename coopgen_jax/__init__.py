"""Cooperative text generation in JAX: p(x|c) is proportional to p(x) p(c|x).

A language model proposes, a discriminator judges, and a compiled tree search writes. Names are
imported when they are first used, so that importing the package costs nothing.
"""

from importlib import import_module

_HOME = {
    "BeamConfig": "decoding.methods.beam",
    "Best": "decoding.mcts.mcts_config",
    "BlockwiseConfig": "decoding.methods.blockwise",
    "ByValues": "decoding.mcts.mcts_config",
    "ByVisits": "decoding.mcts.mcts_config",
    "Capacity": "models.slots",
    "CausalConfig": "discriminators.causal",
    "DASConfig": "decoding.methods.das",
    "DECODERS": "decoding.decode",
    "Decoder": "decoding.job",
    "DecoderConfig": "models.transformer",
    "DecoderSettings": "decoding.decoder_settings",
    "Discriminator": "discriminators.discriminator",
    "FudgeConfig": "decoding.methods.fudge",
    "GediConfig": "decoding.methods.gedi",
    "Generation": "decoding.generation",
    "GenerativeConfig": "discriminators.generative",
    "Halving": "search.config",
    "Hosts": "bulk.hosts",
    "LanguageModel": "models.language_model",
    "LoadedDiscriminator": "discriminators.loaded_discriminator",
    "LoadedModel": "models.pretrained.loaded_model",
    "MCTSConfig": "decoding.mcts.mcts_config",
    "Member": "models.combination",
    "Nodes": "models.language_model",
    "PPLMConfig": "decoding.methods.pplm_config",
    "PRESETS": "decoding.presets",
    "Prompt": "models.language_model",
    "Puct": "search.config",
    "Reference": "decoding.mcts.mcts_config",
    "RerankConfig": "decoding.methods.rerank",
    "Rollout": "decoding.mcts.mcts_config",
    "Rules": "decoding.rules.shaping",
    "SMCConfig": "decoding.methods.smc",
    "SamplingConfig": "decoding.methods.sampling",
    "SearchConfig": "search.config",
    "Slots": "models.slots",
    "StochasticBeamConfig": "decoding.methods.stochastic_beam",
    "StopStrings": "decoding.rules.stop",
    "T5Config": "models.t5",
    "Term": "discriminators.composition",
    "Text": "text_generation",
    "Tokenizer": "tokenizer",
    "Tree": "search.tree",
    "UserError": "errors",
    "Value": "decoding.mcts.mcts_config",
    "Watermark": "decoding.rules.watermark",
    "bag_of_words": "discriminators.bag_of_words",
    "beam_search": "decoding.decode",
    "blockwise": "decoding.decode",
    "causal": "discriminators.causal",
    "combine_logits": "models.combination",
    "combined": "models.pretrained.combined_model",
    "combined_params": "models.combination",
    "compose": "discriminators.composition",
    "connect": "bulk.hosts",
    "das": "decoding.decode",
    "decode": "decoding.decode",
    "fudge": "decoding.decode",
    "gedi": "decoding.decode",
    "generate": "text_generation",
    "generate_on_hosts": "bulk.hosts",
    "generative": "discriminators.generative",
    "generative_params": "discriminators.generative",
    "host_function": "discriminators.host.function",
    "init_causal": "discriminators.causal",
    "language_model": "models.networks",
    "load_discriminator": "discriminators.loading",
    "load_language_model": "models.pretrained.loaded_model",
    "log_evidence": "decoding.methods.smc",
    "make_mesh": "parallel.mesh",
    "make_prompt": "models.prompt",
    "map_over_mesh": "parallel.mesh",
    "mcts": "decoding.decode",
    "on_mesh": "decoding.on_mesh",
    "pplm": "decoding.decode",
    "rerank": "decoding.decode",
    "reward": "discriminators.host.function",
    "sample": "decoding.decode",
    "shard_decoder": "models.sharding",
    "shared_trunk": "discriminators.shared_trunk",
    "single_tokens": "discriminators.bag_of_words",
    "smc": "decoding.decode",
    "stochastic_beam_search": "decoding.decode",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name == "testing":
        return import_module(f"{__name__}.testing")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = import_module(f"{__name__}.{_HOME[name]}")
    value = getattr(home, "load" if name == "load_language_model" else name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
