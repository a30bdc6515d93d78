"""Ids that the network or the tokenizer of a model lacks are told when it is loaded."""

import json
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import tokenizers

from coopgen_jax.errors import UserError
from coopgen_jax.models.pretrained.gguf.gguf_tokenizer import gguf_tokenizer
from coopgen_jax.models.pretrained.loaded_model import load
from coopgen_jax.models.prompt import make_prompt
from tests.models.model_files import BYTES, VOCABULARY, edit, hf_model, save


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(hf_model("llama"), tmp_path / "llama")


def add_tokens(folder: Path, *names: str) -> None:
    """Adds tokens behind all that the network has."""
    path = folder / "tokenizer.json"
    core = tokenizers.Tokenizer.from_file(str(path))
    core.add_tokens([f"filler {number}" for number in range(VOCABULARY - core.get_vocab_size())])
    core.add_special_tokens(list(names))
    core.save(str(path))


def test_a_pad_token_that_was_added_without_resizing_is_told_and_refused(folder):
    add_tokens(folder, "<pad>")
    with pytest.warns(UserWarning, match=r"300 tokens, .* 1 beyond them, such as '<pad>' \(300"):
        model = load(folder)
    assert make_prompt(model.tokenizer, ["fine"]).mask.sum() == 4
    with pytest.raises(UserError, match=r"text 2 holds the token '<pad>' \(id 300\)"):
        make_prompt(model.tokenizer, ["fine", "not <pad>"])


def test_an_end_beyond_the_vocabulary_is_an_error(folder):
    edit(folder, eos_token_id=[256, 300])
    with pytest.raises(UserError, match=r"300 tokens in its network, and the token that ends a te"):
        load(folder)
    edit(folder, eos_token_id=256)
    add_tokens(folder, "<go>")
    settings = json.dumps({"eos_token": "<go>"})
    (folder / "tokenizer_config.json").write_text(settings)
    with pytest.raises(UserError, match=r"the token that ends a text is 300 \('<go>'\)"):
        load(folder)


def test_a_beginning_beyond_the_vocabulary_is_an_error(folder):
    add_tokens(folder, "<go>")
    core = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    core.post_processor = tokenizers.processors.TemplateProcessing(
        single="<go> $A", special_tokens=[("<go>", 300)]
    )
    core.save(str(folder / "tokenizer.json"))
    with pytest.raises(UserError, match=r"the token that begins a text is 300 \('<go>'\)"):
        load(folder)


def test_an_end_that_is_known_by_name_alone_and_cannot_be_written_is_none(folder):
    add_tokens(folder, "<|im_end|>")
    with pytest.warns(UserWarning, match="1 beyond them"):
        model = load(folder)
    assert model.tokenizer.end_tokens == model.config.end_tokens == (256,)


def test_an_end_that_the_tokenizer_lacks_is_told(folder):
    edit(folder, eos_token_id=290)
    with pytest.warns(UserWarning, match="ends a text is 290, which its tokenizer lacks"):
        model = load(folder)
    assert model.config.end_tokens == (256, 290)


def test_a_sound_model_is_told_nothing(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(folder).tokenizer.limit is None


def test_the_templates_tokens_are_those_of_the_files(folder):
    template = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"
    settings = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    # The tokenizer adds neither of them to texts.
    tokenizer = load(folder).tokenizer
    assert tokenizer.begin_tokens == () and tokenizer.chat("Hi") == "<s>Hi</s>"
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    edit(folder, bos_token_id=256)
    assert load(folder).tokenizer.chat("Hi") == "<|endoftext|>Hi<|endoftext|>"


@pytest.mark.parametrize("added", [False, True])
def test_the_templates_tokens_are_those_of_a_gguf_file(added):
    data = {"model": "gpt2", "pre": "smollm", "tokens": [*BYTES, "<eot>", "<bos>"], "merges": []}
    data |= {"token_type": [1] * len(BYTES) + [3, 3], "bos_token_id": 257, "eos_token_id": 256}
    data["add_bos_token"] = added
    metadata = {f"tokenizer.ggml.{name}": value for name, value in data.items()}
    metadata["tokenizer.chat_template"] = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"
    tokenizer = gguf_tokenizer(SimpleNamespace(label="m.gguf", metadata=metadata))
    assert tokenizer.begin_tokens == (257,) * added
    assert tokenizer.chat("Hi") == "<bos>Hi<eot>"
    prompt = make_prompt(tokenizer, [tokenizer.chat_ids("Hi"), "<bos>Hi"])
    assert prompt.mask.sum(axis=1).tolist() == [4, 3]
