"""Images that guide: what is said of texts, and what decoders write, against an enumeration."""

import functools
import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import coopgen_jax as cg
from coopgen_jax.decoding.job import Job
from coopgen_jax.decoding.mcts import ppl_mcts
from coopgen_jax.discriminators.image_guide import (
    CLASSES,
    CausalTextConfig,
    ImageContext,
    clip_guide,
    describing_causally,
    image_context,
    image_guide,
    init_describer,
    log_choice,
)
from coopgen_jax.errors import UserError
from coopgen_jax.models.clip import image_vectors, text_vectors, unit
from coopgen_jax.models.pretrained.image_networks import load_clip
from coopgen_jax.models.prompt import with_context
from coopgen_jax.models.reading import read
from coopgen_jax.models.transformer import final_norm
from coopgen_jax.search import SearchConfig
from coopgen_jax.testing import TINY_GPT2, ToyLanguage, check_discriminator, toy_language_model
from tests.decoding.toy import END, MODEL, PARAMS, TABLES, TOY, log_softmax, memory_of, prompt_of
from tests.models.clip_files import picture, save_clip
from tests.parallel.parallel_models import model

# Four toy images of five numbers, in no order.
IMAGES = np.array(
    [[1, 0, 0, 0.5, 0], [0, 1, 0, 0, -1], [0.3, 0.1, -1, 0, 0], [0, -1, 0.2, 1, 1]], np.float32
)
TEXT = CausalTextConfig(
    replace(TINY_GPT2, vocab_size=TOY.vocab_size, layers=1, width=16, heads=2, kv_heads=2,
            head_width=8, ffn_width=16), width=5, start_token=END,
)  # fmt: skip
GUIDE = image_guide(describing_causally(TEXT))


@functools.cache
def params():
    drawn = init_describer(jax.random.key(3), TEXT)
    network = jax.tree.map(lambda leaf: 4 * leaf, drawn["network"])
    return {"text": {**drawn, "network": network}, "log_scale": jnp.log(4.0)}


def probability_by_hand(vector, images, scale):
    """p of the first of some images, by NumPy."""
    cosines = images @ vector / np.linalg.norm(images, axis=-1) / np.linalg.norm(vector)
    weights = np.exp(scale * cosines)
    return weights[0] / weights.sum()


@functools.cache
def vectors_of_all():
    """The vector of every text of one to three tokens, read as a whole behind the start token."""
    texts = [text for length in (1, 2, 3) for text in itertools.product(range(5), repeat=length)]
    tokens = np.array([[END, *text, *[0] * (3 - len(text))] for text in texts])
    mask = np.array([[True] * (1 + len(text)) + [False] * (3 - len(text)) for text in texts])
    network = params()["text"]["network"]
    _, stream, _, _ = read(TEXT.network, network, jnp.asarray(tokens), jnp.asarray(mask))
    states = np.asarray(final_norm(TEXT.network, network, stream))
    last = states[np.arange(len(texts)), mask.sum(-1) - 1]
    kernel = np.asarray(params()["text"]["projection"]["kernel"])
    return {text: last[row] @ kernel for row, text in enumerate(texts)}


def p_own(text, row):
    """p of the own image of a row, of which the others' are the other images."""
    judged = tuple(text[:-1] if text and text[-1] == END else text)
    images = np.roll(IMAGES, -row, axis=0)
    return probability_by_hand(vectors_of_all()[judged], images, 4.0) if judged else 0.25


def asked(rows):
    prompt = prompt_of(*[[0, 1]] * len(rows))
    return with_context(prompt, image_context(IMAGES), rows)


def decode(config, rows=(0, 1, 2, 3)):
    return jax.jit(
        lambda prompt, own: cg.decode(
            jax.random.key(1),
            prompt,
            language_model=MODEL,
            params=PARAMS,
            discriminator=GUIDE,
            discriminator_params=own,
            target=jnp.full(len(rows), CLASSES.index("image")),
            config=config,
        )
    )(asked(list(rows)), params())


