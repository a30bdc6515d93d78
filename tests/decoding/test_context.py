"""What a discriminator knows of a row beside its text reaches it, row by row, in any batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import coopgen_jax as cg
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.errors import UserError
from coopgen_jax.models.prompt import check_context, with_context
from coopgen_jax.search import SearchConfig
from tests.decoding.toy import MODEL, PARAMS, TOY, prompt_of
from tests.discriminators.conditional import conditional
from tests.parallel.parallel_models import NETWORK, model

GUIDE = conditional(TOY)
ROWS = [[0, 1, 2], [3], [2, 2], [1, 0, 3, 1]]
# Each row is pulled to another class, and differently far.
CONTEXT = np.array([[0, 6], [6, 0], [0, 0], [-3, 2]], np.float32)
CONFIG = cg.MCTSConfig(
    new_tokens=4, samples=2, search=SearchConfig(simulations=8, wave=2, candidates=4, depth=4)
)


@jax.jit
def write(prompt):
    return cg.decode(
        jax.random.key(0),
        prompt,
        language_model=MODEL,
        params=PARAMS,
        discriminator=GUIDE,
        discriminator_params=PARAMS,
        target=jnp.ones(len(prompt.tokens), jnp.int32),
        config=CONFIG,
    )


def test_rows_are_written_under_their_own_context():
    whole = write(with_context(prompt_of(*ROWS), CONTEXT, range(4)))
    for number, row in enumerate(ROWS):
        prompt = with_context(prompt_of(row, first=number), CONTEXT, [number])
        alone = write(prompt)
        np.testing.assert_array_equal(whole.tokens[number], alone.tokens[0])
        np.testing.assert_allclose(whole.log_class[number], alone.log_class[0], rtol=1e-6)
    # What is said of a text is its own judgement, moved by the context.
    plain = write(with_context(prompt_of(*ROWS), 0 * CONTEXT, range(4)))
    same = np.asarray(plain.tokens == whole.tokens).all(axis=-1)
    moved = jax.nn.log_softmax(plain.log_class + CONTEXT[:, None])
    assert same.any() and not np.allclose(whole.log_class, plain.log_class)
    np.testing.assert_allclose(whole.log_class[same], moved[same], atol=1e-5)


def test_a_context_is_any_tree_with_a_row_a_prompt():
    tree = {"images": np.arange(12.0).reshape(4, 3), "own": (np.arange(4), None)}
    check_context(tree, 4)
    prompt = with_context(prompt_of([1], [2]), tree, [3, 0])
    np.testing.assert_array_equal(prompt.context["images"], [[9, 10, 11], [0, 1, 2]])
    np.testing.assert_array_equal(prompt.context["own"][0], [3, 0])
    check_context(None, 7)
    with pytest.raises(UserError, match="an array of 4 rows for 5 prompts"):
        check_context(tree, 5)
    with pytest.raises(UserError, match="a single number for 5 prompts"):
        check_context({"images": 1.0}, 5)


def test_texts_are_the_same_in_any_batch():
    language = cg.testing.ToyLanguage(vocab_size=NETWORK.vocab_size)
    tables = jax.tree.map(jnp.asarray, language.tables(1))
    guide = LoadedDiscriminator(conditional(language), tables, {})
    prompts, context = ["a b", "b", None, "cc"], {"bias": CONTEXT}["bias"]
    config = cg.FudgeConfig(new_tokens=3)
    how = {"discriminator": guide, "target": "one", "config": config, "context": context}
    large = cg.generate(model(), prompts, batch_size=4, **how)
    for size in (1, 2):
        small = cg.generate(model(), prompts, batch_size=size, **how)
        for one, other in zip(large, small, strict=True):
            assert one.text == other.text
            np.testing.assert_allclose(
                one.class_probabilities["one"], other.class_probabilities["one"], rtol=1e-4
            )
    other = cg.generate(model(), prompts, **(how | {"context": context[::-1]}))
    assert [text.class_probabilities for text in other] != [
        text.class_probabilities for text in large
    ]
    with pytest.raises(UserError, match="4 rows for 1 prompts"):
        cg.generate(model(), ["a"], **how)
