"""Encoders that classify: configurations to a network's shape, and the names of its tensors."""

from dataclasses import replace

from coopgen_jax.models.deberta import TERMS, DebertaConfig
from coopgen_jax.models.encoder import ACTIVATIONS, EncoderConfig
from coopgen_jax.models.modernbert import ModernBertConfig
from coopgen_jax.models.pretrained.assemble import Source
from coopgen_jax.models.pretrained.families import (
    Settings,
    bert_config,
    encoder_sources,
    sources_of,
)


def roberta_config(settings: Settings, dtype: str) -> EncoderConfig:
    """Returns the shape of a RoBERTa or an XLM-RoBERTa; see `families.decoder_config`."""
    # Positions are counted from behind the number of the padding token.
    return bert_config(settings, dtype, offset=settings.get("pad_token_id", 1) + 1)


def distilbert_config(settings: Settings, dtype: str) -> EncoderConfig:
    """Returns the shape of a DistilBERT."""
    return EncoderConfig(
        vocab_size=settings.get("vocab_size"),
        layers=settings.get("n_layers"),
        width=settings.get("dim"),
        heads=settings.get("n_heads"),
        ffn_width=settings.get("hidden_dim"),
        context=settings.get("max_position_embeddings"),
        activation=settings.choose("activation", "gelu", ACTIVATIONS),
        token_types=0,
        dtype=dtype,
    )


def distilbert_sources() -> dict[str, Source]:
    """Returns where each parameter of a DistilBERT stands in its safetensors, by its path."""
    layer = "distilbert.transformer.layer.{}"
    tables = {
        f"embedding/{part}": Source(f"distilbert.embeddings.{part}_embeddings.weight")
        for part in ("word", "position")
    }
    norms = {
        "embedding_norm": "distilbert.embeddings.LayerNorm",
        "layers/attention_norm": f"{layer}.sa_layer_norm",
        "layers/ffn_norm": f"{layer}.output_layer_norm",
    }
    kernels = {
        "layers/query": f"{layer}.attention.q_lin",
        "layers/key": f"{layer}.attention.k_lin",
        "layers/value": f"{layer}.attention.v_lin",
        "layers/output": f"{layer}.attention.out_lin",
        "layers/up": f"{layer}.ffn.lin1",
        "layers/down": f"{layer}.ffn.lin2",
    }
    return tables | sources_of(norms, "scale") | sources_of(kernels, transposed=True)


def deberta_config(settings: Settings, dtype: str) -> DebertaConfig:
    """Returns the shape of a DeBERTa of version 2 or 3."""
    if settings.get("conv_kernel_size", 0) > 0:
        raise settings.refuse(
            "conv_kernel_size", settings.get("conv_kernel_size"), "only 0, no convolution, is"
        )
    context, width = settings.get("max_position_embeddings"), settings.get("hidden_size")
    relative = settings.get("relative_attention", False)
    reach, buckets = (
        settings.get(key, -1) for key in ("max_relative_positions", "position_buckets")
    )
    terms = settings.get("pos_att_type", [])
    terms = terms.lower().split("|") if isinstance(terms, str) else terms
    terms = [term.strip() for term in terms]
    if not set(terms) <= set(TERMS):
        raise settings.refuse("pos_att_type", terms, f"the known ones are {', '.join(TERMS)}")
    return DebertaConfig(
        vocab_size=settings.get("vocab_size"),
        layers=settings.get("num_hidden_layers"),
        width=width,
        heads=settings.get("num_attention_heads"),
        ffn_width=settings.get("intermediate_size"),
        embedding_width=settings.get("embedding_size", width),
        context=context,
        norm_epsilon=settings.get("layer_norm_eps", 1e-7),
        activation=settings.choose("hidden_act", "gelu", ACTIVATIONS),
        token_types=settings.get("type_vocab_size", 0),
        absolute=settings.get("position_biased_input", True),
        reach=(reach if reach > 0 else context) if relative else 0,
        buckets=max(buckets, 0),
        terms=tuple(term for term in TERMS if term in terms),
        shared=settings.get("share_att_key", False),
        relative_norm="layer_norm" in settings.get("norm_rel_ebd", "none").lower(),
        dtype=dtype,
    )


