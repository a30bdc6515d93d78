"""Prefixes judged by one reading of each text against the contract's way, token by token."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import coopgen_jax.data.frozen_states as frozen
from coopgen_jax.discriminators.bidirectional import BidirectionalConfig, bidirectional
from coopgen_jax.discriminators.causal import CausalConfig, causal, init_causal
from coopgen_jax.discriminators.generative import GenerativeConfig, generative, generative_params
from coopgen_jax.discriminators.head import Head, HeadConfig
from coopgen_jax.discriminators.host.function import host_function
from coopgen_jax.discriminators.host.retokenise import Crossing
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.discriminators.shared_trunk import SharedTrunkConfig, shared_trunk
from coopgen_jax.discriminators.trunk_layers import (
    TrunkLayersConfig,
    init_trunk_layers,
    small_network,
    trunk_layers,
)
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.discriminator_accuracy import judge_prefixes
from coopgen_jax.evaluation.prefix_reading import asked_lengths
from coopgen_jax.evaluation.text_judges import DiscriminatorJudge
from coopgen_jax.testing import TINY_LLAMA
from tests.tiny_encoder import make_encoder
from tests.tiny_model import model

TEXTS = ["so good", "a", "bad film it is", "xyz", "a text that is longer than all of the others"]
CLASSES = ("bad", "good")
LONGEST = 40


def milder(params, factor):
    """Scales a head's answers: log-probabilities of -80 have errors of their own."""
    head = params.get("head", params)
    head["output"] = jax.tree.map(lambda leaf: factor * leaf, head["output"])
    return params


def trunk(reads_prompt):
    head = HeadConfig(CLASSES, 2 * 2 * TINY_LLAMA.width, (8,))
    params = Head(head).init(jax.random.key(1), jax.numpy.zeros((1, head.inputs)))["params"]
    config = SharedTrunkConfig((1, 3), reads_prompt, head)
    return LoadedDiscriminator(shared_trunk(config), milder(params, 0.01))


def layers(look_ahead):
    network = small_network(layers=1, width=32, context=64)
    head = HeadConfig(CLASSES, 32, ())
    config = TrunkLayersConfig((0, 2), TINY_LLAMA.width, network, head, look_ahead)
    params = milder(init_trunk_layers(jax.random.key(2), config), 0.2)
    if look_ahead:
        params["vocabulary"] = model().params["embedding"] @ params["keys"]
    return LoadedDiscriminator(trunk_layers(config), params)


def reader(start_token):
    head = HeadConfig(CLASSES, TINY_LLAMA.width, ())
    config = CausalConfig(model().config, head, start_token)
    params = milder(init_causal(jax.random.key(3), config), 0.5)
    return LoadedDiscriminator(causal(config), params)


def bayes(mean, reads_prompt):
    prefixes = ((5, 6, 7), (9,))
    config = GenerativeConfig(model().config, CLASSES, prefixes, mean, reads_prompt)
    params = generative_params(model().params, 2, prior=(1, 3), scale=0.3 if mean else 0.02)
    return LoadedDiscriminator(generative(config), params)


def share(texts):
    return [(1 + sum(map(ord, text)) % 7) / 8 for text in texts]


def host(reads_prompt, function=share):
    tokenizer = model().tokenizer
    return host_function(function, classes=CLASSES, tokenizer=tokenizer, reads_prompt=reads_prompt)


def encoder(reads_prompt):
    tiny = make_encoder()
    head = HeadConfig(CLASSES, tiny.config.width, ())
    params = Head(head).init(jax.random.key(4), jax.numpy.zeros((1, head.inputs)))["params"]
    crossing = Crossing(model().tokenizer, tiny.tokenizer, width=24)
    guide = bidirectional(BidirectionalConfig(tiny.config, head, crossing, reads_prompt))
    return LoadedDiscriminator(guide, {"encoder": tiny.params, "head": params}, {}, (crossing,))


KINDS = {
    "shared trunk": lambda: trunk(False),
    "shared trunk, prompt": lambda: trunk(True),
    "layers": lambda: layers(0),
    "layers, look-ahead": lambda: layers(4),
    "causal": lambda: reader(7),
    "causal, prompt": lambda: reader(None),
    "generative": lambda: bayes(True, False),
    "generative, prompt": lambda: bayes(True, True),
    "generative, product": lambda: bayes(False, False),
    "bidirectional": lambda: encoder(False),
    "bidirectional, prompt": lambda: encoder(True),
    "function": lambda: host(False),
    "function, prompt": lambda: host(True),
}


@pytest.fixture
def reads(monkeypatch):
    """Counts how often the language model reads."""
    found = []

    def counted(*arguments):
        found.append(arguments[-1].shape)
        return original(*arguments)

    original = frozen._states
    monkeypatch.setattr(frozen, "_states", counted)
    return found


def by_contract(loaded):
    return replace(loaded, discriminator=replace(loaded.discriminator, evaluate_prefixes=None))


