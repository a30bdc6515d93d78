"""Folders of the T5 family: configurations to a network's shape and back, the tensors' names."""

from typing import Any

from coopgen_jax.models.pretrained.assemble import Source
from coopgen_jax.models.pretrained.families import ACTIVATIONS, ENCODER_DECODERS, Settings
from coopgen_jax.models.pretrained.folder import Folder
from coopgen_jax.models.t5 import T5Config

# Positions are relative, so that no table of them ends; the networks were trained on 512 tokens.
CONTEXT = 4096
EMBEDDINGS = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
HEAD = "lm_head.weight"
KNOWN: dict[str, Any] = {"relu": "relu", **ACTIVATIONS}


def is_encoder_decoder(folder: Folder) -> bool:
    """Tells whether a folder's network is of the T5 family."""
    return folder.config.get("model_type") in ENCODER_DECODERS


def t5_config(folder: Folder, end_tokens: tuple[int, ...], dtype: str) -> T5Config:
    """Returns the shape of an encoder-decoder from its config.json; see `decoder_config`."""
    settings = Settings(folder.config, folder.label)
    feed_forward = settings.get("feed_forward_proj", "relu")
    # The gated GELU of the family is the one by tanh, however it is written.
    kind = "gelu_new" if feed_forward == "gated-gelu" else feed_forward.removeprefix("gated-")
    if kind not in KNOWN:
        names = ", ".join([*KNOWN, *(f"gated-{name}" for name in KNOWN)])
        raise settings.refuse("feed_forward_proj", feed_forward, f"the known ones are {names}")
    # T5 1.1 and its kin say that nothing is tied, which is how one knows that nothing is scaled.
    says_tied = folder.config.get("tie_word_embeddings") is not False
    scaled = settings.get("scale_decoder_outputs", says_tied and settings.get("model_type") == "t5")
    layers, heads = settings.get("num_layers"), settings.get("num_heads")
    start = (folder.json("generation_config.json") or {}).get("decoder_start_token_id")
    if start is None:
        start = settings.get("decoder_start_token_id", settings.get("pad_token_id", 0))
    return T5Config(
        vocab_size=settings.get("vocab_size"),
        layers=settings.get("num_decoder_layers", layers),
        width=settings.get("d_model"),
        heads=heads,
        kv_heads=heads,
        head_width=settings.get("d_kv"),
        ffn_width=settings.get("d_ff"),
        context=max(CONTEXT, settings.get("n_positions", CONTEXT)),
        norm="rms",
        norm_epsilon=settings.get("layer_norm_epsilon", 1e-6),
        activation=KNOWN[kind],
        gated=feed_forward.startswith("gated-"),
        positions="relative",
        tied=(says_tied and scaled) or folder.find(HEAD) is None,
        end_tokens=end_tokens,
        dtype=dtype,
        encoder_layers=layers,
        start_token=start,
        buckets=settings.get("relative_attention_num_buckets", 32),
        reach=settings.get("relative_attention_max_distance", 128),
        scaled=scaled,
    )


def t5_values(config: T5Config) -> dict[str, Any]:
    """Returns the config.json of a shape."""
    activation = next(name for name, own in KNOWN.items() if own == config.activation)
    if config.gated:
        activation = "gated-gelu" if config.activation == "gelu_tanh" else f"gated-{activation}"
    return {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        "is_encoder_decoder": True,
        "vocab_size": config.vocab_size,
        "num_layers": config.encoder_layers,
        "num_decoder_layers": config.layers,
        "d_model": config.width,
        "num_heads": config.heads,
        "d_kv": config.head_width,
        "d_ff": config.ffn_width,
        "n_positions": config.context,
        "layer_norm_epsilon": config.norm_epsilon,
        "feed_forward_proj": activation,
        "relative_attention_num_buckets": config.buckets,
        "relative_attention_max_distance": config.reach,
        "tie_word_embeddings": config.tied,
        "scale_decoder_outputs": config.scaled,
        "decoder_start_token_id": config.start_token,
        "pad_token_id": config.start_token,
    }


def t5_sources(config: T5Config, folder: Folder | None = None) -> dict[str, Source]:
    """Returns where each parameter stands in its safetensors, by its path.

    Of a folder that is read several names of one tensor are known; None is for what is written.
    """
    found = (name for name in EMBEDDINGS if folder is not None and folder.find(name))
    sources = {"embedding": Source(next(found, EMBEDDINGS[0])), "head": Source(HEAD)}
    ffn = {"gate": "wi_0", "up": "wi_1"} if config.gated else {"up": "wi"}
    ffn["down"] = "wo"
    attentions = {"SelfAttention": "", "EncDecAttention": "cross_"}
    sources |= _stack("decoder", "", attentions, ffn)
    return sources | _stack("encoder", "encoder/", {"SelfAttention": ""}, ffn)


def _stack(
    stack: str, path: str, attentions: dict[str, str], ffn: dict[str, str]
) -> dict[str, Source]:
    """Returns the sources of the encoder or the decoder, whose parameters begin with `path`."""
    block = f"{stack}.block.{{}}.layer"
    first = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    last = len(attentions)
    sources = {
        f"{path}final_norm/scale": Source(f"{stack}.final_layer_norm.weight"),
        f"{path}relative": Source(first),
        f"{path}layers/ffn_norm/scale": Source(f"{block}.{last}.layer_norm.weight"),
    }
    for place, (name, prefix) in enumerate(attentions.items()):
        front = f"{path}layers/{prefix}"
        of_norm = "cross_norm" if prefix else "attention_norm"
        sources[f"{path}layers/{of_norm}/scale"] = Source(f"{block}.{place}.layer_norm.weight")
        for part, letter in (("query", "q"), ("key", "k"), ("value", "v"), ("output", "o")):
            sources[f"{front}{part}/kernel"] = Source(f"{block}.{place}.{name}.{letter}.weight")
    for part, name in ffn.items():
        dense = f"{block}.{last}.DenseReluDense.{name}.weight"
        sources[f"{path}layers/{part}/kernel"] = Source(dense)
    return sources
