"""Low-rank additions to a loaded CLIP: what they change, what they leave, and what is kept."""

import json
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import coopgen_jax as cg
from coopgen_jax.data.batches import BatchConfig
from coopgen_jax.data.image_colours import CaptionedColours, normalised
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.clip_vectors import load_clip_vectors
from coopgen_jax.models.clip import image_vectors, text_vectors
from coopgen_jax.models.lora import LoraConfig
from coopgen_jax.models.prompt import with_context
from coopgen_jax.parallel.mesh import make_mesh
from coopgen_jax.training.contrastive import contrastive_terms
from coopgen_jax.training.loop import LoopConfig
from coopgen_jax.training.recipes import train_clip_lora
from coopgen_jax.training.recipes.clip_lora_recipe import init_clip_lora, with_clip_lora
from coopgen_jax.training.run import RecipeConfig
from tests.compiled import compiled
from tests.models.clip_files import save_clip
from tests.parallel.parallel_models import model

RANK = 2
CONFIG = RecipeConfig(
    loop=LoopConfig(steps=60, validate_every=20, save_every=20),
    batch=BatchConfig(rows=8, longest=12),
    lora=LoraConfig(rank=RANK, alpha=4.0),
    learning_rate=2e-2,
    saved_dtype="float32",
)
HUES = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (20, 30, 220), "grey": (120,) * 3}


def scenes(seed):
    """A square of one colour at the top or at the bottom of a noisy picture, and what it is."""
    rng = np.random.default_rng(seed)
    pictures, captions = [], []
    for name, hue in HUES.items():
        for place, rows in {"up": slice(0, 8), "low": slice(8, 15)}.items():
            picture = rng.integers(0, 40, (15, 15, 3)).astype(np.uint8)
            picture[rows] = hue
            pictures.append(picture)
            captions.append(f"{name} {place}")
    return CaptionedColours(np.stack(pictures), tuple(captions), np.arange(len(captions)))


TRAINING, VALIDATION = scenes(1), scenes(2)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    loaded = {case: cg.load_clip(save_clip(case, folder / case)[0]) for case in ("clip", "siglip")}
    # What is drawn is no temperature of a trained network.
    return {
        case: replace(
            clip,
            params=clip.params | {"logit_scale": jnp.full_like(clip.params["logit_scale"], 3.0)},
        )
        for case, clip in loaded.items()
    }


def train(clip, folder, towers="both", config=CONFIG, training=TRAINING):
    return train_clip_lora(
        clip, training, VALIDATION, config, towers=towers, folder=folder, mesh=make_mesh(1)
    )


@pytest.fixture(scope="module")
def trained(clips, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "it"
    return folder, train(clips["clip"], folder)


begun = jax.jit(init_clip_lora, static_argnames=("lora", "towers"))
merge = jax.jit(with_clip_lora, static_argnames="lora")


@partial(jax.jit, static_argnums=0)
def vectors(config, params, pixels, tokens, mask):
    return image_vectors(config, params, pixels), text_vectors(config, params, tokens, mask)


def both(clip, params):
    pixels = normalised(clip.pixels, jnp.asarray(VALIDATION.colours))
    return vectors(clip.config, params, pixels, *clip.tokens(VALIDATION.captions))


@pytest.mark.parametrize("case", ["clip", "siglip"])
def test_additions_change_nothing_at_first(case, clips):
    clip = clips[case]
    additions = begun(jax.random.key(0), clip.params, lora=CONFIG.lora)
    assert set(additions) == {"vision", "text"} and "gate" not in additions["text"]
    for found, wanted in zip(
        both(clip, merge(clip.params, additions, lora=CONFIG.lora)),
        both(clip, clip.params),
        strict=True,
    ):
        np.testing.assert_array_equal(found, wanted)


def test_a_gradient_is_that_of_the_kernel_by_the_chain_rule(clips):
    """W + s U D has dU = s dW D^T and dD = s U^T dW, which is zero at first."""
    clip, lora = clips["clip"], CONFIG.lora
    tokens, mask = clip.tokens(TRAINING.captions)
    images = both(clip, clip.params)[0]

    def loss(text):
        said = text_vectors(clip.config, {**clip.params, "text": text}, tokens, mask)
        numbers, real = jnp.asarray(TRAINING.image_of), jnp.ones(len(images), bool)
        scale = clip.params["logit_scale"]
        return sum(map(jnp.sum, contrastive_terms(images, said, scale, numbers, real)))

    additions = begun(jax.random.key(0), clip.params, lora=lora, towers="text")
    of_kernels, of_additions = jax.jit(
        lambda text, own: (
            jax.grad(loss)(text),
            jax.grad(lambda own: loss(with_clip_lora(clip.params, own, lora)["text"]))(own),
        )
    )(clip.params["text"], additions)
    for name, own in additions["text"].items():
        kernel = np.asarray(of_kernels["layers"][name]["kernel"], float)
        down = np.asarray(own["lora_down"], float)
        wanted = lora.alpha / lora.rank * np.einsum("lio,lro->lir", kernel, down)
        size, found = np.abs(wanted).max(), of_additions["text"][name]
        assert size > 1e-4
        np.testing.assert_allclose(found["lora_up"], wanted, atol=1e-4 * size)
        np.testing.assert_array_equal(found["lora_down"], 0.0)


def test_the_loss_falls_and_scenes_and_captions_find_one_another(trained):
    folder, card = trained
    assert json.loads((folder / "card.json").read_text()) == card
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["split"] == "validation"]
    assert card["best"]["loss"] < 0.6 * losses[0], losses
    for way in ("image_to_text", "text_to_image"):
        before, after = (card[name][way] for name in ("retrieval_before", "retrieval"))
        assert after["recall_1"]["value"] > before["recall_1"]["value"] + 0.2, (before, after)
    assert card["retrieval"]["images"] == 8 and card["towers"] == ["vision", "text"]