@pytest.mark.parametrize("kind", KINDS)
def test_one_reading_says_what_the_contract_says_token_by_token(kind, reads):
    loaded = KINDS[kind]()
    how = {"prompt": "So it", "longest": LONGEST, "batch": 3}
    wanted = judge_prefixes(model(), by_contract(loaded), TEXTS, **how)
    assert not reads
    found = judge_prefixes(model(), loaded, TEXTS, **how)
    assert bool(reads) == bool(loaded.discriminator.taps)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    # There is something to see: prefixes and texts differ.
    assert np.std(wanted[:, 1, 0]) > 1e-3 and np.nanstd(wanted[-1, :, 0]) > 1e-3


def test_what_reads_the_prompt_reads_it():
    for kind in KINDS:
        one, other = (
            judge_prefixes(model(), KINDS[kind](), TEXTS, prompt=prompt, longest=4, batch=5)
            for prompt in ("So", "Well, then")
        )
        # A shared trunk's states have read the prompt whether it is judged or not.
        reads_prompt = "prompt" in kind or KINDS[kind]().discriminator.taps
        assert (np.nanmax(abs(one - other)) > 1e-3) == bool(reads_prompt), kind


def test_what_reads_anew_is_asked_at_some_lengths():
    asked = []

    def counted(texts):
        asked.extend(texts)
        return share(texts)

    exact = judge_prefixes(model(), host(False), TEXTS, longest=LONGEST)
    how = {"longest": LONGEST, "asked": "doubling"}
    found = judge_prefixes(model(), host(False, counted), TEXTS, **how)
    assert len(asked) <= (1 + LONGEST.bit_length()) * len(TEXTS) < LONGEST * len(TEXTS)
    for row, wanted, text in zip(found, exact, TEXTS, strict=True):
        count = min(LONGEST, len(model().tokenizer.encode(f" {text}")))
        lengths = [*(n for n in (1, 2, 4, 8, 16, 32) if n <= count), count]
        for at in range(1, count + 1):
            last = max(length for length in lengths if length <= at)
            np.testing.assert_allclose(row[at - 1], wanted[last - 1], atol=1e-6)
        assert np.isnan(row[count:]).all()
    # What reads once is judged at every length, whatever is asked.
    every = judge_prefixes(model(), trunk(False), TEXTS, longest=LONGEST)
    np.testing.assert_array_equal(
        judge_prefixes(model(), trunk(False), TEXTS, longest=LONGEST, asked="doubling"), every
    )


def test_lengths_double_and_end_with_the_text():
    assert asked_lengths([15], 16, "doubling").tolist() == [[1, 2, 4, 8, 15, 15]]
    assert asked_lengths([2, 1], 8, "doubling").tolist() == [[1, 2, 2, 2, 2], [1] * 5]
    # Eight of a text of 64 tokens.
    assert asked_lengths([64], 64, "doubling").tolist() == [[1, 2, 4, 8, 16, 32, 64, 64]]
    assert asked_lengths([9], 16, "last").tolist() == [[9]]
    assert asked_lengths([3], 5, "every").tolist() == [[1, 2, 3, 3, 3]]


def test_a_judge_of_whole_texts_asks_once_a_text():
    asked = []

    def counted(texts):
        asked.extend(texts)
        return share(texts)

    judge = DiscriminatorJudge(model(), host(False, counted))
    found = judge.predict_proba([*TEXTS, " "])
    assert sorted(asked) == sorted(f" {text}" for text in TEXTS)
    np.testing.assert_allclose(found[:-1, 1], share([f" {t}" for t in TEXTS]), atol=1e-5)
    assert found[-1].tolist() == [0.5, 0.5]


def test_a_second_head_on_kept_states_has_nothing_read_again(reads, tmp_path):
    how = {"longest": LONGEST, "batch": 3}
    wanted = judge_prefixes(model(), trunk(False), TEXTS, **how)
    reads.clear()
    first = judge_prefixes(model(), trunk(False), TEXTS, states=tmp_path / "kept", **how)
    np.testing.assert_allclose(first, wanted, rtol=0, atol=1e-5)
    assert reads
    reads.clear()
    second = judge_prefixes(model(), trunk(True), TEXTS, states=tmp_path / "kept", **how)
    assert not reads and len(list((tmp_path / "kept").iterdir())) == 1
    again = judge_prefixes(model(), trunk(True), TEXTS, **how)
    np.testing.assert_allclose(second, again, rtol=0, atol=1e-5)
    # Other texts, and another prompt, are other states.
    reads.clear()
    judge_prefixes(model(), trunk(False), TEXTS[:2], states=tmp_path / "kept", **how)
    judge_prefixes(model(), trunk(False), TEXTS, prompt="x", states=tmp_path / "kept", **how)
    assert reads and len(list((tmp_path / "kept").iterdir())) == 3


def test_what_reads_no_states_keeps_none(tmp_path):
    for loaded in (host(False), reader(7), by_contract(trunk(False))):
        judge_prefixes(model(), loaded, TEXTS[:1], longest=4, states=tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="the states cannot be kept in"):
        judge_prefixes(model(), trunk(False), TEXTS, states=tmp_path / "file" / "kept")


def test_texts_beyond_the_context_are_told():
    long = "word " * 200
    with pytest.raises(UserError, match="shorten it or ask for fewer"):
        judge_prefixes(model(), trunk(False), [long], longest=1000)
