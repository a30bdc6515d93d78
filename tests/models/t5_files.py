"""Tiny random networks of the T5 family, as the tests write them to disc."""

from pathlib import Path

import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers, processors

from tests.models.model_files import edit

VOCABULARY = 64
WORDS = ("<pad>", "</s>", "<unk>", "▁", "▁the", "▁a", "▁cat", "▁sat", "ing", "▁on", "▁mat", "▁and")
KINDS = {
    "t5": {},
    "flan": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
}


def piece_tokenizer() -> tokenizers.Tokenizer:
    """Sentence pieces as T5 has them: a text's end token is the template's."""
    letters = [chr(number) for number in range(ord("a"), ord("z") + 1)]
    pieces = [*((word, -1.0) for word in WORDS), *((letter, -5.0) for letter in letters)]
    core = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=2))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    core.add_special_tokens(["<pad>", "</s>", "<unk>"])
    core.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return core


def save_t5(folder: Path, kind: str = "t5", *, family: str = "t5") -> Path:
    """Writes a network with a decoder deeper than its encoder, whose positions reach 20."""
    torch.manual_seed(0)
    make_config, make_model = {
        "t5": (transformers.T5Config, transformers.T5ForConditionalGeneration),
        "mt5": (transformers.MT5Config, transformers.MT5ForConditionalGeneration),
    }[family]
    config = make_config(
        vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_decoder_layers=3,
        num_heads=4, relative_attention_num_buckets=8, relative_attention_max_distance=20,
        decoder_start_token_id=0, **KINDS[kind],
    )  # fmt: skip
    model = make_model(config)
    untied = kind != "t5"
    if untied:
        model.lm_head.weight = torch.nn.Parameter(torch.zeros(VOCABULARY, 32))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0, 1.0 if "relative" in name or "norm" in name else 0.25)
    model.save_pretrained(folder)
    # As the folders of the hub say it.
    edit(folder, tie_word_embeddings=not untied, scale_decoder_outputs="DROP")
    piece_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def reference_of(folder: Path) -> transformers.PreTrainedModel:
    return transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
