"""Every decoder on a tiny network of the T5 family, which knows nothing of any of them."""

import dataclasses
import itertools
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from coopgen_jax.cli.printing import for_people
from coopgen_jax.comparison.header import about_model
from coopgen_jax.decoding.decode import mcts
from coopgen_jax.decoding.mcts.mcts_config import ByVisits, MCTSConfig, Rollout
from coopgen_jax.decoding.methods.beam import BeamConfig
from coopgen_jax.decoding.methods.blockwise import BlockwiseConfig
from coopgen_jax.decoding.methods.das import DASConfig
from coopgen_jax.decoding.methods.fudge import FudgeConfig
from coopgen_jax.decoding.methods.gedi import GediConfig
from coopgen_jax.decoding.methods.pplm_config import PPLMConfig
from coopgen_jax.decoding.methods.rerank import RerankConfig
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.decoding.methods.smc import SMCConfig
from coopgen_jax.decoding.methods.stochastic_beam import StochasticBeamConfig
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.discriminators.host import token_rows as spelled
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.oracle import log_likelihoods
from coopgen_jax.models.language_model import LanguageModel
from coopgen_jax.models.networks import language_model
from coopgen_jax.models.pretrained.loaded_model import load
from coopgen_jax.models.prompt import make_prompt
from coopgen_jax.models.t5 import encode, output, read_target, source_entries
from coopgen_jax.search import SearchConfig
from coopgen_jax.testing import ToyLanguage, toy_discriminator
from coopgen_jax.text_generation import generate
from tests.models.t5_files import VOCABULARY, reference_of, save_t5

