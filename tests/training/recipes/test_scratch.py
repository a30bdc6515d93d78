"""A tokenizer and a network that begin with nothing."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.cli import main
from coopgen_jax.errors import UserError
from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.pretrained.loaded_model import load
from coopgen_jax.training.recipes.scratch import ScratchConfig, fresh_model, train_tokenizer
from tests.discriminators.trees import prompt_of

TEXTS = ["the cat sat on the mat", "the dog sat on the cat", "naïve cats — sat"] * 3


def test_a_tokenizer_merges_what_is_most_often_together():
    tokenizer = train_tokenizer(TEXTS, 300)
    assert tokenizer == train_tokenizer(TEXTS, 300)
    assert tokenizer.vocab_size <= 300
    assert len(tokenizer.encode(" sat")) == 1 < len(tokenizer.encode(" dog mat"))
    for text in [*TEXTS, "\u2603 never seen"]:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.begin_tokens == tokenizer.end_tokens != ()


def test_a_vocabulary_of_bytes_alone_merges_nothing():
    tokenizer = train_tokenizer(TEXTS, 257)
    assert len(tokenizer.encode("the cat")) == 7


@pytest.mark.parametrize(
    ("texts", "vocabulary", "sentence"),
    [(TEXTS, 256, "256 tokens is too small"), ([], 300, "there are no texts")],
)
def test_a_tokenizer_that_cannot_be_is_told(texts, vocabulary, sentence):
    with pytest.raises(UserError, match=sentence):
        train_tokenizer(texts, vocabulary)


def test_a_fresh_network_finds_every_token_about_as_likely():
    tokenizer = train_tokenizer(TEXTS, 280)
    model = fresh_model(tokenizer, ScratchConfig(layers=2, width=64, context=32), seed=1)
    tokens = jnp.asarray([[tokenizer.encode("the cat")]])
    log_p = language_model(model.config).score(
        model.params, prompt_of([[0]], 1), tokens, jnp.ones(tokens.shape, bool)
    )
    np.testing.assert_allclose(log_p, -np.log(model.config.vocab_size), atol=0.3)
    again = fresh_model(tokenizer, ScratchConfig(layers=2, width=64, context=32), seed=2)
    assert model.sha256 != again.sha256


@pytest.mark.parametrize("pack", [False, True])
def test_a_model_from_scratch_writes_what_it_has_read(tmp_path, capsys, pack):
    data = tmp_path / "corpus.txt"
    data.write_text("".join(f"{text}\n" for text in TEXTS * 4))
    job = ["train", "lm", "--from-scratch", "--vocabulary", "280", "--layers", "1"]
    job += ["--width", "64", "--context", "32", "--longest", "32", "--rows", "12", "--quiet"]
    job += ["--data", str(data), "--validation", str(data), "--out", str(tmp_path / "small")]
    # A window holds several texts, so an epoch has fewer steps.
    job += ["--pack", "--epochs", "80"] if pack else ["--epochs", "20"]
    assert main([*job, "--json", "--learning-rate", "1e-2"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert (card["model"], card["trained"]) == ("from scratch", "everything")
    assert card["perplexity"] < 4
    model = load(tmp_path / "small")
    assert model.tokenizer.decode(model.tokenizer.encode(TEXTS[0])) == TEXTS[0]
    status = main([
        "generate", "the cat", "--model", str(tmp_path / "small"), "--discriminator", "none",
        "--method", "greedy", "--new-tokens", "4", "--quiet", "--json",
    ])  # fmt: skip
    written, told = capsys.readouterr()
    assert status == 0, told
    assert json.loads(written)["texts"][0]["text"].startswith(" sat on the")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--vocabulary", "300"], "--vocabulary shapes a new network: give --from-scratch with it"),
        (["--from-scratch", "--rank", "4"], "--rank adds to a trained network"),
        (["--from-scratch", "--width", "65", "--vocabulary", "300"], "width is 65: give a multipl"),
        (["--from-scratch", "--vocabulary", "9"], "a vocabulary of 9 tokens is too small"),
        (["--from-scratch", "--layers", "0"], "a network of 0 layers"),
    ],
)
def test_mistakes_are_told(tmp_path, capsys, arguments, sentence):
    data = tmp_path / "corpus.txt"
    data.write_text("a b c\n")
    job = ["train", "lm", "--data", str(data), "--validation", str(data)]
    assert main([*job, "--out", str(tmp_path / "x"), *arguments]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
