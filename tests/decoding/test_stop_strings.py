"""Stop strings end the texts of every decoder, and `generate` cuts them in front."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.decoding.decode import DECODERS, decode
from coopgen_jax.decoding.job import Job
from coopgen_jax.decoding.mcts.mcts_config import ByValues, ByVisits, MCTSConfig, Rollout
from coopgen_jax.decoding.mcts.ppl_mcts import MCTS
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
from coopgen_jax.decoding.rules.stop import StopStrings
from coopgen_jax.errors import UserError
from coopgen_jax.search.config import SearchConfig
from coopgen_jax.testing import ToyLanguage, toy_language_model
from coopgen_jax.text_generation import generate
from tests import tiny_model
from tests.byte_tokenizer import make_tokenizer
from tests.decoding.ruled_texts import STOP, logits_behind, over, texts, write, written
from tests.decoding.toy import END, JUDGE, MODEL, PARAMS, log_softmax, prompt_of

RULES, T = Rules(stop=STOP), 6
PROMPTS = [[first, second] for first in range(4) for second in range(4)]
SEARCH = SearchConfig(simulations=8, wave=2, candidates=4, depth=4, reused_nodes=8)
FRESH = replace(SEARCH, reused_nodes=0)
CONFIGS = {
    "search": MCTSConfig(T, search=SEARCH),
    "roll-outs": MCTSConfig(T, 4, search=FRESH, rollout=Rollout(3)),
    "draws by visits": MCTSConfig(T, 20, choice=ByVisits(mix_base=0.3), search=SEARCH),
    "draws by values": MCTSConfig(T, 20, choice=ByValues(), search=SEARCH),
    "beams": BeamConfig(T, 3),
    "diverse beams": BeamConfig(T, 4, beams=2, groups=2, diversity=0.5),
    "das": DASConfig(T, 3, candidates=8),
    "smc": SMCConfig(T, 40),
    "blockwise": BlockwiseConfig(T, 20, block=4, of=3),
    "fudge": FudgeConfig(T, 40, candidates=4),
    "fudge ahead": FudgeConfig(T, 40, candidates=4, look_ahead=True),
    "gedi": GediConfig(T, 40, draw=True, strength=1.0),
    "sampling": SamplingConfig(T, 40),
    "stochastic beams": StochasticBeamConfig(T, 20),
    "rerank": RerankConfig(T, 20, of=3),
    "rerank of beams": RerankConfig(T, 1, of=3, proposal=BeamConfig()),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_a_stop_over_three_tokens_ends_a_text(name):
    config = replace(CONFIGS[name], rules=RULES)
    got = written(jax.random.key(0), prompt_of(*PROMPTS), config)
    stopped = 0
    for row in range(len(PROMPTS)):
        for number, text in enumerate(texts(got, row)):
            if not np.isfinite(got.log_prob[row, number]):
                continue  # fewer texts than were asked for
            assert not any(over(text[:end]) for end in range(len(text))), text
            assert bool(got.finished[row, number]) == over(text), text
            assert over(text) or len(text) == T
            assert not np.any(got.tokens[row, number, len(text) :])
            stopped += over(text) and text[-1] != END
    assert stopped, "no text reached a stop string"


def test_every_decoder_is_asked():
    assert {type(config) for config in CONFIGS.values()} == DECODERS.keys() - {PPLMConfig}


@pytest.mark.parametrize("search", [SEARCH, FRESH])
def test_the_node_that_completes_a_stop_is_terminal(search):
    config = replace(CONFIGS["search"], search=search, rules=RULES)
    job = Job(
        prompt=prompt_of([3, 2], [0, 1]),
        params=PARAMS,
        discriminator_params=PARAMS,
        target=jnp.ones(2, jnp.int32),
        language_model=MODEL,
        discriminator=JUDGE,
        config=config,
    )
    state, advance, stopped = jax.jit(MCTS.begin)(job), jax.jit(MCTS.advance), 0
    for step in range(T):
        before = state.generation
        state, tree = advance(jax.random.key(step), job, state)
        for row in range(2):
            if before.finished[row, 0]:
                continue
            (text,) = texts(before, row)
            parent, token, visits, terminal = (
                np.asarray(array[row, 0])
                for array in (tree.parent, tree.token, tree.visits, tree.terminal)
            )
            for node in np.flatnonzero(visits[1:] > 0) + 1:
                at, path = node, []
                while parent[at] >= 0:
                    path.insert(0, int(token[at]))
                    at = parent[at]
                longer = (*text, *path)
                assert terminal[node] == over(longer)
                assert not any(over(longer[:end]) for end in range(1, len(longer)))
                stopped += over(longer) and longer[-1] != END
                assert not (terminal[node] and np.any(parent == node))
    assert stopped


def test_draws_are_those_without_stop_strings_up_to_the_stop():
    plain = SamplingConfig(T, 60)
    whole, got = (write(config, [0, 1]) for config in (plain, replace(plain, rules=RULES)))
    for long, text in zip(texts(whole), texts(got), strict=True):
        end = next((n for n in range(1, len(long)) if over(long[:n])), len(long))
        assert text == long[:end]


def slow_beams(config, prompt, complete, end, vocab, logits):
    """Beam search by lists: a text ends where `complete(text)`, among the W best or not at all."""
    live, pool = [((), 0.0)], []

    def score(entry):
        return entry[1] / len(entry[0]) ** config.length_penalty

    for length in range(1, config.new_tokens + 1):
        longer = [
            ((*text, token), total + log_softmax(logits(prompt, text))[token])
            for text, total in live
            for token in range(vocab)
        ]
        longer.sort(key=lambda entry: -entry[1])
        ended = [entry for entry in longer[: config.beams] if complete(entry[0])]
        pool = sorted([*pool, *ended], key=lambda entry: -score(entry))[: config.beams]
        live = [entry for entry in longer if not complete(entry[0])][: config.beams]
        hope = max(total for _, total in live) / config.new_tokens**config.length_penalty
        if len(pool) == config.beams and hope <= min(map(score, pool)):
            live = []
            break
        assert len(live) == config.beams or length == 1
    return sorted([*pool, *live], key=lambda entry: -score(entry))[: config.samples]


@pytest.mark.parametrize("width", [2, 3])
def test_beams_are_those_of_a_slow_search(width):
    config = BeamConfig(T, width, beams=width, rules=RULES)
    got = written(jax.random.key(0), prompt_of([0, 1], [3, 2], [2], [1, 1]), config)
    for row, prompt in enumerate(([0, 1], [3, 2], [2], [1, 1])):
        expected = slow_beams(config, prompt, over, END, 5, logits_behind)
        assert texts(got, row) == [text for text, _ in expected]
        totals = [total for _, total in expected]
        np.testing.assert_allclose(got.log_prob[row], totals, rtol=1e-5)
        assert got.finished[row].tolist() == [over(text) for text, _ in expected]


@pytest.mark.parametrize("kind", ["beam", "das"])
def test_enough_continuations_go_on_where_most_tokens_stop(kind):
    """27 of 32 tokens complete a stop string, the likeliest often among them."""
    toy = ToyLanguage(vocab_size=32)
    noise = np.random.default_rng(1).normal(size=(toy.states, 32))
    table = (0.3 * toy.tables(0)["logits"] + noise).astype(np.float32)
    tokenizer = make_tokenizer()
    strings = tuple(tokenizer.decode([token]) for token in range(4, 31))
    stop = StopStrings.compile(strings, tokenizer, 32)
    settings = {"new_tokens": 4, "samples": 4, "beams": 4, "rules": Rules(stop=stop)}
    config = BeamConfig(**settings) if kind == "beam" else DASConfig(**settings, alpha=0.0)
    prompts = ([0, 1], [3, 2], [2])

    def logits(prompt, text):
        memory = 0
        for token in (*prompt, *text):
            memory = toy.read(memory, token)
        return table[memory].astype(np.float64)

    def complete(text):
        return text[-1] >= 4

    model = toy_language_model(toy)
    params = {"logits": jnp.asarray(table)}

    @jax.jit
    def write_all(prompt):
        key = jax.random.key(0)
        return decode(key, prompt, language_model=model, params=params, config=config)

    got = write_all(prompt_of(*prompts))
    for row, prompt in enumerate(prompts):
        expected = slow_beams(config, prompt, complete, 31, 32, logits)
        assert texts(got, row) == [text for text, _ in expected]
        np.testing.assert_allclose(got.log_prob[row], [p for _, p in expected], rtol=1e-5)


def test_generate_cuts_the_text_in_front_of_the_stop():
    """The stop is three bytes: two of a character, and one more."""
    model = tiny_model.model()
    plain = SamplingConfig(12, 40, Rules(temperature=0.5))
    whole = generate(model, ["A film"], config=plain)
    counts: dict[str, int] = {}
    for text in whole:
        for at in range(1, len(text.text) - 3):
            part = text.text[at : at + 3]
            if "\ufffd" not in part and len(part.encode()) == 3:
                counts[part] = counts.get(part, 0) + 1
    stop = max(counts, key=lambda part: counts[part])
    config = replace(plain, rules=replace(plain.rules, stop=(stop,)))
    cut = generate(model, ["A film"], config=config)
    found = 0
    for long, short in zip(whole, cut, strict=True):
        assert stop not in short.text
        before, separator, _ = long.text.partition(stop)
        assert short.text == before
        assert short.finished == (long.finished or bool(separator))
        if separator:
            assert model.tokenizer.written(short.tokens).endswith(stop)
            found += 1
        else:
            assert short.tokens == long.tokens
    assert found


def test_a_stop_of_characters_ends_between_their_bytes():
    """Forced bytes spell it, so that it is certain: the last byte of the second one ends it."""
    model = tiny_model.model()
    ids = model.tokenizer.encode("abé€c")
    rules = Rules(forced=tuple(ids), stop=("é€",))
    (text,) = generate(model, ["A film"], config=SamplingConfig(12, rules=rules))
    assert (text.text, text.finished, text.tokens) == ("ab", True, ids[:-1])


def test_strings_need_the_tokenizer_and_an_automaton_its_vocabulary():
    with pytest.raises(UserError, match="stop strings need the tokenizer"):
        write(SamplingConfig(2, rules=Rules(stop=("x",))), [0])
    other = StopStrings.compile(("x",), make_tokenizer(), 258)
    with pytest.raises(UserError, match="compiled for 258 tokens, and the language model has 5"):
        write(SamplingConfig(2, rules=Rules(stop=other)), [0])