def test_a_choice_is_the_softmax_of_the_cosines():
    texts = np.random.default_rng(0).normal(size=(4, 3, 5)).astype(np.float32)
    found = log_choice(unit(jnp.asarray(texts)), image_context(IMAGES), jnp.log(7.0))
    for row in range(4):
        for number in range(3):
            images = np.roll(IMAGES, -row, axis=0)
            p = probability_by_hand(texts[row, number], images, 7.0)
            np.testing.assert_allclose(np.exp(found[row, number]), [1 - p, p], rtol=1e-4)
    silent = log_choice(jnp.zeros((4, 1, 5)), image_context(IMAGES), jnp.log(7.0))
    np.testing.assert_allclose(np.exp(silent), np.tile([0.75, 0.25], (4, 1, 1)), rtol=1e-6)


def test_others_may_be_given_for_all_or_for_each_and_be_padding():
    texts = unit(jnp.asarray(np.random.default_rng(1).normal(size=(2, 1, 5)), jnp.float32))
    own, others = IMAGES[:2], IMAGES[2:]
    shared = log_choice(texts, image_context(own, others), jnp.log(5.0))
    each = image_context(own, np.stack([others, others]))
    np.testing.assert_array_equal(log_choice(texts, each, jnp.log(5.0)), shared)
    wide = np.concatenate([others, 9 * np.ones((1, 5))])
    mask = np.array([[True, True, False]] * 2)
    padded = log_choice(texts, image_context(own, wide, mask), jnp.log(5.0))
    np.testing.assert_allclose(padded, shared, rtol=1e-6)
    # Far cosines at a low temperature leave no infinity behind.
    sharp = log_choice(texts, image_context(own, others), jnp.log(1e5))
    assert np.isfinite(sharp).all()


def test_an_image_that_stands_alone_is_refused():
    for images, others, mask in (
        (IMAGES[:1], None, None),
        (IMAGES[:2], IMAGES[:0], None),
        (IMAGES[:2], IMAGES[2:], [[True, False], [False, False]]),
    ):
        with pytest.raises(UserError, match="an image stands alone"):
            image_context(images, others, mask)


def test_the_guide_keeps_the_contract():
    toy = ToyLanguage(vocab_size=5)
    tables = jax.tree.map(jnp.asarray, toy.tables(0))
    given = {"language_model": toy_language_model(toy), "language_model_params": tables}
    check_discriminator(GUIDE, params(), context=image_context(IMAGES[:3]), **given)


def test_fudge_draws_as_an_enumeration_of_texts_says():
    config = cg.FudgeConfig(new_tokens=3, samples=50, candidates=4, strength=3.0)
    got = jax.device_get(decode(config))
    lengths = set()
    for row in range(4):
        for sample in range(50):
            text = got.tokens[row, sample, : got.length[row, sample]].tolist()
            lengths.add(len(text))
            expected = 0.0
            for at, token in enumerate(text):
                logits = TABLES["logits"][memory_of([0, 1, *text[:at]])]
                kept = sorted(range(5), key=lambda v: (-logits[v], v))[:4]
                score = np.full(5, -np.inf)
                for child in kept:
                    score[child] = logits[child] + 3 * np.log(p_own([*text[:at], child], row))
                expected += log_softmax(score)[token]
            np.testing.assert_allclose(
                got.log_proposal[row, sample], expected, rtol=1e-3, atol=1e-4
            )
            said = np.exp(got.log_class[row, sample])
            np.testing.assert_allclose(said[1], p_own(text, row), rtol=1e-4)
    assert lengths == {2, 3}


# A language model that is nearly even hides no text from the search.
SEARCH = cg.MCTSConfig(
    new_tokens=3,
    search=SearchConfig(simulations=600, candidates=5, depth=3, c_puct=2.0, reused_nodes=0),
    rules=cg.Rules(temperature=50.0),
)


def test_a_search_values_every_text_as_an_enumeration_does():
    wide = replace(SEARCH, search=replace(SEARCH.search, c_puct=20.0))

    @jax.jit
    def first(prompt, own):
        job = Job(
            prompt=prompt,
            language_model=MODEL,
            params=PARAMS,
            discriminator=GUIDE,
            discriminator_params=own,
            target=jnp.ones(4, jnp.int32),
            config=wide,
        )
        return ppl_mcts.advance(jax.random.key(0), job, ppl_mcts.begin(job))[1]

    tree = jax.device_get(first(asked([0, 1, 2, 3]), params()))
    checked = set()
    for row in range(4):
        texts = {0: ()}
        for node in np.flatnonzero(tree.visits[row, 0]):
            for rank in np.flatnonzero(tree.children[row, 0, node] > 0):
                token = int(tree.tokens[row, 0, node, rank])
                texts[int(tree.children[row, 0, node, rank])] = (*texts[int(node)], token)
        below = {node: [n for n, t in texts.items() if t[: len(text)] == text and n != node]
                 for node, text in texts.items()}  # fmt: skip
        for node, text in texts.items():
            if node and not below[node]:
                # Each visit of a leaf, or of a text that has ended, adds its value once more.
                mean = tree.value_sum[row, 0, node] / tree.visits[row, 0, node]
                np.testing.assert_allclose(mean, p_own(text, row), rtol=1e-4)
                checked.add(text)
    # All texts: up to two tokens and an end, or three tokens.
    assert len(checked) == 1 + 4 + 4 * 4 * 5


