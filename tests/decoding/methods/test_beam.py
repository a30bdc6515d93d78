"""Beam search against a slow one, against all texts there are, and against transformers."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from coopgen_jax.decoding.decode import beam_search
from coopgen_jax.decoding.methods.beam import BeamConfig
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.errors import UserError
from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.pretrained.loaded_model import load
from coopgen_jax.testing import ToyLanguage, toy_discriminator, toy_language_model
from tests.decoding.toy import log_softmax, prompt_of, repeats
from tests.models.model_files import hf_model, save

TOY = ToyLanguage()
TABLES = TOY.tables(3)
PARAMS = jax.tree.map(jnp.asarray, TABLES)
END = TOY.vocab_size - 1
KEY = jax.random.key(0)


def memory_of(text) -> int:
    memory = 0
    for token in text:
        memory = TOY.read(memory, int(token))
    return memory


@functools.cache
def decoder(config: BeamConfig):
    return jax.jit(functools.partial(
        beam_search, KEY, language_model=toy_language_model(TOY), params=PARAMS,
        discriminator=toy_discriminator(TOY), discriminator_params=PARAMS, config=config,
    ))  # fmt: skip


def slow(prompt: list[int], config: BeamConfig) -> list[tuple[float, list[int]]]:
    """Beam search as the paper says it, on lists; returns the best texts with their scores."""

    def score(log_prob: float, length: int) -> float:
        return log_prob / length**config.length_penalty

    groups = [([(0.0, [])], []) for _ in range(config.groups)]
    for step in range(config.new_tokens):
        taken = np.zeros(TOY.vocab_size)
        for number, (beams, pool) in enumerate(groups):
            options = []
            for lane, (log_prob, text) in enumerate(beams):
                log_p = log_softmax(TABLES["logits"][memory_of([*prompt, *text])])
                for token in range(TOY.vocab_size):
                    if not repeats([*prompt, *text, token], config.rules.no_repeat_ngram):
                        total = log_prob + log_p[token]
                        key = total - config.diversity * taken[token]
                        options.append((-round(key, 9), lane, token, total))
            options.sort()
            live = []
            for rank, (_, lane, token, total) in enumerate(options):
                text = [*beams[lane][1], token]
                if token != END and len(live) < config.beams:
                    live.append((total, text))
                elif token == END and rank < config.beams:
                    pool.append((score(total, step + 1), text))
            pool.sort(key=lambda entry: -entry[0])
            for _, text in live:
                taken[text[-1]] += 1
            groups[number] = (live, pool[: config.beams])
    ended = [entry for beams, pool in groups for entry in pool]
    ended += [(score(log_prob, len(text)), text) for beams, _ in groups for log_prob, text in beams]
    # Groups that end alike have found one text.
    distinct = {tuple(text): (score, text) for score, text in ended}
    return sorted(distinct.values(), key=lambda entry: -entry[0])


@pytest.mark.parametrize(
    "config",
    [
        BeamConfig(new_tokens=5, beams=1),
        BeamConfig(new_tokens=6, beams=3, samples=3),
        BeamConfig(new_tokens=6, beams=4, samples=2, length_penalty=0.0),
        BeamConfig(new_tokens=6, beams=3, samples=3, length_penalty=-1.0),
        BeamConfig(
            new_tokens=6, beams=4, samples=2, length_penalty=2.0, rules=Rules(no_repeat_ngram=2)
        ),
        BeamConfig(new_tokens=5, beams=2, groups=3, samples=6, diversity=0.9),
        BeamConfig(new_tokens=4, beams=1, groups=4, samples=4, diversity=4.7),
    ],
)
def test_the_texts_are_those_of_a_slow_search(config):
    rows = [[0, 1, 2], [3], [2, 2], [1, 0]]
    got = decoder(config)(prompt_of(*rows))
    ended = 0
    for row, prompt in enumerate(rows):
        expected = slow(prompt, config)
        for number in range(config.samples):
            length = int(got.length[row, number])
            text = got.tokens[row, number, :length].tolist()
            log_prob = float(got.log_prob[row, number])
            score = log_prob / length**config.length_penalty
            assert score == pytest.approx(expected[number][0], rel=1e-4)
            assert (score, text) in [(pytest.approx(s, rel=1e-4), t) for s, t in expected]
            assert bool(got.finished[row, number]) == (text[-1] == END)
            assert log_prob == pytest.approx(likelihood(prompt, text), rel=1e-4)
            judged = text[:-1] if text[-1] == END else text
            scores = TABLES["scores"][memory_of([*prompt, *judged])]
            np.testing.assert_allclose(got.log_class[row, number], log_softmax(scores), rtol=1e-4)
            ended += text[-1] == END
    assert ended or config.beams == 1


def test_more_texts_than_tokens_are_refused():
    with pytest.raises(UserError, match="9 texts of 1 tokens are asked of a vocabulary of 5"):
        decoder(BeamConfig(new_tokens=1, beams=9, samples=9))(prompt_of([0]))


def likelihood(prompt: list[int], text: list[int]) -> float:
    total = 0.0
    for at, token in enumerate(text):
        total += log_softmax(TABLES["logits"][memory_of([*prompt, *text[:at]])])[token]
    return total


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_at_full_width_nothing_is_missed(penalty):
    config = BeamConfig(new_tokens=3, beams=40, samples=5, length_penalty=penalty)
    got = decoder(config)(prompt_of([0, 1]))
    letters, every = range(TOY.vocab_size - 1), []
    for length in (0, 1, 2):
        every += [(*text, END) for text in itertools.product(letters, repeat=length)]
    every += list(itertools.product(letters, repeat=3))
    scores = sorted(-likelihood([0, 1], text) / len(text) ** penalty for text in every)
    found = -got.log_prob[0] / got.length[0] ** penalty
    np.testing.assert_allclose(found, scores[:5], rtol=1e-5)


def test_a_row_does_not_depend_on_its_neighbours_or_on_padding():
    write = decoder(BeamConfig(new_tokens=6, beams=3, samples=3))
    together, alone = write(prompt_of([0, 1], [2], [3, 3, 1])), write(prompt_of([2], length=9))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1], b[0]), together, alone)


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_networks_texts_are_those_of_transformers(penalty, tmp_path):
    reference = hf_model("gpt2").eval()
    model = load(save(reference, tmp_path))
    rows = [[5, 6, 7], [8, 9, 10], [40, 3, 21]]
    network = dataclasses.replace(model.config, end_tokens=(2, 30, 31, 32))
    config = BeamConfig(new_tokens=7, beams=4, samples=2, length_penalty=penalty)
    write = functools.partial(beam_search, language_model=language_model(network), config=config)
    got = jax.jit(write)(KEY, prompt_of(*rows, length=3), params=model.params)
    for row, prompt in enumerate(rows):
        with torch.no_grad():
            expected = reference.generate(
                torch.tensor([prompt]), num_beams=4, num_return_sequences=2, max_new_tokens=7,
                eos_token_id=list(network.end_tokens), pad_token_id=0, do_sample=False,
                length_penalty=penalty, early_stopping="never",
            )  # fmt: skip
        for number in range(2):
            length = int(got.length[row, number])
            text = expected[number, 3:].tolist()
            assert got.tokens[row, number, :length].tolist() == text[:length]
            assert not any(text[length:])


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"beams": 0}, "beams is 0 and groups 1: give 1 or more"),
        ({"samples": 5}, "5 texts are asked of 4 beams"),
        ({"diversity": -1.0}, "diversity is -1.0"),
        ({"length_penalty": float("nan")}, "length_penalty is nan"),
        ({"length_penalty": 40.0}, "length_penalty is 40.0: give a number nearer 0"),
        ({"groups": 2}, "2 groups with a diversity of 0.0"),
        ({"diversity": 1.0}, "1 groups with a diversity of 1.0"),
        ({"no_repeat_ngram": 1}, "no_repeat_ngram is 1"),
    ],
)
def test_wrong_settings_are_named(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        BeamConfig().with_settings(**wrong)