PROMPTS = [
    "the cat sat on the mat",
    "a mat",
    "and a cat sat on the cat and the mat and a dog",
]
TOY = ToyLanguage(vocab_size=VOCABULARY)
TABLES = TOY.tables(1)
SEARCH = SearchConfig(simulations=8, wave=2, candidates=4, depth=3, reused_nodes=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return cache(lambda kind: save_t5(tmp_path_factory.mktemp(kind), kind))


@pytest.fixture(scope="module")
def model(folder):
    return load(folder("flan"))


@cache
def guide() -> LoadedDiscriminator:
    return LoadedDiscriminator(toy_discriminator(TOY), {"scores": jnp.asarray(TABLES["scores"])})


score = jax.jit(lambda network, *given: network.score(*given).sum(), static_argnums=0)


def scored(model, prompt: str, tokens: list[int]) -> float:
    """log p(text | prompt), read whole."""
    padded = jnp.asarray([[[*tokens, *[0] * (6 - len(tokens))]]])
    mask = jnp.arange(6)[None, None] < len(tokens)
    prompts = make_prompt(model.tokenizer, [prompt], multiple=24)
    return float(score(language_model(model.config), model.params, prompts, padded, mask))


DECODERS = {
    "sampling": SamplingConfig(new_tokens=5, samples=2, rules=Rules(top_p=0.9)),
    "beam": BeamConfig(new_tokens=5, samples=2, beams=3),
    "rerank": RerankConfig(new_tokens=5, of=4, alpha=0.5),
    "blockwise": BlockwiseConfig(new_tokens=5, samples=2, block=2, of=3),
    "das": DASConfig(new_tokens=5, beams=3, candidates=6),
    "fudge": FudgeConfig(new_tokens=5, samples=2, candidates=8),
    "gedi": GediConfig(new_tokens=5, samples=2, strength=2.0),
    "smc": SMCConfig(new_tokens=5, samples=4),
    "stochastic beam": StochasticBeamConfig(new_tokens=5, samples=3),
    "mcts": MCTSConfig(
        new_tokens=5, samples=2, search=SEARCH, choice=ByVisits(visit_temperature=1.0)
    ),
    "roll-outs": MCTSConfig(new_tokens=5, search=SEARCH, rollout=Rollout(rollout=2)),
}


@pytest.mark.parametrize("name", DECODERS)
def test_every_decoder_writes_texts_whose_figures_are_their_own(name, model):
    """The likelihood that a decoder kept, token by token out of its slots, is that of the text."""
    config = DECODERS[name]
    given = {"discriminator": guide(), "target": "one"} if config.guided else {}
    write = partial(generate, model, config=config, seed=3, **given)
    texts = write(PROMPTS, batch_size=3)
    assert len(texts) == 3 * config.samples
    for text in texts:
        expected = scored(model, text.prompt, text.tokens)
        assert text.log_prob == pytest.approx(expected, abs=2e-3), text
        assert text.text == model.tokenizer.decode(text.tokens)
        assert text.finished == (text.tokens[-1] == 1)
        if config.guided:
            judged = [*model.tokenizer.encode(text.prompt), 1, *text.tokens]
            memory = 0
            for token in judged[:-1] if text.finished else judged:
                memory = TOY.read(memory, token)
            said = jax.nn.softmax(TABLES["scores"][memory])[1]
            assert text.class_probabilities["one"] == pytest.approx(float(said), abs=1e-4)
    if name in ("sampling", "mcts"):
        (alone, *_) = write(PROMPTS, numbers=[1], batch_size=1)
        assert alone.tokens == texts[config.samples].tokens


@pytest.mark.parametrize("kind", ["t5", "flan"])
def test_greedy_texts_are_those_of_transformers(kind, folder):
    loaded, reference = load(folder(kind)), reference_of(folder(kind))
    config = SamplingConfig(new_tokens=12, rules=Rules(temperature=0))
    ruled = config.with_settings(
        no_repeat_ngram=2, repetition_penalty=1.5, bad_words=((0,), (7, 39))
    )
    # Theirs takes the start token for a word of the text, which is therefore ruled out.
    theirs_ruled = {
        "no_repeat_ngram_size": 2, "repetition_penalty": 1.5, "bad_words_ids": [[0], [7, 39]],
    }  # fmt: skip
    for ours, theirs in (
        (config, {}),
        # The source is no part of the text that is not to repeat itself.
        (ruled, theirs_ruled),
    ):
        for text in generate(loaded, PROMPTS, config=ours):
            ids = torch.tensor([[*loaded.tokenizer.encode(text.prompt), 1]])
            with torch.no_grad():
                # Its cache has as many layers as the encoder, which are fewer here.
                (expected,) = reference.generate(
                    ids, do_sample=False, max_new_tokens=12, use_cache=False, **theirs
                )
            written = expected[1:].tolist()
            assert text.tokens == written
            assert text.text == loaded.tokenizer.decode(written)


def test_a_beam_as_wide_as_the_vocabulary_finds_the_likeliest_text(model):
    """Of all texts of up to two tokens, read whole."""
    config = BeamConfig(new_tokens=2, beams=VOCABULARY, samples=3, length_penalty=0.0)
    (best, *others) = generate(model, PROMPTS[:1], config=config)
    letters = [token for token in range(VOCABULARY) if token != 1]
    pairs = jnp.asarray([*itertools.product(letters, range(VOCABULARY)), (1, 0)])
    mask = jnp.ones(pairs.shape, bool).at[-1, 1].set(False)
    prompt = make_prompt(model.tokenizer, PROMPTS[:1])
    whole = jax.jit(language_model(model.config).score)
    log_p = np.asarray(whole(model.params, prompt, pairs[None], mask[None])[0].sum(-1))
    assert np.exp(log_p).sum() == pytest.approx(1, abs=1e-3)
    order = np.argsort(-log_p)
    for text, place in zip((best, *others), order, strict=False):
        assert text.tokens == [int(token) for token in pairs[place][mask[place]]]
        assert text.log_prob == pytest.approx(log_p[place], abs=1e-3)


def test_a_search_out_of_slots_is_one_that_reads_every_text_anew(model):
    """The same trees, visit by visit, by a language model that keeps nothing but tokens."""
    config = MCTSConfig(
        new_tokens=6, samples=2, search=SEARCH, choice=ByVisits(visit_temperature=1.0)
    )
    prompt = make_prompt(model.tokenizer, PROMPTS)
    found = [
        jax.jit(partial(mcts, discriminator=guide().discriminator, language_model=network,
                        config=config))(
            jax.random.key(5), prompt, params=model.params,
            discriminator_params=guide().params, target=jnp.asarray([0, 1, 1]),
        )
        for network in (language_model(model.config), forgetful(model))
    ]  # fmt: skip
    for name in ("tokens", "length", "simulations", "deepest", "finished"):
        np.testing.assert_array_equal(*(getattr(one, name) for one in found))
    for name in ("log_prob", "log_proposal", "log_class"):
        np.testing.assert_allclose(*(getattr(one, name) for one in found), atol=1e-3)


def forgetful(model) -> LanguageModel:
    """A language model of the same network that has no cache of keys and values."""
    config = model.config

    def read(params, prompt, texts, there):
        """Logits behind texts [B, R, W, S], whose tokens are where `there` is true."""
        order = jnp.argsort(~there, axis=-1, stable=True)
        rows = jnp.take_along_axis(texts, order, axis=-1).reshape(len(texts), -1, texts.shape[-1])
        rows = jnp.pad(jnp.maximum(rows, 0), ((0, 0), (0, 0), (1, 0)))
        source = source_entries(config, params, encode(config, params, prompt.tokens, prompt.mask))
        stream, _ = read_target(config, params, source, prompt.mask, rows)
        last = there.sum(axis=-1).reshape(*rows.shape[:2], 1, 1)
        stream = jnp.take_along_axis(stream, last, axis=2)[:, :, 0]
        return output(config, params, stream).reshape(*texts.shape[:-1], -1)

    def prefill(params, prompt, *, capacity):
        state = spelled.begin(prompt, capacity=capacity, reads_prompt=False)
        none = jnp.zeros((len(prompt.index), 1, 1, 1), jnp.int32)
        logits = read(params, prompt, none, none > 0)[:, 0, 0]
        return logits, jnp.zeros((*prompt.tokens.shape, 0, config.width)), (prompt, state)

    def extend(params, cache, nodes):
        prompt, state = cache
        common, own, state = spelled.of_nodes(state, nodes)
        front = jnp.broadcast_to(common[:, :, None], (*own.shape[:3], common.shape[-1]))
        texts = jnp.concatenate([front, own], axis=-1)
        logits = read(params, prompt, texts, texts >= 0)
        return logits, jnp.zeros((*logits.shape[:-1], 0, config.width)), (prompt, state)

    return dataclasses.replace(language_model(config), prefill=prefill, extend=extend)


def test_an_oracle_reads_the_text_of_a_source(model):
    (found,), (count,) = log_likelihoods(model, PROMPTS[:1], ["the cat sat"])
    assert found == pytest.approx(scored(model, PROMPTS[0], [4, 6, 7]), abs=1e-3) and count == 3


def test_the_report_puts_a_text_below_its_source(model):
    texts = generate(
        model, PROMPTS[:1], config=SamplingConfig(new_tokens=3, rules=Rules(forced=(6, 7, 5)))
    )
    document = {
        "settings": {"method": "sample"}, "model": about_model(model), "discriminator": None,
        "seconds": 1.0, "host_seconds": None,
    }  # fmt: skip
    shown = for_people(document, texts, None, style=False)
    assert f"{PROMPTS[0]}\n→ cat sat a\n" in shown


def test_a_shifted_history_is_refused(model):
    with pytest.raises(UserError, match="no encoder-decoder, or take another method"):
        generate(model, PROMPTS, config=PPLMConfig(new_tokens=2, iterations=1, bags=((3, 4),)))
