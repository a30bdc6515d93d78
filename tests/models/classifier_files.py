"""Tiny random sequence classifiers, saved by transformers beside a tokenizer of bytes."""

from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers

from tests.models.model_files import byte_tokenizer

VOCABULARY, PAD, BEGIN, END = 300, 257, 258, 259
ENCODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
}
DECODER = ENCODER | {"num_key_value_heads": 1, "head_dim": 8}
POSITIONS = {
    "relative_attention": True,
    "pos_att_type": ["c2p", "p2c"],
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "position_biased_input": False,
    "max_relative_positions": -1,
}
# Name of a case: the family's first name in transformers, and its options.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", ENCODER),
    "roberta": ("Roberta", ENCODER | {"type_vocab_size": 1, "pad_token_id": 1}),
    "xlm-roberta": ("XLMRoberta", ENCODER | {"type_vocab_size": 1, "pad_token_id": 1}),
    "distilbert": (
        "DistilBert",
        {
            "vocab_size": VOCABULARY,
            "dim": 16,
            "n_layers": 3,
            "n_heads": 2,
            "hidden_dim": 24,
            "max_position_embeddings": 64,
        },
    ),
    "deberta-v3": ("DebertaV2", ENCODER | POSITIONS),
    "deberta-v2": (
        "DebertaV2",
        ENCODER
        | POSITIONS
        | {
            "share_att_key": False,
            "norm_rel_ebd": "none",
            "position_buckets": -1,
            "position_biased_input": True,
            "type_vocab_size": 2,
            "embedding_size": 12,
            "pos_att_type": "p2c|c2p",
            "max_relative_positions": 6,
        },
    ),
    "modernbert": (
        "ModernBert",
        ENCODER | {"local_attention": 8, "pad_token_id": PAD, "eos_token_id": END,
                   "bos_token_id": BEGIN, "cls_token_id": BEGIN, "sep_token_id": END},
    ),
    "modernbert-mean": (
        "ModernBert",
        ENCODER | {"local_attention": 8, "pad_token_id": PAD, "eos_token_id": END,
                   "bos_token_id": BEGIN, "cls_token_id": BEGIN, "sep_token_id": END,
                   "classifier_pooling": "mean", "classifier_bias": True, "norm_bias": True,
                   "attention_bias": True, "mlp_bias": True, "global_attn_every_n_layers": 2},
    ),
    "gpt2": (
        "GPT2",
        {"vocab_size": VOCABULARY, "n_positions": 64, "n_embd": 16, "n_layer": 2, "n_head": 2,
         "bos_token_id": 256, "eos_token_id": 256, "pad_token_id": PAD},
    ),
    **{
        name.lower(): (name, DECODER | {"pad_token_id": PAD, "bos_token_id": BEGIN,
                                        "eos_token_id": END})
        for name in ("Llama", "Mistral", "Qwen2")
    },
}  # fmt: skip
# What stands around a text.
TEMPLATES = {
    "gpt2": "$A",
    "qwen2": "$A",
    "llama": "<begin> $A",
    "mistral": "<begin> $A",
}


def hf_classifier(case: str, seed: int = 0, **options: Any) -> transformers.PreTrainedModel:
    name, own = CASES[case]
    config = getattr(transformers, f"{name}Config")(**(own | {"num_labels": 3} | options))
    torch.manual_seed(seed)
    model = getattr(transformers, f"{name}ForSequenceClassification")(config).eval()
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            # Far from what is drawn by itself, so that a wrong scale, norm or mask shows.
            parameter.normal_(1.0 if "norm" in path.lower() and "weight" in path else 0.0, 0.3)
    return model


def classifier_tokenizer(case: str) -> tokenizers.Tokenizer:
    core = byte_tokenizer()
    core.add_special_tokens(["<pad>", "<begin>", "<end>"])
    template = TEMPLATES.get(case, "<begin> $A <end>")
    special = [("<begin>", BEGIN), ("<end>", END)]
    core.post_processor = tokenizers.processors.TemplateProcessing(
        single=template, special_tokens=[pair for pair in special if pair[0] in template]
    )
    return core


def save_classifier(
    case: str, folder: Path, **options: Any
) -> tuple[Path, transformers.PreTrainedModel]:
    model = hf_classifier(case, **options)
    model.save_pretrained(folder)
    classifier_tokenizer(case).save(str(folder / "tokenizer.json"))
    return folder, model


def expected_scores(model: transformers.PreTrainedModel, rows: list[list[int]]) -> Any:
    """What transformers says of rows of tokens, padded behind the last."""
    pad = model.config.pad_token_id
    longest = max(map(len, rows))
    tokens = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    with torch.no_grad():
        return model(input_ids=tokens, attention_mask=mask).logits.numpy()