def test_a_large_search_finds_the_text_that_tells_its_image_best():
    got = jax.device_get(decode(SEARCH))
    ended = [text for length in (1, 2, 3) for text in itertools.product(range(5), repeat=length)
             if END not in text[:-1] and (length == 3 or text[-1] == END)]  # fmt: skip
    ranked = []
    for row in range(4):
        text = got.tokens[row, 0, : got.length[row, 0]].tolist()
        every = [p_own(other, row) for other in ended]
        ranked.append(sum(p > p_own(text, row) + 1e-6 for p in every))
        # The mean of what is below a token chooses it, not the best that is below it.
        assert p_own(text, row) > 0.9 * max(every)
        assert np.median(every) < 0.75 * max(every)
    assert ranked.count(0) >= 3


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return load_clip(save_clip("clip", tmp_path_factory.mktemp("clip") / "it")[0])


def test_a_clip_guides_with_its_own_tokens(clip):
    language = model()
    guide = clip_guide(clip, tokenizer=language.tokenizer)
    pixels = np.stack([cg.pixels_of(clip.pixels, picture(seed, 20, 20)) for seed in range(3)])
    images = image_vectors(clip.config, clip.params, jnp.asarray(pixels))
    context = image_context(images)
    texts, scale = ("two dogs", "a cat"), float(jnp.exp(clip.params["logit_scale"]))
    prompt = with_context(cg.make_prompt(language.tokenizer, ["x"] * 2), context, [0, 2])
    rows = language.tokenizer.encode_batch([f" {text}" for text in texts])
    tokens = jnp.asarray([row[:6] for row in rows])
    guided = guide.discriminator.evaluate_prefixes
    lengths = jnp.asarray([[2, 4, 6]] * 2)
    said = np.exp(guided(guide.params, prompt, tokens, lengths, None))
    for number, (row, text) in enumerate(zip([0, 2], texts, strict=True)):
        starts = [text[:length] for length in (1, 3, 5)]
        vectors = text_vectors(clip.config, clip.params, *clip.tokens(starts))
        others = np.roll(np.asarray(images), -row, axis=0)
        wanted = [probability_by_hand(np.asarray(vector), others, scale) for vector in vectors]
        np.testing.assert_allclose(said[number, :, 1], wanted, rtol=1e-3)
    how = {"discriminator": guide, "target": "image", "config": cg.FudgeConfig(new_tokens=3)}
    written = cg.generate(language, ["a", "b", "c"], context=context, **how)
    assert all(0 < text.class_probabilities["image"] < 1 for text in written)
    # A function that gives a batch's rows does the same, and is asked for no others.
    asked = []

    def rows(numbers):
        asked.append(numbers.tolist())
        return jax.tree.map(lambda leaf: leaf[numbers], context)

    parts = cg.generate(language, ["a", "b", "c"], context=rows, batch_size=2, **how)
    assert asked == [[0, 1], [2, 2]]
    for one, other in zip(parts, written, strict=True):
        assert one.tokens == other.tokens
        assert one.class_probabilities == pytest.approx(other.class_probabilities, rel=1e-4)
    with pytest.raises(UserError, match="an array of 3 rows for 2 prompts"):
        cg.generate(language, ["a", "b"], context=lambda numbers: context, **how)
    with pytest.raises(UserError, match=r"give context=image_context\(\.\.\.\)"):
        cg.generate(language, ["a"], **how)


def test_a_context_is_split_by_rows():
    context = image_context(IMAGES)
    rows = with_context(prompt_of([1], [2]), context, [2, 0]).context
    assert isinstance(rows, ImageContext)
    np.testing.assert_array_equal(rows.images[:, 0], IMAGES[[2, 0]])
