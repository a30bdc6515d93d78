"""A rewarded captioner from folder to folder: trained, stopped, continued, loaded."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

import coopgen_jax as cg
from coopgen_jax.data.batches import BatchConfig
from coopgen_jax.errors import UserError
from coopgen_jax.models.pretrained.captioner import load_captioner
from coopgen_jax.parallel.mesh import make_mesh
from coopgen_jax.training.captioning.caption_round import Scorer
from coopgen_jax.training.captioning.captioner_recipe import train_captioner
from coopgen_jax.training.captioning.reward_config import RewardConfig
from coopgen_jax.training.captioning.reward_recipe import train_rewarded_captioner
from coopgen_jax.training.gcn.gcn_training import GcnTraining
from coopgen_jax.training.loop import LoopConfig
from coopgen_jax.training.recipes.scratch import ScratchConfig, fresh_model, train_tokenizer
from coopgen_jax.training.run import RecipeConfig

WORDS = ("red", "blue", "dog", "boat")
SHOWN = ["red dog", "red boat", "blue dog", "blue boat"]
CAPTIONS = [(number, f"A {text}") for number, text in enumerate(SHOWN)]
FEATURES = np.asarray([[word in text for word in WORDS] for text in SHOWN], np.float32)


def embed(captions) -> np.ndarray:
    found = [[*(float(word in text) for word in WORDS), 0.5] for text in captions]
    return np.asarray(found, np.float32) / np.linalg.norm(found, axis=-1, keepdims=True)


SCORER = Scorer(embed(SHOWN), np.asarray([[1, 2], [0, 3], [0, 3], [1, 2]]), embed, "bag of words")
CONFIG = RewardConfig(
    "wtf-rl", temperature=0.1, offset=0.5, proposal=cg.BeamConfig(new_tokens=6, beams=2, samples=2)
)
HOW = GcnTraining(
    LoopConfig(steps=2, validate_every=1, save_every=1),
    lora=None,
    learning_rate=1e-3,
    saved_dtype="float32",
)
VISION = {"backbone": "some-eyes", "backbone_sha256": "f00d"}
JOB = {"images": 4, "longest": 12, "mesh": make_mesh()}


@pytest.fixture(scope="module")
def captioner(tmp_path_factory):
    folder = tmp_path_factory.mktemp("forced") / "captioner"
    model = fresh_model(
        train_tokenizer([text for _, text in CAPTIONS], 280),
        ScratchConfig(layers=1, width=64, context=24),
    )
    config = RecipeConfig(
        LoopConfig(steps=30, validate_every=30, save_every=30),
        BatchConfig(rows=4, longest=12),
        lora=None,
        learning_rate=3e-3,
        saved_dtype="float32",
    )
    job = (model, FEATURES, CAPTIONS, CAPTIONS, config)
    train_captioner(*job, tokens=1, hidden=16, folder=folder, mesh=JOB["mesh"])
    # As of a captioner whose features a backbone made.
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | VISION))
    return load_captioner(folder, stacked=True)


@pytest.fixture(scope="module")
def trained(captioner, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rewarded") / "captioner"
    job = (captioner, FEATURES, CAPTIONS, range(4), SCORER, CONFIG, HOW)
    return folder, train_rewarded_captioner(*job, folder=folder, **JOB)


def test_a_rewarded_captioner_is_loaded_and_writes(captioner, trained):
    folder, card = trained
    loaded = load_captioner(folder)
    assert loaded.card == card and card["steps"] == 2 and card["scorer"] == "bag of words"
    assert loaded.vision == VISION
    assert card["reward"]["objective"] == "wtf-rl"
    assert (folder / "discriminator" / "head.safetensors").is_file()
    # Training has changed the network between features and prefix, not what standardises them.
    changed = jax.tree.map(lambda x, y: bool(np.any(x != y)), loaded.params, captioner.params)
    assert changed["hidden"]["kernel"] and not changed["centre"] and not changed["scale"]
    texts = cg.generate(
        loaded.model, loaded.fronts(4), vectors=loaded.vectors(FEATURES),
        config=cg.BeamConfig(new_tokens=6, beams=2),
    )  # fmt: skip
    found = embed([text.text for text in texts])
    # Greedy captions were measured; the likeliest ones are about as good.
    assert 0.5 < card["last"]["cosine"] == -card["last"]["loss"] <= 1
    assert np.diag(found @ SCORER.images.T).mean() == pytest.approx(card["last"]["cosine"], abs=0.1)


def test_a_run_that_stopped_ends_where_one_that_did_not_ends(captioner, trained, tmp_path):
    job = (captioner, FEATURES, CAPTIONS, range(4), SCORER, CONFIG)
    train_rewarded_captioner(
        *job, HOW, folder=tmp_path / "x", **JOB, listener=lambda done, total, means: done == 1
    )
    assert load_captioner(tmp_path / "x").card["stopped"] == "interrupt"
    train_rewarded_captioner(*job, HOW, folder=tmp_path / "x", **JOB)
    one, other = (load_captioner(folder) for folder in (trained[0], tmp_path / "x"))
    assert one.card["last"] == other.card["last"]
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    jax.tree.map(np.testing.assert_array_equal, one.model.params, other.model.params)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"features": FEATURES[:, :3]}, "reads rows of 4"),
        ({"features": FEATURES[:3]}, "features of 3 images, and the scorer has 4"),
        ({"validation": [4]}, "the images to validate on must be rows"),
        (
            {"config": replace(CONFIG, proposal=cg.SamplingConfig(new_tokens=40))},
            "captions of 40 tokens exceed the 22",
        ),
        (
            {"config": replace(CONFIG, regulariser="grammar")},
            "a grammar head is trained beforehand",
        ),
        ({"config": replace(CONFIG, combine="mean")}, "holds a training with another reward"),
        ({"scorer": replace(SCORER, identity="other")}, "holds a training with another scorer"),
    ],
)
def test_what_does_not_go_together_is_refused(captioner, trained, change, message):
    given = {
        "captioner": captioner, "features": FEATURES, "training": CAPTIONS, "validation": [0],
        "scorer": SCORER, "config": CONFIG, "how": HOW,
    }  # fmt: skip
    if "another" in message:
        given["validation"] = range(4)
    with pytest.raises(UserError, match=message):
        train_rewarded_captioner(**given | change, folder=trained[0], **JOB)
