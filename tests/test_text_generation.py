"""Strings in, strings out: batching, numbering and how often anything is compiled."""

import dataclasses
from functools import partial

import jax
import pytest

from coopgen_jax import PRESETS, load_discriminator, load_language_model
from coopgen_jax import text_generation as shell
from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.discriminators.shared_trunk import shared_trunk
from coopgen_jax.errors import UserError
from coopgen_jax.models.pretrained.combined_model import combined, params_of, reference_params_of
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.models.prompt import bucket
from coopgen_jax.search import SearchConfig
from coopgen_jax.text_generation import generate
from coopgen_jax.tokenizer import Tokenizer
from tests.models.model_files import byte_tokenizer
from tests.tiny_model import guide, model

SEARCH = SearchConfig(simulations=4, candidates=4, depth=4, reused_nodes=4)
CONFIG = MCTSConfig(new_tokens=3, search=SEARCH)


def test_texts_come_in_the_order_of_the_prompts_whatever_the_batch():
    prompts = ["a long prompt of more than sixteen bytes", "b", "cc", "another long prompt it is"]
    targets = ["good", "bad", "good", "bad"]
    config = CONFIG.with_settings(samples=2, visit_temperature=1.0)
    write = partial(
        generate, model(), prompts, config=config, discriminator=guide(), target=targets, seed=3
    )
    together, alone = write(batch_size=3), write(batch_size=1)
    assert [(t.number, t.sample) for t in together] == [(n, s) for n in range(4) for s in range(2)]
    assert [t.prompt for t in together[::2]] == prompts
    assert [t.target for t in together[::2]] == targets
    for one, other in zip(together, alone, strict=True):
        assert one.tokens == other.tokens
        assert one.log_prob == pytest.approx(other.log_prob, abs=1e-4)
        assert one.class_probabilities["good"] == pytest.approx(
            other.class_probabilities["good"], abs=1e-4
        )
    assert len({tuple(t.tokens) for t in together}) > 4


def test_a_bucket_is_compiled_once_and_a_second_load_not_at_all():
    prompts = [f"{'x' * length}" for length in range(1, 60, 3)]
    assert len(prompts) == 20
    buckets = {bucket(len(prompt)) for prompt in prompts}
    advance = shell._advance
    config = dataclasses.replace(CONFIG, new_tokens=2)
    before = advance._cache_size()
    generate(model(), prompts, config=config, discriminator=guide(), target="good", batch_size=4)
    assert advance._cache_size() - before <= len(buckets)
    loaded = dataclasses.replace(model())
    head = guide().discriminator.evaluate.config
    again = LoadedDiscriminator(shared_trunk(dataclasses.replace(head)), guide().params, {})
    counted = advance._cache_size()
    generate(loaded, prompts, config=config, discriminator=again, target="bad", batch_size=4)
    assert advance._cache_size() == counted


def test_some_of_the_prompts_get_the_texts_that_they_have_among_all():
    prompts = ["one", "two", "three", "four"]
    config = CONFIG.with_settings(visit_temperature=1.0)
    write = partial(
        generate, model(), prompts, config=config, discriminator=guide(), target="good",
        batch_size=2,
    )  # fmt: skip
    whole = write()
    assert write(numbers=[]) == []
    some = write(numbers=[3, 1])
    assert [text.number for text in some] == [1, 3]
    assert [text.tokens for text in some] == [whole[1].tokens, whole[3].tokens]


def test_plain_decoding_needs_no_guide_and_is_judged_where_there_is_one():
    config = SamplingConfig(new_tokens=3, rules=Rules(temperature=0))
    (plain,) = generate(model(), ["abc"], config=config)
    (judged,) = generate(model(), ["abc"], config=config, discriminator=guide())
    assert plain.tokens == judged.tokens and plain.log_proposal is None
    assert plain.class_probabilities == {} and plain.target is None
    assert sum(judged.class_probabilities.values()) == pytest.approx(1)
    assert plain.perplexity > 1


def test_a_listener_hears_every_token_and_sees_the_tree():
    heard = []
    generate(
        model(), ["abc", "d"], config=CONFIG, discriminator=guide(), target="good",
        batch_size=1, listener=heard.append,
    )  # fmt: skip
    assert [(step.batch, step.batches, step.done) for step in heard[::3]] == [(0, 2, 0), (1, 2, 1)]
    assert [step.step for step in heard] == [1, 2, 3] * 2
    assert all(step.tree.visits.shape == (1, 1, SEARCH.nodes) for step in heard)


