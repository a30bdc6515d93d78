"""Shares of classes in place of labels: texts without a class, and a teacher's probabilities."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.cli import main
from coopgen_jax.data.batches import BatchConfig, in_order, pad, training_batches
from coopgen_jax.data.cuts import Cutting, cut_all
from coopgen_jax.data.fingerprint import fingerprint, write_fingerprint
from coopgen_jax.data.labelled import Labelled, joined, neutral, with_shares
from coopgen_jax.discriminators.loading import load_discriminator
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.discriminator_accuracy import judge_prefixes, of_whole_texts
from coopgen_jax.evaluation.independence import TrainedOn, independence, trained_on
from coopgen_jax.models.pretrained.loaded_model import load
from coopgen_jax.parallel.mesh import make_mesh
from coopgen_jax.training.card import write_card
from coopgen_jax.training.loop import LoopConfig
from coopgen_jax.training.losses import cross_entropy
from coopgen_jax.training.objectives import _hits, _mean_cross_entropy
from coopgen_jax.training.recipes import train_generative
from coopgen_jax.training.run import RecipeConfig
from tests.training.tiny_texts import sentence

DATA = Labelled(("one", "two", "three"), np.array([0, 1, 0], np.int32), ("a", "b"))


def test_neutral_texts_have_the_prior_and_go_with_labelled_ones():
    calm = neutral(("x", "y"), DATA)
    np.testing.assert_allclose(calm.shares, [[2 / 3, 1 / 3]] * 2)
    np.testing.assert_allclose(neutral(("x",), DATA, balanced=True).shares, [[0.5, 0.5]])
    soft = with_shares(("x", "y"), ("a", "b"), np.array([[0.55, 0.45], [0.7, 0.3]]))
    np.testing.assert_allclose(neutral(("z",), soft).shares, [[0.625, 0.375]])
    both = joined([DATA, calm])
    assert both.neutral.tolist() == [False] * 3 + [True] * 2
    np.testing.assert_allclose(both.shares[:3], [[1, 0], [0, 1], [1, 0]])
    np.testing.assert_allclose(both.shares[3:], calm.shares)
    assert both.texts == ("one", "two", "three", "x", "y")
    assert both.rows([4, 1]).targets == [calm.targets[1], [0.0, 1.0]]
    pieces = cut_all(np.random.default_rng(0), both, Cutting(2))
    np.testing.assert_array_equal(pieces.shares, np.repeat(both.shares, 2, axis=0))
    assert DATA.targets == [0, 1, 0] and joined([DATA, DATA]).shares is None


def test_batches_carry_shares_and_empty_rows_take_some():
    rows, shares = [[1, 2], [3], [4, 5, 6]], [[1.0, 0.0], [0.5, 0.5], [0.2, 0.8]]
    batch = pad(rows, shares, np.arange(3))
    assert batch["label"].dtype == np.float32
    np.testing.assert_allclose(batch["label"], shares)
    last = in_order(rows, shares, size=2, longest=8)[-1]
    assert last["label"].shape == (2, 2) and not last["mask"][1].any()


def test_a_balanced_batch_draws_neutral_texts_as_a_class_of_theirs():
    rows = [[number + 1] for number in range(12)]
    shares = [[0.9, 0.1]] * 9 + [[0.2, 0.8]] * 2 + [[0.5, 0.5]]
    config = BatchConfig(rows=30, longest=4, shortest=None, balanced=True)
    drawn = training_batches(rows, shares, config)[0]["label"]
    counts = [
        int((drawn == np.float32(share)).all(axis=-1).sum()) for share in np.unique(shares, axis=0)
    ]
    assert counts == [10, 10, 10]


def test_the_loss_of_shares_is_their_mean_and_that_of_one_class_its_own():
    rng = np.random.default_rng(0)
    log_class = jax.nn.log_softmax(jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.float32))
    shares = rng.dirichlet(np.ones(4), 2).astype(np.float32)
    counted = jnp.asarray([[True, True, False], [True, True, True]])
    found = _mean_cross_entropy(log_class, jnp.asarray(shares), counted)
    slow = [
        -np.mean([shares[row] @ np.asarray(log_class[row, at]) for at in range(2 + row)])
        for row in range(2)
    ]
    np.testing.assert_allclose(found, slow, rtol=1e-6)
    label = jnp.asarray([3, 1])
    np.testing.assert_array_equal(
        _mean_cross_entropy(log_class, jnp.eye(4)[label], counted),
        _mean_cross_entropy(log_class, label, counted),
    )
    assert cross_entropy(log_class[0, 0], jnp.int32(2)) == -log_class[0, 0, 2]
    guess = np.asarray(log_class[:, 0]).argmax(-1)
    found = _hits(log_class[:, 0], jnp.asarray(shares))
    np.testing.assert_array_equal(found, guess == shares.argmax(-1))
    np.testing.assert_array_equal(_hits(log_class[:, 0], label), guess == np.asarray(label))


@pytest.fixture
def said(places, tmp_path, capsys):
    """A function from options of a training to the card and what the guide says of texts."""
    folder, common = places
    base = load(folder / "base")
    rng = np.random.default_rng(5)
    loud = [sentence(rng, label) for label in ("high", "low") * 8]
    calm = ["mmmm nnn", "nn mm", "nnn mmmmm", "mm mmm nn"]

    def of(name, *options):
        job = ["train", "discriminator", *common, "--layers", "0", "--epochs", "16"]
        job += ["--dropout", "0", "--out", str(tmp_path / name), *options]
        job += [] if "--teacher" in options else ["--label", "class"]
        status = main(job)
        out, err = capsys.readouterr()
        assert status == 0, err
        guide = load_discriminator(tmp_path / name, language_model=base)
        found = [of_whole_texts(judge_prefixes(base, guide, t, longest=12)) for t in (loud, calm)]
        card = json.loads(out)
        kept = json.loads((tmp_path / name / "card.json").read_text())
        assert card == {entry: kept[entry] for entry in card}
        return card, [np.exp(each) for each in found]

    return of


def test_a_guide_that_has_read_neutral_texts_knows_when_one_says_nothing(
    said, places, tmp_path, capsys
):
    rng = np.random.default_rng(0)
    words = ["".join("mn"[rng.integers(2)] for _ in range(rng.integers(2, 6))) for _ in range(96)]
    pairs = [f"{one} {other}" for one, other in zip(words[::2], words[1::2], strict=True)]
    (tmp_path / "calm.jsonl").write_text("".join(json.dumps({"said": t}) + "\n" for t in pairs))
    card, (loud, calm) = said("calm", "--neutral", str(tmp_path / "calm.jsonl"))
    assert card["neutral_texts"] == 48
    assert loud.max(axis=-1).mean() > 0.85 and calm.max(axis=-1).mean() < 0.65
    job = ["evaluate", "discriminator", "--data", str(places[0] / "b.jsonl"), "--text", "said"]
    job += ["--label", "class", "--neutral", str(tmp_path / "calm.jsonl"), "--longest", "12"]
    job += ["--model", str(places[0] / "base"), "--rows", "16", "--quiet"]
    job += ["--discriminator", str(tmp_path / "calm")]
    assert main([*job, "--json"]) == 0
    ((_, judge),) = json.loads(capsys.readouterr().out)["judges"].items()
    found = judge["neutral"]
    assert found["texts"] == 16 and found["auroc"] > 0.9
    assert found["confidence"] < 0.65 < 0.8 < found["labelled_confidence"]
    assert main(job) == 0
    assert f"a mean confidence of {found['confidence']:.2f}" in capsys.readouterr().out


def test_a_pupil_says_of_texts_what_its_teacher_says_and_has_read_its_rows(said, tmp_path):
    card, (taught, _) = said("teacher")
    assert "teacher" not in card and "neutral_texts" not in card
    # The teacher has read more than the pupil's texts.
    write_fingerprint(tmp_path / "teacher", fingerprint(["a row of the teacher"]))
    card, (learned, _) = said("pupil", "--teacher", str(tmp_path / "teacher"))
    assert card["classes"] == ["high", "low"] and "half" not in card
    about = trained_on(tmp_path / "teacher")
    name = str(tmp_path / "teacher")
    assert card["teacher"] == {"name": name, "sha256": about.weights, "rows": "known"}
    assert np.abs(taught - learned).mean() < 0.1
    assert np.abs(taught - taught[::-1]).mean() > 0.3
    pupil = trained_on(tmp_path / "pupil")
    assert set(about.rows) < set(pupil.rows)
    found = independence(about, pupil)
    assert not found.holds and found.known
    # Of a teacher that nobody knows, the pupil is not known either.
    (tmp_path / "teacher" / "rows.npy").unlink()
    card, _ = said("second", "--teacher", str(tmp_path / "teacher"))
    assert card["teacher"]["rows"] == "unknown"
    found = independence(
        TrainedOn("judge", rows=fingerprint(["x"])), trained_on(tmp_path / "second")
    )
    assert not found.holds and not found.known


def test_what_was_calibrated_stays_so_where_a_training_is_started_again(said, tmp_path):
    rng = np.random.default_rng(0)
    words = [sentence(rng, "high") for _ in range(8)]
    (tmp_path / "calm.jsonl").write_text("".join(json.dumps({"said": t}) + "\n" for t in words))
    options = ["--neutral", str(tmp_path / "calm.jsonl")]
    card, _ = said("calm", *options)
    write_card(tmp_path / "calm", card | {"temperature": 1.5})
    said("calm", *options)
    assert json.loads((tmp_path / "calm" / "card.json").read_text())["temperature"] == 1.5


@pytest.mark.parametrize("shares", [[[0.1, 0.1]], [[np.nan, 1.0]], [[1.2, -0.2]]])
def test_shares_that_are_no_probabilities_are_refused(shares):
    with pytest.raises(UserError, match="they must be 0 or more and sum to 1"):
        with_shares(("x",), ("a", "b"), np.array(shares))


@pytest.mark.parametrize(
    ("options", "sentence_of_it"),
    [
        (["--neutral", "nowhere.csv"], "nowhere.csv"),
        (["--teacher", "nowhere"], "nowhere"),
        (["--teacher", "sentiment", "--classes", "a", "b"], "--teacher names the classes itself"),
        (["--teacher", "sentiment", "--balanced"], "--balanced counts labels"),
        (["--teacher", "python:FILE:score"], "gives a reward"),
        (["--kind", "generative", "--neutral", "x"], "unrecognized options: --neutral"),
    ],
)
def test_mistakes_are_told(places, tmp_path, capsys, options, sentence_of_it):
    job = ["train", "discriminator", *places[1], "--out", str(tmp_path / "x")]
    file = tmp_path / "score.py"
    file.write_text("def score(texts):\n    return [float(len(text)) for text in texts]\n")
    assert main([*job, *(option.replace("FILE", str(file)) for option in options)]) == 2
    out, err = capsys.readouterr()
    assert sentence_of_it in err and "Traceback" not in err and not out


def test_a_generative_discriminator_learns_a_text_from_one_class(places, tmp_path):
    base, config = load(places[0] / "base", stacked=True), RecipeConfig(LoopConfig(1))
    texts = neutral(("x",), DATA)
    with pytest.raises(UserError, match="learns a text from one class"):
        train_generative(base, texts, DATA, config, folder=tmp_path, mesh=make_mesh(1))
