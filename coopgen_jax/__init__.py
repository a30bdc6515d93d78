"""Cooperative text generation in JAX: p(x|c) is proportional to p(x) p(c|x).

A language model proposes, a discriminator judges, and a compiled tree search writes. Names are
imported when they are first used, so that importing the package costs nothing.
"""

from importlib import import_module

# By module: the names that it offers.
_NAMES = {
    "augmentation.augmentation_settings": "AugmentationSettings",
    "augmentation.filters": "FilterSettings",
    "augmentation.memorisation": "memorisation",
    "augmentation.synthetic_texts": "write_synthetic",
    "augmentation.balanced_matching": "balanced_matching",
    "augmentation.entity_swap": "SwappedText deal_texts entity_balance swap_entities",
    "augmentation.image_pairs": "CaptionedVectors ImagePairs PairSettings make_image_pairs",
    "augmentation.mismatch_detector": "detect_mismatches detector_report",
    "augmentation.named_entities": "Name load_namer",
    "bulk.hosts": "Hosts connect generate_on_hosts",
    "data.image_captions": "ImageCaptions read_image_captions",
    "data.image_states": "ImageStates open_image read_image_states",
    "decoding.decode": (
        "DECODERS beam_search blockwise das decode fudge "
        "gedi mcts pplm rerank sample smc stochastic_beam_search"
    ),
    "decoding.decoder_settings": "DecoderSettings",
    "decoding.generation": "Generation",
    "decoding.job": "Decoder",
    "decoding.mcts.mcts_config": "Best ByValues ByVisits MCTSConfig Reference Rollout Value",
    "decoding.methods.beam": "BeamConfig",
    "decoding.methods.blockwise": "BlockwiseConfig",
    "decoding.methods.das": "DASConfig",
    "decoding.methods.fudge": "FudgeConfig",
    "decoding.methods.gedi": "GediConfig",
    "decoding.methods.pplm_config": "PPLMConfig",
    "decoding.methods.rerank": "RerankConfig",
    "decoding.methods.sampling": "SamplingConfig",
    "decoding.methods.smc": "SMCConfig log_evidence",
    "decoding.methods.stochastic_beam": "StochasticBeamConfig",
    "decoding.on_mesh": "on_mesh",
    "decoding.presets": "PRESETS",
    "decoding.rules.shaping": "Rules",
    "decoding.rules.stop": "StopStrings",
    "decoding.rules.watermark": "Marking Watermark marking_of",
    "decoding.rules.watermark_key": "WatermarkKey load_key new_key save_key",
    "discriminators.bag_of_words": "bag_of_words single_tokens",
    "discriminators.causal": "CausalConfig causal init_causal",
    "discriminators.clip_heads": "image_head_vectors",
    "discriminators.composition": "Term compose",
    "discriminators.discriminator": "Discriminator",
    "discriminators.generative": "GenerativeConfig generative generative_params",
    "discriminators.host.function": "host_function reward",
    "discriminators.image_guide": (
        "CausalTextConfig ImageContext clip_guide describing_anew describing_causally "
        "image_context image_guide init_describer"
    ),
    "discriminators.loaded_discriminator": "LoadedDiscriminator",
    "discriminators.loading": "load_discriminator",
    "discriminators.shared_trunk": "shared_trunk",
    "errors": "UserError",
    "evaluation.captions": "evaluate_captions",
    "evaluation.clip_scores": "clip_s ref_clip_s",
    "evaluation.clip_vectors": "ClipVectors load_clip_vectors",
    "evaluation.retrieval": "image_retrieval retrieval_figures text_retrieval",
    "explanation.explain": "explain",
    "explanation.explained": "Explanation load_explanation",
    "explanation.surrogate": "SurrogateSettings",
    "explanation.class_texts": "WritingSettings",
    "models.clip": "ClipConfig image_vectors match_logits text_vectors",
    "models.combination": "Member combine_logits combined_params",
    "models.language_model": "LanguageModel Nodes Prompt",
    "models.networks": "language_model",
    "models.pretrained.captioner": "LoadedCaptioner load_captioner",
    "models.pretrained.combined_model": "combined",
    "models.pixels": "PixelConfig pixels_of",
    "models.pretrained.image_networks": (
        "LoadedBackbone LoadedClip image_states load_backbone load_clip"
    ),
    "models.pretrained.loaded_model": "LoadedModel load_language_model",
    "models.pretrained.vision_language": (
        "VisionLanguageCaptioner load_vision_language open_captioner"
    ),
    "models.prompt": "make_prompt",
    "models.sharding": "shard_decoder",
    "models.slots": "Capacity Slots",
    "models.t5": "T5Config",
    "models.transformer": "DecoderConfig",
    "parallel.mesh": "make_mesh map_over_mesh",
    "parallel.platform": "made_for",
    "search.config": "Halving Puct SearchConfig",
    "search.tree": "Tree",
    "text_generation": "Text generate",
    "tokenizer": "Tokenizer",
    "tools.job_shapes": "job_of_shapes",
    "training.captioning.baselines": "caption_advantage group_baseline",
    "training.captioning.caption_objectives": "Captions objective_weights weighted_captions_loss",
    "training.captioning.neighbours": "mine_neighbours",
    "training.captioning.regularisers": (
        "discriminator_shape grammar_shape init_regulariser regulariser regulariser_loss"
    ),
    "training.captioning.rewards": (
        "RewardPool bidirectional_reward pool_of total_reward unidirectional_reward"
    ),
    "watermark.detection": "Detection detect",
}
_HOME = {name: home for home, names in _NAMES.items() for name in names.split()}

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