def test_a_reference_reads_along():
    prompts = ["abc", "a film that was", "d"]
    tuned = dataclasses.replace(
        model(), params=jax.tree.map(lambda leaf: 0.9 * leaf, model().params), name="tuned"
    )
    config = CONFIG.with_settings(kl=0.5)
    write = partial(generate, tuned, prompts, discriminator=guide(), target="good", batch_size=2)
    free, charged = write(config=CONFIG), write(config=config, reference=model())
    assert [text.tokens for text in charged] != [text.tokens for text in free]
    for same in (write(config=config, reference=tuned), write(config=CONFIG, reference=model())):
        assert same == free
    # A combined model is charged for leaving its base, whose weights are there once.
    both = combined(model(), expert=tuned, expert_weight=1.0)
    assert reference_params_of(tuned, both, params_of(both)) is tuned.params
    mixed = generate(
        both, prompts, config=config, reference=model(), discriminator=guide(), target="good",
        batch_size=2,
    )  # fmt: skip
    assert [text.tokens for text in mixed] == [text.tokens for text in charged]


def foreign() -> LoadedModel:
    core = byte_tokenizer()
    core.add_tokens(["foreign"])
    return dataclasses.replace(model(), tokenizer=Tokenizer(core), name="foreign")


def padded() -> LoadedModel:
    config = dataclasses.replace(model().config, vocab_size=308)
    return dataclasses.replace(model(), config=config, name="padded")


CHARGED = CONFIG.with_settings(kl=0.1)


@pytest.mark.parametrize(
    ("prompts", "options", "sentence"),
    [
        ([], {}, "no prompt"),
        (["abc"], {"config": CHARGED}, "kl is 0.1, the price of leaving a reference, and there is"),
        (
            ["abc"],
            {"config": CHARGED, "reference": foreign()},
            "the reference foreign has other tokens than tiny",
        ),
        (
            ["abc"],
            {"config": CHARGED, "reference": padded()},
            "the reference padded scores 308 tokens and tiny 300",
        ),
        (
            ["abc"],
            {"config": SamplingConfig(), "target": None, "reference": foreign()},
            "only a search is charged for leaving a reference",
        ),
        (["abc", ""], {}, "prompt 2 is empty"),
        (["x" * 300], {}, "prompt 1 has 300 tokens"),
        (["abc"], {"target": "goood"}, "unknown target 'goood': choose one of bad, good"),
        (["abc"], {"target": None}, "needs a target: choose one of bad, good"),
        (["abc"], {"target": ["good", "bad"]}, "2 targets for 1 prompts"),
        ("abc", {}, "prompts is one string"),
        (["abc"], {"numbers": [1]}, "there is no prompt 1"),
        (["abc"], {"numbers": [-1]}, "there is no prompt -1"),
        (["abc"], {"discriminator": None}, "a target means nothing without"),
        (["abc"], {"discriminator": None, "target": None}, "needs alpha below 1"),
        (
            ["abc"],
            {
                "discriminator": None,
                "target": None,
                "config": CONFIG.with_settings(alpha=0.0, rollout=2),
            },
            "read by a discriminator alone",
        ),
        (
            ["abc"],
            {
                "config": dataclasses.replace(
                    CONFIG, search=SearchConfig(simulations=512, wave=512, candidates=600)
                )
            },
            "the vocabulary has only 300 tokens",
        ),
    ],
)
def test_wrong_input_is_one_sentence(prompts, options, sentence):
    options = {"target": "good", "discriminator": guide(), "config": CONFIG} | options
    with pytest.raises(UserError, match=sentence):
        generate(model(), prompts, **options)


@pytest.mark.default_model
def test_the_default_model_writes_the_same_alone_in_company_and_under_padding():
    language_model = load_language_model()
    sentiment = load_discriminator("sentiment", language_model=language_model)
    prompts = [
        "This film was",
        "My phone",
        "The hotel, which we had booked for our honeymoon a year before we went, turned out to be",
        "I",
        "We waited for an hour and then",
        "The second season",
        "In my opinion this is",
        "He said that the food",
    ]
    config = PRESETS["default"]
    search = dataclasses.replace(config.search, simulations=8, wave=8, reused_nodes=8)
    config = dataclasses.replace(config, new_tokens=5, search=search)
    write = partial(
        generate, language_model, config=config, discriminator=sentiment, target="negative"
    )
    together = write(prompts, batch_size=8)
    alone = write(prompts, batch_size=1)
    fewer = write(prompts[3:6], batch_size=3)
    assert [text.tokens for text in together] == [text.tokens for text in alone]
    assert [text.tokens for text in together[3:6]] == [text.tokens for text in fewer]