def test_nothing_but_low_rank_additions_to_kernels_has_changed(trained, clips):
    folder, card = trained
    again, clip = cg.load_clip(folder), clips["clip"]
    assert again.config == clip.config and again.pixels == clip.pixels
    additions = safetensors.numpy.load_file(folder / "head.safetensors")
    changed = set()

    def compare(path, new, old):
        names = [entry.key for entry in path]
        if np.array_equal(new, old):
            return
        side, layers, target, leaf = names
        assert (layers, leaf) == ("layers", "kernel") and target in card["lora"]["targets"]
        change = np.asarray(new, float) - np.asarray(old, float)
        assert np.linalg.matrix_rank(change, tol=1e-5 * np.abs(change).max()).max() <= RANK
        # The file of the additions holds that change, in half precision.
        up, down = (additions[f"{side}.{target}.lora_{way}"] for way in ("up", "down"))
        wanted = np.einsum("lir,lro->lio", up.astype(float), down.astype(float))
        np.testing.assert_allclose(change, wanted, atol=3e-3 * np.abs(wanted).max())
        changed.add((side, target))

    jax.tree_util.tree_map_with_path(compare, again.params, clip.params)
    assert changed == {(s, t) for s in ("vision", "text") for t in card["lora"]["targets"]}


def test_the_folder_is_a_guide(trained):
    folder, card = trained
    language, clip = model(), cg.load_clip(folder)
    guide = cg.load_discriminator(folder, language_model=language)
    assert guide.card == card and guide.discriminator.classes == ("other", "image")
    images, texts = map(np.asarray, both(clip, clip.params))
    ids = language.tokenizer.encode("red up")
    context = cg.image_context(images)
    prompt = with_context(cg.make_prompt(language.tokenizer, ["x"]), context, [0])
    ask = compiled(guide.discriminator).evaluate_prefixes
    said = ask(guide.params, prompt, jnp.asarray([ids]), jnp.asarray([[len(ids)]]), None)
    weights = np.exp(float(np.exp(clip.params["logit_scale"])) * (images @ texts[0]))
    scorer = load_clip_vectors(folder)
    np.testing.assert_allclose(scorer.texts(VALIDATION.captions), texts, atol=1e-5)
    assert scorer.prefix == "" and len(scorer.rows) == len(set(TRAINING.captions))
    assert VALIDATION.captions[0] == "red up" == language.tokenizer.decode(ids)
    np.testing.assert_allclose(np.exp(said)[0, 0, 1], weights[0] / weights.sum(), rtol=2e-3)


def test_the_text_tower_alone_can_be_trained_even_of_a_siglip(clips, tmp_path):
    short = replace(CONFIG, loop=replace(CONFIG.loop, steps=20))
    card = train(clips["siglip"], tmp_path / "it", towers="text", config=short)
    assert card["towers"] == ["text"]
    old, new = clips["siglip"].params, cg.load_clip(tmp_path / "it").params
    jax.tree.map(np.testing.assert_array_equal, new["vision"], old["vision"])
    assert not np.array_equal(
        new["text"]["layers"]["query"]["kernel"], old["text"]["layers"]["query"]["kernel"]
    )
    lines = [json.loads(line) for line in (tmp_path / "it/metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["split"] == "training"]
    assert losses[-1] < losses[0], losses


def test_what_cannot_be_trained_is_refused(clips, trained, tmp_path):
    clip = clips["clip"]
    with pytest.raises(UserError, match="captions of 13 tokens exceed the CLIP's context of 12"):
        long = replace(CONFIG, batch=replace(CONFIG.batch, longest=13))
        train(clip, tmp_path / "it", config=long)
    with pytest.raises(UserError, match="lora is None"):
        train(clip, tmp_path / "it", config=replace(CONFIG, lora=None))
    with pytest.raises(UserError, match="another set of"):
        train(clip, trained[0], training=scenes(3))
    with pytest.raises(UserError, match="another towers"):
        train(clip, trained[0], towers="text")