def deberta_sources() -> dict[str, Source]:
    """Returns where each parameter of a DeBERTa stands in its safetensors, by its path."""
    sources = encoder_sources("deberta")
    attention = "deberta.encoder.layer.{}.attention.self"
    parts = ("query", "key", "value")
    kernels = {f"layers/{part}": f"{attention}.{part}_proj" for part in parts}
    kernels |= {f"layers/position_{part}": f"{attention}.pos_{part}_proj" for part in parts[:2]}
    sources |= sources_of(kernels, transposed=True)
    sources |= sources_of({"relative_norm": "deberta.encoder.LayerNorm"}, "scale")
    sources["relative"] = Source("deberta.encoder.rel_embeddings.weight")
    sources["projection/kernel"] = Source("deberta.embeddings.embed_proj.weight", transposed=True)
    return sources


def modernbert_config(settings: Settings, dtype: str) -> ModernBertConfig:
    """Returns the shape of a ModernBERT."""
    thetas = {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"}
    kinds = settings.get("layer_types", [])
    if not kinds:
        every = settings.get("global_attn_every_n_layers", 3)
        numbers = range(settings.get("num_hidden_layers"))
        kinds = ["sliding_attention" if number % every else "full_attention" for number in numbers]
    if len(kinds) != settings.get("num_hidden_layers") or not set(kinds) <= set(thetas):
        raise settings.refuse("layer_types", kinds, f"every layer is one of {', '.join(thetas)}")
    rotary = {kind: settings.get("rope_parameters", {}).get(kind) or {} for kind in thetas}
    for found in (settings.get("rope_scaling", {}), *rotary.values()):
        rope = found.get("rope_type") or found.get("type") or "default"
        if rope != "default":
            raise settings.refuse("rope_type", rope, "the known one is default")
    defaults = (160_000.0, 10_000.0)
    bases = [
        float(rotary[kind].get("rope_theta") or settings.get(key, default))
        for (kind, key), default in zip(thetas.items(), defaults, strict=True)
    ]
    return ModernBertConfig(
        vocab_size=settings.get("vocab_size"),
        width=settings.get("hidden_size"),
        heads=settings.get("num_attention_heads"),
        ffn_width=settings.get("intermediate_size"),
        local=tuple(kind == "sliding_attention" for kind in kinds),
        window=settings.get("local_attention", 128) // 2,
        global_theta=bases[0],
        local_theta=bases[1],
        context=settings.get("max_position_embeddings"),
        norm_epsilon=settings.get("norm_eps", 1e-5),
        activation=settings.choose("hidden_activation", "gelu", ACTIVATIONS),
        norm_bias=settings.get("norm_bias", False),
        attention_bias=settings.get("attention_bias", False),
        ffn_bias=settings.get("mlp_bias", False),
        dtype=dtype,
    )


def modernbert_sources() -> dict[str, Source]:
    """Returns where each parameter of a ModernBERT stands in its safetensors, by its path."""
    norms = {"embedding_norm": "model.embeddings.norm", "final_norm": "model.final_norm"}
    sources = sources_of(norms, "scale")
    sources["embedding"] = Source("model.embeddings.tok_embeddings.weight")
    layer = "model.layers.{}"
    of_layer = sources_of(
        {"attention_norm": f"{layer}.attn_norm", "ffn_norm": f"{layer}.mlp_norm"}, "scale"
    )
    kernels = {
        "qkv": f"{layer}.attn.Wqkv",
        "output": f"{layer}.attn.Wo",
        "up": f"{layer}.mlp.Wi",
        "down": f"{layer}.mlp.Wo",
    }
    of_layer |= sources_of(kernels, transposed=True)
    # The layers behind the first one are stacked.
    sources |= {f"layers/{path}": replace(one, first=1) for path, one in of_layer.items()}
    first = {path: replace(one, name=one.name.format(0)) for path, one in of_layer.items()}
    return sources | {f"first/{path}": source for path, source in first.items()}
