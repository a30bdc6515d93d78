"""Heads written to a folder and loaded again."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from tokenizers import models, processors

from coopgen_jax.discriminators import loading as heads
from coopgen_jax.discriminators.head import Head, HeadConfig, classify
from coopgen_jax.errors import UserError
from coopgen_jax.models.encoder import EncoderConfig
from coopgen_jax.tokenizer import Tokenizer
from coopgen_jax.training.card import save_head

CARD = {
    "kind": "bidirectional",
    "encoder": "tiny",
    "encoder_sha256": "abc",
    "width": 12,
    "classes": ["no", "yes"],
    "hidden": [4],
    "reads_prompt": False,
}


def tokenizer():
    core = tokenizers.Tokenizer(models.WordLevel({"[CLS]": 0, "[SEP]": 1, "a": 2}, unk_token="a"))
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    return Tokenizer(core)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    config = EncoderConfig(vocab_size=3, layers=1, width=6, heads=2, ffn_width=8)
    monkeypatch.setattr(
        heads,
        "load_encoder",
        lambda name: SimpleNamespace(
            config=config, params={"name": name}, tokenizer=tokenizer(), sha256="abc"
        ),
    )
    shape = HeadConfig(("no", "yes"), inputs=6, hidden=(4,))
    params = Head(shape).init(jax.random.key(0), jnp.zeros((1, 6)))["params"]
    save_head(tmp_path / "mine", jax.tree.map(np.asarray, params), CARD)
    return tmp_path / "mine", params


def load(folder):
    return heads.load_discriminator(folder, language_model=SimpleNamespace(tokenizer=tokenizer()))


def test_what_was_written_comes_back(folder):
    path, params = folder
    loaded = load(path)
    assert loaded.card == CARD
    assert loaded.discriminator.classes == ("no", "yes")
    assert not loaded.discriminator.reads_prompt
    assert loaded.calls[0].width == CARD["width"]
    assert loaded.params["encoder"] == {"name": "tiny"}
    assert jax.tree.structure(loaded.params["head"]) == jax.tree.structure(params)
    for kept, original in zip(
        jax.tree.leaves(loaded.params["head"]), jax.tree.leaves(params), strict=True
    ):
        assert kept.dtype == jnp.float32
        np.testing.assert_allclose(kept, original, atol=1e-3)


def test_two_loads_are_equal(folder):
    path, _ = folder
    first, second = load(path), load(path)
    assert first.discriminator == second.discriminator
    assert hash(first.discriminator) == hash(second.discriminator)


def test_another_encoder_is_warned_of(folder):
    path, _ = folder
    (path / "card.json").write_text(json.dumps({**CARD, "encoder_sha256": "other"}))
    with pytest.warns(UserWarning, match="trained on another copy of the encoder tiny"):
        load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "odd"}, "head of kind 'odd': known are bidirectional"),
        ({"hidden": None}, "lack 'hidden'"),
        ({"hidden": [7]}, r"hidden_0.* has the shape .* the card asks for"),
        ({"hidden": [4, 4]}, "lack 'hidden_1"),
        ({"hidden": 3}, "card is damaged"),
        ({"classes": ["a", "b", "c"]}, r"output.* has the shape"),
        ({"width": "wide"}, "card is damaged"),
    ],
)
def test_bad_cards_are_named(folder, change, message):
    path, _ = folder
    card = {key: value for key, value in {**CARD, **change}.items() if value is not None}
    (path / "card.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match=message):
        load(path)


def test_a_card_that_is_a_list_is_named(folder):
    path, _ = folder
    (path / "card.json").write_text("[]")
    with pytest.raises(UserError, match="head of kind None"):
        load(path)


def test_weights_that_are_not_finite_are_named(folder):
    path, params = folder
    kernel = np.full(params["output"]["kernel"].shape, np.nan, np.float32)
    broken = jax.tree.map(np.asarray, params) | {"output": {**params["output"], "kernel": kernel}}
    save_head(path, jax.tree.map(np.asarray, broken), CARD)
    with pytest.raises(UserError, match=r"output.kernel holds values that are not finite"):
        load(path)


def test_damaged_and_missing_heads_are_named(folder, tmp_path):
    path, _ = folder
    (path / "head.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match="mine holds no readable head"):
        load(path)
    with pytest.raises(UserError, match="neither a folder with a card"):
        load(tmp_path / "none")


def test_a_temperature_divides_what_is_said(folder):
    path, _ = folder
    plain = load(path)
    (path / "card.json").write_text(json.dumps(CARD | {"temperature": 2.5}))
    cooled = load(path)
    x = 3 * jax.random.normal(jax.random.key(1), (4, 6))
    shape = HeadConfig(("no", "yes"), inputs=6, hidden=(4,))
    before, after = (classify(shape, one.params["head"], x) for one in (plain, cooled))
    np.testing.assert_allclose(after, jax.nn.log_softmax(before / 2.5), atol=1e-5)
    assert np.abs(after - before).max() > 0.01


def test_a_generative_discriminators_temperature_is_that_of_its_posterior():
    weights = {"log_prior": jnp.log(jnp.asarray([0.2, 0.8])), "scale": jnp.float32(1.5)}
    cooled = heads._tempered(weights, 2.0)
    logits = weights["log_prior"] + weights["scale"] * jnp.asarray([-3.0, -4.0])
    halved = cooled["log_prior"] + cooled["scale"] * jnp.asarray([-3.0, -4.0])
    np.testing.assert_allclose(jax.nn.log_softmax(halved), jax.nn.log_softmax(logits / 2))


@pytest.mark.parametrize("temperature", [0, -1, "warm"])
def test_a_temperature_that_is_none_is_told(folder, temperature):
    path, _ = folder
    (path / "card.json").write_text(json.dumps(CARD | {"temperature": temperature}))
    with pytest.raises(UserError, match="card is damaged"):
        load(path)
