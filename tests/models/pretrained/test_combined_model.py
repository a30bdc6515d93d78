"""Loaded models combined: what each reads, and texts that equal those of one model."""

import functools
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.discriminators.head import Head, HeadConfig
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.discriminators.shared_trunk import SharedTrunkConfig, shared_trunk
from coopgen_jax.errors import UserError
from coopgen_jax.models.pretrained.combined_model import CombinedModel, Part, combined
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.models.transformer import init_decoder
from coopgen_jax.testing import TINY_GPT2, TINY_LLAMA, ToyLanguage, toy_discriminator
from coopgen_jax.text_generation import generate
from coopgen_jax.tokenizer import Tokenizer
from tests.models.model_files import byte_tokenizer

GREEDY = SamplingConfig(new_tokens=4, rules=Rules(temperature=0.0))
BEGIN = 256


@cache
def model(seed: int = 0, begin: bool = False, family: str = "llama") -> LoadedModel:
    shape = TINY_LLAMA if family == "llama" else TINY_GPT2
    config = replace(shape, vocab_size=300, context=64, end_tokens=(256,))
    params = jax.tree.map(lambda leaf: 3 * leaf, init_decoder(jax.random.key(seed), config))
    tokenizer = Tokenizer(byte_tokenizer(), begin_tokens=[BEGIN] if begin else [])
    return LoadedModel(config, params, tokenizer, f"tiny {seed}", f"{seed}" * 64, None)


def written(model: LoadedModel, *prompts: str) -> list[list[int]]:
    return [text.tokens for text in generate(model, prompts, config=GREEDY)]


@pytest.mark.parametrize("begin", [False, True])
def test_a_control_code_is_read_and_not_told(begin):
    base = model(begin=begin)
    coded = combined(base, control_code="x\n")
    texts = generate(coded, ["this", "a longer one of them"], config=GREEDY)
    assert [text.prompt for text in texts] == ["this", "a longer one of them"]
    expected = written(base, "x\nthis", "x\na longer one of them")
    assert [text.tokens for text in texts] == expected
    assert expected != written(base, "this", "a longer one of them")


@pytest.mark.parametrize("begin", [False, True])
def test_guidance_goes_from_the_negative_prompt_to_the_prompt_and_on(begin):
    base = model(begin=begin)
    guided = {
        gamma: written(combined(base, negative_prompt="no", guidance=gamma), "this", "one")
        for gamma in (0.0, 1.0, 3.0)
    }
    assert guided[0.0] == written(base, "no") * 2
    assert guided[1.0] == written(base, "this", "one")
    assert guided[3.0] not in (guided[0.0], guided[1.0])


def test_experts_are_added_and_equal_ones_leave_the_base():
    base, expert, anti = model(0), model(1), model(2, family="gpt2")
    plain = written(base, "this")
    assert written(combined(base, expert=expert, anti_expert=expert), "this") == plain
    assert written(combined(base, expert=expert), "this") == written(expert, "this") != plain
    assert written(combined(base, expert=expert, anti_expert=anti), "this") != plain


def test_the_parts_of_every_formula():
    base, expert, anti = model(0), model(1), model(2)
    both = combined(base, expert=expert, anti_expert=anti, expert_weight=2.0)
    assert both.parts == (Part(0, 1.0), Part(1, 2.0), Part(2, -2.0))
    assert combined(base, anti_expert=anti).parts == (Part(0, 2.0), Part(1, -1.0))
    assert combined(base, expert=anti, expert_weight=0.25).parts == (Part(0, 0.75), Part(1, 0.25))
    again = combined(base, expert=expert, anti_expert=base)
    assert again.networks == (base, expert) and again.parts[2] == Part(0, -1.0)
    begin = model(begin=True)
    whole = combined(begin, anti_expert=anti, negative_prompt="n", guidance=2.0, control_code="x")
    code, negative = begin.tokenizer.encode("x"), begin.tokenizer.encode("n")
    assert whole.parts == (
        Part(0, 3.0, tuple(code), 1),
        Part(0, -1.0, (BEGIN, *negative), reads_prompt=False),
        Part(1, -1.0),
    )
    assert (whole.name, whole.config, whole.sha256) == (begin.name, begin.config, begin.sha256)
    assert isinstance(whole, CombinedModel) and whole.params is begin.params
    # A token that begins a text is a negative prompt that says nothing.
    assert combined(begin, negative_prompt="").parts[1].prefix == (BEGIN,)


def test_discriminators_read_the_code_in_the_models_states_alone():
    base = model()
    coded = combined(base, control_code="x\n")
    toy = ToyLanguage(vocab_size=300)
    scores = toy.tables(0)["scores"]
    judge = LoadedDiscriminator(toy_discriminator(toy), {"scores": jnp.asarray(scores)})
    (text,) = generate(coded, ["this"], config=GREEDY, discriminator=judge)
    memory = functools.reduce(toy.read, [*base.tokenizer.encode("this"), *text.tokens], 0)
    odds = np.exp(scores[memory])
    assert text.class_probabilities["one"] == pytest.approx(odds[1] / odds.sum(), rel=1e-5)
    # A head on the model's states judges what the model has read.
    head = HeadConfig(("bad", "good"), 2 * 2 * TINY_LLAMA.width, (8,))
    params = Head(head).init(jax.random.key(1), jnp.zeros((1, head.inputs)))["params"]
    trunk = LoadedDiscriminator(shared_trunk(SharedTrunkConfig((1, 3), False, head)), params)
    given = {"config": GREEDY, "discriminator": trunk}
    (text,) = generate(coded, ["this"], **given)
    (joined,) = generate(base, ["x\nthis"], **given)
    assert text.tokens == joined.tokens
    assert text.class_probabilities["good"] == pytest.approx(
        joined.class_probabilities["good"], abs=1e-5
    )


def test_the_context_is_what_the_prefixes_leave():
    coded = combined(model(), control_code="x" * 10)
    assert len(written(coded, "y" * 50)[0]) <= 4
    with pytest.raises(UserError, match="more than the 54 that the model reads"):
        written(coded, "y" * 51)
    refused = combined(model(), negative_prompt="x" * 20)
    with pytest.raises(UserError, match="more than the 44 that the model reads"):
        written(refused, "y" * 41)


def test_what_cannot_be_combined_is_told():
    base = model()
    with pytest.raises(UserError, match="give an expert, an anti-expert, a negative prompt or a"):
        combined(base)
    words = byte_tokenizer()
    words.add_tokens(["more"])
    with pytest.raises(UserError, match="tiny 1 has other tokens than tiny 0"):
        combined(base, expert=replace(model(1), tokenizer=Tokenizer(words)))
    padded = replace(model(1), config=replace(model(1).config, vocab_size=320))
    with pytest.raises(UserError, match="has 320 tokens and the base 300"):
        combined(base, expert=padded)
    for text in ({"negative_prompt": ""}, {"control_code": ""}):
        with pytest.raises(UserError, match="is empty: give it at least one word"):
            combined(base, **text)
    with pytest.raises(UserError, match="give a finite number"):
        combined(base, negative_prompt="n", guidance=np.inf)
    with pytest.raises(UserError, match="cannot be combined again"):
        combined(combined(base, control_code="x"), expert=base)
    with pytest.raises(UserError, match="fills its network's context of 64"):
        combined(base, control_code="x" * 64)
