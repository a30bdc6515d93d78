"""Language models of random weights, and byte-level tokenizers trained on texts."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import jax
import tokenizers

from coopgen_jax.errors import UserError
from coopgen_jax.models.pretrained.loaded_model import LoadedModel, resolve_dtype
from coopgen_jax.models.transformer import DecoderConfig, init_decoder
from coopgen_jax.tokenizer import Tokenizer

END = "<|endoftext|>"
# Every byte has a token of its own, and the end has one.
SMALLEST = 257


@dataclass(frozen=True)
class ScratchConfig:
    """The shape of a new network of the Llama family.

    Attributes:
      layers: how many.
      width: of the stream, a multiple of 64.
      context: longest text, in tokens.
    """

    layers: int = 6
    width: int = 256
    context: int = 512

    def __post_init__(self) -> None:
        if self.layers < 1 or self.context < 2:
            raise UserError(
                f"a network of {self.layers} layers for texts of {self.context} tokens: give 1 "
                "layer and 2 tokens or more"
            )
        if self.width < 64 or self.width % 64:
            raise UserError(f"the network's width is {self.width}: give a multiple of 64")


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> Tokenizer:
    """Returns a byte-level tokenizer whose pairs were merged as texts have them most often.

    Byte-pair encoding (Sennrich et al. 2016, arXiv 1508.07909), as the `tokenizers` package does
    it. One token begins and ends a text. The same texts give the same tokenizer.

    Args:
      texts: what it is trained on.
      vocabulary: tokens that it has at most, 257 or more.

    Raises:
      UserError: it is smaller, or there are no texts.
    """
    if vocabulary < SMALLEST:
        raise UserError(
            f"a vocabulary of {vocabulary} tokens is too small: every byte and the end of a text "
            f"have one, so give {SMALLEST} or more"
        )
    if not texts:
        raise UserError("there are no texts to learn a tokenizer from")
    core = tokenizers.Tokenizer(tokenizers.models.BPE())
    core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    ends = [number for number in [core.token_to_id(END)] if number is not None]
    return Tokenizer(core, begin_tokens=ends, end_tokens=ends)


def fresh_model(
    tokenizer: Tokenizer, config: ScratchConfig, *, seed: int = 0, dtype: str = "float32"
) -> LoadedModel:
    """Returns a network of random weights over a tokenizer; `dtype` is as `load` takes it."""
    shape = DecoderConfig(
        vocab_size=tokenizer.vocab_size,
        layers=config.layers,
        width=config.width,
        heads=config.width // 64,
        kv_heads=config.width // 64,
        head_width=64,
        # A gated layer of 8/3 of the width has as many weights as a plain one of four times it.
        ffn_width=-(-8 * config.width // 3 // 64) * 64,
        context=config.context,
        norm="rms",
        norm_epsilon=1e-5,
        activation="silu",
        gated=True,
        positions="rotary",
        end_tokens=tokenizer.end_tokens,
        dtype=resolve_dtype(dtype),
    )
    identity = json.dumps([tokenizer.identity, asdict(shape), seed])
    return LoadedModel(
        shape,
        init_decoder(jax.random.key(seed), shape),
        tokenizer,
        "from scratch",
        hashlib.sha256(identity.encode()).hexdigest(),
        None,
    )
