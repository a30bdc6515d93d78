"""Tiny random networks of SmolVLM's and Idefics3's kind, saved by transformers with a tokenizer."""

from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers

from tests.models.model_files import byte_tokenizer

SPECIAL = ("<begin>", "<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
END, BEGIN, IMAGE = 256, 257, 258
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] | capitalize }}:{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
TEXT = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": BEGIN,
    "eos_token_id": END,
    "pad_token_id": END,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 26,  # of which six rows of patches are read, and two pixels left out
    "patch_size": 4,
}
# Name of a case: the family's name in transformers, and its options.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "smolvlm": ("SmolVLM", {"scale_factor": 3}),
    "idefics3": ("Idefics3", {"scale_factor": 2, "tie_word_embeddings": True}),
}


def vlm_tokenizer(*, begins: bool) -> tokenizers.Tokenizer:
    core = byte_tokenizer()
    core.add_special_tokens(list(SPECIAL))
    if begins:
        core.post_processor = tokenizers.processors.TemplateProcessing(
            single="<begin> $A", special_tokens=[("<begin>", BEGIN)]
        )
    return core


def save_vlm(case: str, folder: Path) -> tuple[Path, transformers.PreTrainedModel]:
    """Saves a case; a tokenizer that begins texts with a token goes with Idefics3."""
    family, options = CASES[case]
    config = getattr(transformers, f"{family}Config")(
        text_config=TEXT, vision_config=VISION, image_token_id=IMAGE, **options
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForConditionalGeneration")(config).eval()
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            norm = "norm" in path.lower() and "weight" in path
            parameter.normal_(1.0 if norm else 0.0, 0.3)
    model.save_pretrained(folder)
    vlm_tokenizer(begins=family == "Idefics3").save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder, model


def save_picture_settings(folder: Path, size: int = 26, longest: int = 61) -> Any:
    """Saves how pictures are prepared, and returns what prepares them in transformers."""
    processor = transformers.Idefics3ImageProcessorPil(
        size={"longest_edge": longest}, max_image_size={"longest_edge": size}
    )
    processor.save_pretrained(folder)
    return processor
