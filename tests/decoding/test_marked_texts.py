"""Marked texts of every method: their marks, how often they come, and what is refused."""

import functools
from collections import Counter
from dataclasses import replace
from itertools import product

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from coopgen_jax.decoding.decode import decode
from coopgen_jax.decoding.job import Job
from coopgen_jax.decoding.mcts.mcts_config import ByValues, ByVisits, MCTSConfig
from coopgen_jax.decoding.mcts.ppl_mcts import MCTS
from coopgen_jax.decoding.methods.beam import BeamConfig
from coopgen_jax.decoding.methods.blockwise import BlockwiseConfig
from coopgen_jax.decoding.methods.das import DASConfig
from coopgen_jax.decoding.methods.fudge import FudgeConfig
from coopgen_jax.decoding.methods.gedi import GediConfig
from coopgen_jax.decoding.methods.pplm_config import PPLMConfig
from coopgen_jax.decoding.methods.rerank import RerankConfig
from coopgen_jax.decoding.methods.sampling import SAMPLING, SamplingConfig
from coopgen_jax.decoding.methods.smc import SMCConfig, log_evidence
from coopgen_jax.decoding.methods.stochastic_beam import StochasticBeamConfig
from coopgen_jax.decoding.rules.keys import token_words, window_seed
from coopgen_jax.decoding.rules.shaping import NO_RULES, Rules
from coopgen_jax.decoding.rules.watermark import Watermark, marking_of
from coopgen_jax.errors import UserError
from coopgen_jax.search.config import Halving, Puct, SearchConfig
from tests.decoding.toy import END, JUDGE, MODEL, PARAMS, TABLES, log_softmax, memory_of, prompt_of

PROMPT = [0, 1]
VOCAB = END + 1
SECRETS = np.random.default_rng(5).integers(0, 2**32, (3000, 4), np.uint32)
SEARCH = SearchConfig(
    simulations=6, wave=2, candidates=4, depth=3, reused_nodes=6, root=Puct(early_stop=False)
)


def written(key, marking, *, config, prompt=None, target=1):
    prompt = prompt_of(PROMPT) if prompt is None else prompt
    return decode(
        key,
        prompt,
        language_model=MODEL,
        params=PARAMS,
        discriminator=JUDGE,
        discriminator_params=PARAMS,
        target=jnp.full(len(prompt.index), target),
        marking=marking,
        config=config,
    )


@functools.partial(jax.jit, static_argnames="config")
def many(keys, secrets, config):
    """Returns the texts of one prompt under many keys and secrets."""

    def one(key, secret):
        marking = marking_of(secret, jnp.zeros(1)) if config.rules.watermark else None
        return written(key, marking, config=config)

    return jax.vmap(one)(keys, secrets)


