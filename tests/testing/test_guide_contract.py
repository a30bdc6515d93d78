"""The contract of discriminators: those of every kind keep it, and broken ones are named."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers

import coopgen_jax as cg
from coopgen_jax.discriminators.bag_of_words import bag_of_words
from coopgen_jax.discriminators.bidirectional import BidirectionalConfig, bidirectional
from coopgen_jax.discriminators.causal import CausalConfig, causal, init_causal
from coopgen_jax.discriminators.composition import Term, compose
from coopgen_jax.discriminators.generative import GenerativeConfig, generative, generative_params
from coopgen_jax.discriminators.head import Head, HeadConfig
from coopgen_jax.discriminators.host.function import host_function, reward
from coopgen_jax.discriminators.host.retokenise import Crossing
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.discriminators.shared_trunk import SharedTrunkConfig, shared_trunk
from coopgen_jax.discriminators.trunk_layers import trunk_layers
from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.language_model import Bound
from coopgen_jax.models.transformer import init_decoder
from coopgen_jax.testing import (
    TINY_GPT2,
    TINY_LLAMA,
    ToyLanguage,
    toy_discriminator,
    toy_language_model,
)
from coopgen_jax.tokenizer import Tokenizer
from tests.discriminators import small_layers
from tests.discriminators.conditional import conditional

TOY = ToyLanguage(vocab_size=61)
TABLES = jax.tree.map(jnp.asarray, TOY.tables(0))
# A toy has no states: what reads tokens alone is checked on it, which compiles fast.
ON_TOY = {"language_model": toy_language_model(TOY), "language_model_params": TABLES}
GUIDE = toy_discriminator(TOY)


def on_llama(taps):
    params = init_decoder(jax.random.key(0), TINY_LLAMA)
    model = replace(language_model(TINY_LLAMA, taps), end_tokens=(small_layers.END,))
    return {"language_model": model, "language_model_params": params}


def check(guide, params, network=None, **options):
    cg.testing.check_discriminator(guide, params, **(network or ON_TOY), **options)


def tokenizer():
    """Letters and spaces as tokens of their own, and an end of text."""
    vocabulary = {f"<{number}>": number for number in range(60)} | {"<end>": 60}
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<0>"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("<.*?>"), "isolated")
    core.decoder = tokenizers.decoders.Fuse()
    return Tokenizer(core, end_tokens=[60])


@pytest.mark.parametrize("seed", range(2))
def test_the_toy_keeps_the_contract(seed):
    check(GUIDE, TABLES, exact_children=True, seed=seed)


CONTEXT = jnp.array([[0.0, 2.0], [2.0, 0.0], [0.5, 0.0]])


def test_what_knows_more_of_a_row_keeps_the_contract():
    check(conditional(TOY), TABLES, context=CONTEXT)


def test_a_context_that_is_not_taken_or_is_another_rows_is_named():
    with pytest.raises(AssertionError, match="init does not take it into the state"):
        check(GUIDE, TABLES, context=CONTEXT)
    mixed = replace(conditional(TOY), init=Bound(_of_another_row, conditional(TOY)))
    with pytest.raises(AssertionError, match="depends on the rows beside it"):
        check(mixed, TABLES, context=CONTEXT)
    with pytest.raises(cg.UserError, match="2 rows for 3 prompts"):
        check(conditional(TOY), TABLES, context=CONTEXT[:2])


def _of_another_row(guide, params, prompt, hidden, *, capacity):
    prompt = replace(prompt, context=jnp.roll(prompt.context, 1, axis=0))
    return guide.init(params, prompt, hidden, capacity=capacity)


def trunk(taps, reads_prompt):
    head = HeadConfig(("bad", "good", "none"), 2 * len(taps) * TINY_LLAMA.width, (16,))
    params = Head(head).init(jax.random.key(1), jnp.zeros((1, head.inputs)))["params"]
    return LoadedDiscriminator(shared_trunk(SharedTrunkConfig(taps, reads_prompt, head)), params)


@pytest.mark.parametrize("reads_prompt", [False, True])
def test_heads_on_the_trunk_keep_the_contract(reads_prompt):
    loaded = trunk((1, 3), reads_prompt)
    check(loaded.discriminator, loaded.params, on_llama((1, 3)))


def test_layers_on_the_trunk_keep_the_contract():
    guide = trunk_layers(small_layers.SHAPE)
    check(guide, small_layers.GUIDE_PARAMS, on_llama(small_layers.TAPS))


@pytest.mark.parametrize("start_token", [None, 60])
def test_networks_of_their_own_keep_the_contract(start_token):
    head = HeadConfig(("bad", "good"), TINY_GPT2.width, (16,))
    config = CausalConfig(TINY_GPT2, head, start_token=start_token)
    check(causal(config), init_causal(jax.random.key(1), config))


@pytest.mark.parametrize("reads_prompt", [False, True])
def test_generative_ones_keep_the_contract_and_know_children_exactly(reads_prompt):
    shape = replace(TINY_GPT2, end_tokens=(60,))
    config = GenerativeConfig(shape, ("a", "b"), ((7,), (8, 9)), reads_prompt=reads_prompt)
    network = jax.tree.map(lambda leaf: 3 * leaf, init_decoder(jax.random.key(3), shape))
    params = generative_params(network, 2, prior=[0.3, 0.7], scale=1.7)
    check(generative(config), params, exact_children=True)


@pytest.mark.parametrize("reads_prompt", [False, True])
def test_readers_of_another_tokenizer_keep_the_contract(tiny_encoder, reads_prompt):
    config = BidirectionalConfig(
        tiny_encoder.config,
        HeadConfig(("zero", "one"), inputs=8, hidden=(6,)),
        Crossing(tokenizer(), tiny_encoder.tokenizer, width=24),
        reads_prompt=reads_prompt,
    )
    head = Head(config.head).init(jax.random.key(1), jnp.zeros((1, 8)))["params"]
    check(
        bidirectional(config), {"encoder": tiny_encoder.params, "head": head}, exact_children=True
    )


@pytest.mark.parametrize("reads_prompt", [False, True])
def test_bags_of_words_keep_the_contract(reads_prompt):
    words = [f"<{number}>" for number in range(0, 40, 2)]
    loaded = bag_of_words(words, tokenizer=tokenizer(), reads_prompt=reads_prompt)
    check(loaded.discriminator, loaded.params)


def share(texts):
    return np.array([(1 + text.count("1")) / (2 + len(text)) for text in texts])


@pytest.mark.parametrize("reads_prompt", [True, False])
def test_functions_in_python_keep_the_contract_and_know_children_exactly(reads_prompt):
    how = {"tokenizer": tokenizer(), "reads_prompt": reads_prompt}
    for loaded in (host_function(share, classes=("few", "many"), **how), reward(share, **how)):
        check(loaded.discriminator, loaded.params, exact_children=True)


@pytest.mark.parametrize("reads_prompt", [True, False])
def test_compositions_keep_the_contract(reads_prompt):
    parts = trunk((1, 3), True), trunk((2,), reads_prompt)
    loaded = compose([Term(parts[0], "good", weight=2.0), Term(parts[1], "bad", negated=True)])
    check(loaded.discriminator, loaded.params, on_llama((1, 2, 3)))


def prefixed(change):
    """A head that says other things of prefixes."""
    loaded = trunk((1, 3), False)
    guide = loaded.discriminator

    def evaluate_prefixes(*arguments):
        return guide.evaluate_prefixes(*change(*arguments))

    return replace(guide, evaluate_prefixes=evaluate_prefixes), loaded.params


def test_prefixes_that_are_judged_otherwise_are_named():
    def another_length(params, prompt, tokens, lengths, hidden):
        return params, prompt, tokens, jnp.maximum(lengths - 1, 1), hidden

    def the_end(params, prompt, tokens, lengths, hidden):
        later = hidden.at[:, :-1].add(tokens[:, -1, None, None, None] * (lengths.shape[1] == 1))
        return params, prompt, tokens, lengths, later

    for change, told in (
        (another_length, "evaluate_prefixes says of a text what evaluate does not say"),
        (the_end, "what evaluate_prefixes says of a prefix depends on the tokens behind it"),
    ):
        guide, params = prefixed(change)
        with pytest.raises(AssertionError, match=told):
            check(guide, params, on_llama((1, 3)))


def judged(change):
    """The toy that says other things of nodes."""

    def evaluate(params, state, nodes):
        log_class, after = GUIDE.evaluate(params, state, nodes)
        return change(log_class, nodes), after

    return replace(GUIDE, evaluate=evaluate)


def begun(change):
    """The toy that says other things of bare prompts."""

    def init(params, prompt, hidden, *, capacity):
        log_class, state = GUIDE.init(params, prompt, hidden, capacity=capacity)
        return change(log_class), state

    return replace(GUIDE, init=init)


def foreseeing(change):
    """The toy that says other things of children."""

    def evaluate_children(params, state, nodes, candidates):
        said = GUIDE.evaluate_children(params, state, nodes, candidates)
        return change(said, nodes, candidates)

    return replace(GUIDE, evaluate_children=evaluate_children)


def leaning(log_class, by):
    """Returns log-probabilities of two classes whose odds are changed by `[...]`."""
    return jax.nn.log_softmax(log_class.at[..., 0].add(by))


def at_end(said, candidates):
    ids = jnp.arange(said.shape[3])[None, None, None] if candidates is None else candidates
    return leaning(said, 1.0 * jnp.broadcast_to(ids == 60, said.shape[:-1]))


class Function(list):
    def __call__(self, *args, **options):
        return GUIDE.init(*args, **options)


BROKEN = {
    "cannot be hashed": replace(GUIDE, init=Function()),
    "has no class": replace(GUIDE, classes=()),
    r"reads the taps \(1,\)": replace(GUIDE, taps=(1,)),
    "the context is 9: the check reads": replace(GUIDE, context=9),
    "evaluate returns shape": judged(lambda x, nodes: x[..., :1]),
    "init returns bfloat16": begun(lambda x: x.astype(jnp.bfloat16)),
    "evaluate returns log-probabilities above 0": judged(lambda x, nodes: x + 1),
    "evaluate returns numbers that are NaN": judged(lambda x, nodes: x * jnp.nan),
    "the probabilities of evaluate sum to 0.3679": judged(lambda x, nodes: x - 1),
    "depends on the rows beside it": judged(
        lambda x, nodes: leaning(x, 0.1 * nodes.token.sum(0, keepdims=True))
    ),
    "depends on the samples beside it": judged(
        lambda x, nodes: leaning(x, 0.1 * nodes.token.sum(1, keepdims=True))
    ),
    "nodes that are not its ancestors": judged(
        lambda x, nodes: leaning(x, 0.1 * nodes.token.sum(2, keepdims=True))
    ),
    "depends on the slots": judged(lambda x, nodes: leaning(x, 0.1 * nodes.start)),
    "a terminal node changes": judged(
        lambda x, nodes: leaning(x, 1.0 * nodes.terminal.sum(2, keepdims=True))
    ),
    "read into slot 0, behind 1 committed": judged(
        lambda x, nodes: leaning(x, 1.0 * (nodes.committed[..., None] > 0))
    ),
    "after 1 new roots": judged(
        lambda x, nodes: leaning(x, 1.0 * ((nodes.committed[..., None] > 0) & (nodes.start > 0)))
    ),
    "too little to check": judged(lambda x, nodes: jnp.full_like(x, -jnp.log(2))),
    "not what evaluate says of it behind its prompt": begun(lambda x: leaning(x, 1.0)),
    "though the prompt is not judged": replace(GUIDE, reads_prompt=False),
    "evaluate_children returns shape": foreseeing(lambda x, *_: x[..., :1]),
    "of candidates than of the whole vocabulary": foreseeing(
        lambda x, nodes, ids: x if ids is None else leaning(x, 1.0)
    ),
    "what evaluate does not say once it is read": foreseeing(lambda x, *_: leaning(x, 1.0)),
    "changes when the node becomes the root": foreseeing(
        lambda x, nodes, ids: leaning(x, 1.0 * (nodes.depth == 0)[..., None])
    ),
    "of a child that ends the text": foreseeing(lambda x, nodes, ids: at_end(x, ids)),
    "evaluate does not depend on the hidden states": replace(GUIDE, differentiable=True),
}


@pytest.mark.parametrize("clause", BROKEN)
def test_a_broken_clause_is_named(clause):
    with pytest.raises(AssertionError, match=clause) as caught:
        check(BROKEN[clause], TABLES, exact_children=True)
    assert "\n" not in str(caught.value)


def test_padding_that_is_judged_is_named():
    def init(params, prompt, hidden, *, capacity):
        everything = replace(prompt, mask=jnp.ones_like(prompt.mask))
        return GUIDE.init(params, everything, hidden, capacity=capacity)

    with pytest.raises(AssertionError, match="depends on the padding"):
        check(replace(GUIDE, init=init), TABLES)


def test_a_gradient_that_is_no_slope_is_named():
    loaded = trunk((1, 3), True)

    def evaluate(params, state, nodes):
        hidden = nodes.hidden + jax.lax.stop_gradient(nodes.hidden)
        return loaded.discriminator.evaluate(params, state, replace(nodes, hidden=hidden / 2))

    broken = replace(loaded.discriminator, evaluate=evaluate)
    with pytest.raises(AssertionError, match="the gradient of evaluate by the hidden states is"):
        check(broken, loaded.params, on_llama((1, 3)))
