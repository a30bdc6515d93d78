"""An encoder small enough to be read by hand."""

from types import SimpleNamespace

import jax
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from coopgen_jax.models.encoder import EncoderConfig, init_encoder
from coopgen_jax.tokenizer import Tokenizer


def make_encoder() -> SimpleNamespace:
    """A BERT of one layer over the words a, b and c."""
    vocabulary = {word: n for n, word in enumerate(["[UNK]", "[CLS]", "[SEP]", "a", "b", "c"])}
    core = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    config = EncoderConfig(vocab_size=6, layers=1, width=8, heads=2, ffn_width=8, context=32)
    params = init_encoder(jax.random.key(0), config)
    params["embedding"]["word"] *= 50
    return SimpleNamespace(config=config, params=params, tokenizer=Tokenizer(core), sha256="x")
