"""A tokenizer whose tokens are bytes."""

import tokenizers

from coopgen_jax.tokenizer import Tokenizer

BYTES = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())


def make_tokenizer(**options: object) -> Tokenizer:
    """One id per byte, then the end of text (256) and the beginning (257)."""
    core = tokenizers.Tokenizer(tokenizers.models.BPE({b: i for i, b in enumerate(BYTES)}, []))
    core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = tokenizers.decoders.ByteLevel()
    core.add_special_tokens(["<|endoftext|>", "<s>"])
    core.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 257)]
    )
    return Tokenizer(core, **options)