def keys_of(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def marked(config, watermark):
    return replace(config, rules=replace(config.rules, watermark=watermark))


def texts_of(generation):
    """Returns every text `[...]` as a tuple of its tokens."""
    tokens, length = np.asarray(generation.tokens), np.asarray(generation.length)
    rows = zip(tokens.reshape(-1, tokens.shape[-1]), length.ravel(), strict=True)
    return [tuple(row[:count].tolist()) for row, count in rows]


def log_p_of(text) -> float:
    own = log_softmax(TABLES["logits"][memory_of([*PROMPT, *text[:-1]])].astype(np.float64))
    before = log_p_of(text[:-1]) if len(text) > 1 else 0.0
    return before + own[text[-1]]


def all_texts(length):
    for size in range(1, length + 1):
        for text in product(range(VOCAB), repeat=size):
            if END not in text[:-1] and (size == length or text[-1] == END):
                yield text


def gumbel_of(secret, window, message=0) -> np.ndarray:
    index = (np.arange(VOCAB, dtype=np.uint32) + message) % np.uint32(VOCAB)
    words = token_words(window_seed(secret, np.asarray([window], np.uint32)), index)
    return -np.log(-np.log1p(-(words + 0.5) / 2**32))


@pytest.mark.parametrize("message", [0, 3])
@pytest.mark.parametrize("samples", [1, 3])
def test_every_marked_token_is_the_one_that_its_window_and_the_secret_name(samples, message):
    watermark = Watermark("gumbel", window=3)
    rules = Rules(min_tokens=30, watermark=watermark)
    config = SamplingConfig(new_tokens=30, samples=samples, rules=rules)
    prompts = [PROMPT, [2], [3, 0, 1]]
    marking = marking_of(SECRETS[0], np.full(3, message))
    found = jax.jit(functools.partial(written, config=config))(
        jax.random.key(3), marking, prompt=prompt_of(*prompts)
    )
    checked = 0
    for row, prompt in enumerate(prompts):
        texts = texts_of(jax.tree.map(lambda array, row=row: array[row], found))
        for place, text in enumerate(texts):
            for at in range(3, 30):
                window = text[at - 3 : at]
                repeat = any(text[i : i + 3] == window for i in range(at - 3))
                # A text in front may have the same window at the same step.
                if repeat or any(other[at - 3 : at] == window for other in texts[:place]):
                    continue
                logits = TABLES["logits"][memory_of([*prompt, *text[:at]])].copy()
                logits[END] = -np.inf
                best = int(np.argmax(logits + gumbel_of(SECRETS[0], window, message)))
                assert text[at] == best, (row, place, at)
                checked += 1
    assert checked > 15 * 3 * samples


@pytest.mark.parametrize("scheme", ["gumbel", "tournament"])
@pytest.mark.parametrize("window", [0, 1])
def test_over_secrets_texts_come_as_often_as_the_language_model_writes_them(scheme, window):
    if scheme == "tournament" and window == 0:
        return
    config = SamplingConfig(new_tokens=3, rules=Rules(top_k=VOCAB))
    config = marked(config, Watermark(scheme, window=window))
    found = Counter(texts_of(many(keys_of(3000), SECRETS, config)))
    p = {text: np.exp(log_p_of(text)) for text in all_texts(3)}
    assert sum(p.values()) == pytest.approx(1)
    likely = [text for text in p if p[text] * 3000 >= 5]
    seen = np.asarray([*(found[text] for text in likely), 0])
    wanted = np.asarray([*(p[text] * 3000 for text in likely), 0])
    seen[-1], wanted[-1] = 3000 - seen.sum(), 3000 - wanted.sum()
    if window == 0:
        # Without a window a text's tokens are dependent: a token's own frequency is p's.
        first = Counter(text[0] for text in found.elements())
        seen = np.asarray([first[token] for token in range(VOCAB)])
        wanted = np.exp([log_p_of((token,)) for token in range(VOCAB)]) * 3000
    assert stats.chisquare(seen, wanted).pvalue > 1e-3


PUCT = MCTSConfig(new_tokens=2, rules=NO_RULES, search=SEARCH, choice=ByVisits())
DRAWING = {
    "fudge": FudgeConfig(new_tokens=2, candidates=3),
    "gedi": GediConfig(new_tokens=2, rules=NO_RULES, strength=2.0, draw=True),
    "blockwise": BlockwiseConfig(new_tokens=2, block=2, of=2),
    "rerank": RerankConfig(new_tokens=2, of=2),
    "visits": PUCT,
    "visits and base": replace(PUCT, choice=ByVisits(mix_base=0.3)),
    "values": replace(PUCT, choice=ByValues()),
}


@pytest.mark.parametrize("name", DRAWING)
def test_over_secrets_a_method_writes_what_it_writes_unmarked(name):
    config = DRAWING[name]
    plain = Counter(texts_of(many(keys_of(3000, 1), SECRETS, config)))
    with_mark = marked(config, Watermark("gumbel", window=1))
    found = Counter(texts_of(many(keys_of(3000, 2), SECRETS, with_mark)))
    likely = [text for text in plain | found if plain[text] + found[text] >= 10]
    table = np.asarray([[counts[text] for text in likely] for counts in (plain, found)])
    assert table.sum() > 5900
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_over_secrets_weights_of_marked_particles_are_proper():
    config = SMCConfig(new_tokens=3, samples=4)
    with_mark = marked(config, Watermark("gumbel", window=1))
    found = many(keys_of(3000, 4), SECRETS, with_mark)
    evidence = np.exp(np.asarray(log_evidence(jax.tree.map(lambda a: a[:, 0], found)), np.float64))
    truth = 0.0
    for text in all_texts(3):
        judged = text[:-1] if text[-1] == END else text
        said = log_softmax(TABLES["scores"][memory_of([*PROMPT, *judged])].astype(np.float64))
        truth += np.exp(log_p_of(text) + said[1])
    error = evidence.std() / np.sqrt(len(evidence))
    assert abs(evidence.mean() - truth) < 4 * error


def marked_log_p_of(text, secret, watermark) -> float:
    """Returns log p of a text under the language model with a greenlist."""
    total = 0.0
    for at, token in enumerate(text):
        logits = TABLES["logits"][memory_of([*PROMPT, *text[:at]])].astype(np.float64)
        if at >= watermark.window:
            window = np.asarray([text[at - watermark.window : at]], np.uint32)
            words = token_words(window_seed(secret, window), np.arange(VOCAB, dtype=np.uint32))
            logits = logits + watermark.delta * (words / 2**32 < watermark.gamma)
        total += log_softmax(logits)[token]
    return total


def test_weights_of_particles_are_of_the_language_model_with_its_greenlist():
    watermark = Watermark(window=1, gamma=0.4, delta=3.0)
    config = marked(SMCConfig(new_tokens=3, samples=4), watermark)
    found = many(keys_of(3000, 6), np.repeat(SECRETS[:1], 3000, axis=0), config)

    def raised(text):
        """Returns by how much the list raises a text's log p: what weights must not take away."""
        return marked_log_p_of(text, SECRETS[0], watermark) - log_p_of(text)

    weight = np.exp(np.asarray(found.log_weight, np.float64)).reshape(3000, 4)
    measured = np.asarray([raised(text) for text in texts_of(found)]).reshape(3000, 4)
    estimate = (weight * measured).mean(axis=1)
    truth = 0.0
    for text in all_texts(3):
        judged = text[:-1] if text[-1] == END else text
        said = log_softmax(TABLES["scores"][memory_of([*PROMPT, *judged])].astype(np.float64))
        log_p = marked_log_p_of(text, SECRETS[0], watermark)
        truth += np.exp(log_p + said[1]) * raised(text)
    error = estimate.std() / np.sqrt(len(estimate))
    assert abs(estimate.mean() - truth) < 4 * error


def test_log_proposal_is_what_a_marked_text_was_drawn_with():
    rules = Rules(top_k=4, watermark=Watermark(window=1, gamma=0.4, delta=2.0))
    for config in (
        SamplingConfig(new_tokens=3),
        SamplingConfig(new_tokens=3, mix_base=1.0),
        replace(PUCT, new_tokens=3, choice=ByVisits(mix_base=1.0)),
    ):
        with_mark = marked(config, rules.watermark)
        found = many(keys_of(20), SECRETS[:20], with_mark)
        pairs = zip(texts_of(found), SECRETS, strict=False)
        wanted = [marked_log_p_of(text, secret, rules.watermark) for text, secret in pairs]
        np.testing.assert_allclose(np.ravel(found.log_proposal), wanted, rtol=1e-4)
    for config in (SamplingConfig(new_tokens=3), replace(PUCT, choice=ByValues())):
        found = many(keys_of(4), SECRETS[:4], marked(config, Watermark("permute-flip")))
        assert np.isnan(found.log_proposal).all()


def test_trees_know_nothing_of_a_mark():
    def tree_of(config):
        marking = marking_of(SECRETS[0], np.zeros(1)) if config.rules.watermark else None
        job = Job(
            prompt=prompt_of(PROMPT), params=PARAMS, discriminator_params=PARAMS, marking=marking,
            target=jnp.ones(1, jnp.int32), language_model=MODEL, discriminator=JUDGE, config=config,
        )  # fmt: skip
        return MCTS.advance(jax.random.key(0), job, MCTS.begin(job))[1]

    for watermark in (Watermark("gumbel", window=0), Watermark(window=0)):
        chex.assert_trees_all_equal(tree_of(PUCT), tree_of(marked(PUCT, watermark)))


@pytest.mark.parametrize("root", [Puct(), Halving(considered=4)])
def test_a_search_that_takes_the_best_takes_the_best_of_visits_and_green(root):
    search = replace(SEARCH, root=root, simulations=8, reused_nodes=8)
    config = MCTSConfig(new_tokens=1, rules=NO_RULES, search=search)

    def first(watermark=None):
        found = many(keys_of(64), SECRETS[:64], marked(config, watermark))
        return [text[0] for text in texts_of(found)]

    plain = first()
    assert first(Watermark(window=0, delta=1e-6)) == plain
    hard = first(Watermark(window=0, gamma=0.5, delta=float("inf")))
    for token, before, secret in zip(hard, plain, SECRETS, strict=False):
        seed = window_seed(secret, np.zeros((1, 0), np.uint32))
        green = token_words(seed, np.arange(VOCAB, dtype=np.uint32)) / 2**32 < 0.5
        # What was best without it stays so where it is green.
        assert green[token] or token == before
        assert token == before or not green[before]
    assert sum(token != before for token, before in zip(hard, plain, strict=True)) > 5


def test_beams_find_the_best_of_the_raised_log_p_and_report_the_plain_one():
    watermark = Watermark(window=1, gamma=0.4, delta=2.5)
    for make in (
        BeamConfig(new_tokens=3, beams=25, length_penalty=0.0),
        DASConfig(new_tokens=3, beams=25, candidates=125, alpha=0.0, length_penalty=0.0),
    ):
        found = many(keys_of(6), SECRETS[:6], marked(make, watermark))
        texts, told = texts_of(found), np.asarray(found.log_prob).ravel()
        for text, secret, log_prob in zip(texts, SECRETS, told, strict=False):
            raised = functools.partial(marked_log_p_of, secret=secret, watermark=watermark)
            best = max(all_texts(3), key=raised)
            assert raised(text) == pytest.approx(raised(best), abs=1e-4)
            assert log_prob == pytest.approx(log_p_of(text), abs=1e-4)


def test_what_is_forced_comes_before_a_list_that_is_hard():
    for token in range(VOCAB - 1):
        rules = Rules(forced=(token,), watermark=Watermark(window=0, gamma=0.3, delta=float("inf")))
        for config in (BeamConfig(new_tokens=2, rules=rules), SamplingConfig(2, rules=rules)):
            found = many(keys_of(3), SECRETS[:3], config)
            assert all(text[0] == token for text in texts_of(found))
            told = [log_p_of(text) for text in texts_of(found)]
            np.testing.assert_allclose(np.ravel(found.log_prob), told, rtol=1e-4)


def test_secrets_and_messages_are_arguments_of_one_program_without_sort_or_host():
    config = SamplingConfig(new_tokens=4)

    def program(config, marking):
        job = Job(prompt=prompt_of(PROMPT), params=PARAMS, marking=marking, language_model=MODEL,
                  config=config)  # fmt: skip
        state = SAMPLING.begin(job)
        return jax.jit(SAMPLING.advance).lower(jax.random.key(0), job, state).as_text()

    plain = program(config, None)
    for scheme in ("greenlist", "gumbel", "permute-flip"):
        with_mark = marked(config, Watermark(scheme))
        texts = [program(with_mark, marking_of(SECRETS[n], [n])) for n in range(2)]
        assert texts[0] == texts[1]
        for word in ("stablehlo.sort", "custom_call", "callback", "chlo.top_k"):
            assert texts[0].count(word) == plain.count(word), (scheme, word)


NONE_DRAWN = {
    "greedy": SamplingConfig(rules=Rules(temperature=0.0)),
    "best": MCTSConfig(),
    "beam": BeamConfig(),
    "das": DASConfig(),
    "gedi": GediConfig(),
    "fudge": FudgeConfig(greedy=True),
    "beams": RerankConfig(proposal=BeamConfig(), of=4),
    "stochastic": StochasticBeamConfig(),
    "pplm": PPLMConfig(rules=Rules(temperature=0.0)),
}


@pytest.mark.parametrize("name", NONE_DRAWN)
def test_where_nothing_is_drawn_a_greenlist_alone_can_mark(name):
    config = NONE_DRAWN[name]
    for scheme in ("gumbel", "permute-flip", "tournament"):
        with pytest.raises(
            ValueError, match=f"a {scheme} watermark takes the place of a token's draw"
        ):
            marked(config, Watermark(scheme))
    marked(config, Watermark())


def test_what_a_mark_cannot_do_is_told():
    whole = Watermark("gumbel", window=0)
    for config in (SamplingConfig(samples=2), SMCConfig(), BlockwiseConfig(), RerankConfig()):
        with pytest.raises(ValueError, match="without a window would make one text of the"):
            marked(config, whole)
        marked(config, replace(whole, window=1))
        marked(config, Watermark(window=0))
    marked(SamplingConfig(), whole)
    for config in (SMCConfig(), SamplingConfig(mix_base=0.1), DRAWING["visits and base"]):
        with pytest.raises(ValueError, match="permute-flip draws from another distribution"):
            marked(config, Watermark("permute-flip"))
        with pytest.raises(ValueError, match="delta is infinite"):
            marked(config, Watermark(delta=float("inf")))
    few = Watermark("tournament")
    for config in (SamplingConfig(), SMCConfig(), DRAWING["values"], DRAWING["visits and base"],
                   SamplingConfig(rules=Rules(top_k=5), mix_base=0.1)):  # fmt: skip
        with pytest.raises(ValueError, match="a tournament is held among a few tokens"):
            marked(config, few)
    for config in (SamplingConfig(rules=Rules(top_k=5)), FudgeConfig(), PUCT):
        marked(config, few)


def test_a_rule_without_its_secret_is_refused_and_a_secret_without_its_rule():
    config = SamplingConfig(new_tokens=2)
    for one, marking in (
        (config, marking_of(SECRETS[0], [0])),
        (marked(config, Watermark()), None),
    ):
        with pytest.raises(UserError, match="a watermark is a rule and a secret: give both"):
            written(jax.random.key(0), marking, config=one)


def test_a_secret_is_not_shown():
    assert "1234567" not in repr(marking_of([1234567, 2, 3, 4], [0]))
