"""A Hugging Face classifier as a guide and as a judge, and what its folder may lack."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import coopgen_jax as cg
from coopgen_jax.comparison.method_run import check_targets
from coopgen_jax.data.fingerprint import fingerprint, write_fingerprint
from coopgen_jax.decoding.methods.fudge import FudgeConfig
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.discriminators import loading
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.independence import independence, require, trained_on
from coopgen_jax.evaluation.text_judges import DiscriminatorJudge, SequenceJudge, load_text_judge
from coopgen_jax.models.pretrained.classifiers import about_classifier, load_classifier
from tests.cli.tiny import tiny_model as model_of_words
from tests.models.classifier_files import expected_scores, save_classifier
from tests.models.model_files import edit, hf_model, save, tensors
from tests.tiny_model import model as tiny_model

NAMES = {"id2label": {0: "bad", 1: "fair", 2: "good"}}
TEXTS = ["w7 film", "was", "w1 w2 w3 This film was w4 w5"]


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    return save_classifier("roberta", tmp_path_factory.mktemp("it") / "roberta", **NAMES)


@pytest.fixture
def folder(roberta, tmp_path) -> Path:
    copy = tmp_path / "mine"
    copy.mkdir()
    for path in roberta[0].iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def load(folder):
    return cg.load_discriminator(folder, language_model=tiny_model())


def softmax(scores):
    return np.asarray(jax.nn.softmax(jnp.asarray(scores), axis=-1))


def said_by_transformers(found, texts):
    folder, model = found
    tokenizer = load_classifier(folder).tokenizer
    return softmax(expected_scores(model, tokenizer.encode_batch(texts, special=True)))


def test_a_card_says_what_it_is(roberta):
    loaded = load(roberta[0])
    assert loaded.discriminator.classes == ("bad", "fair", "good")
    assert loaded.card["kind"] == "sequence-classification"
    assert loaded.card["classes"] == ["bad", "fair", "good"]
    assert loaded.card["family"] == "roberta"
    assert loaded.card["sha256"] == load_classifier(roberta[0]).sha256
    assert len(loaded.card["sha256"]) == 64
    assert loaded.discriminator == load(roberta[0]).discriminator


def test_it_guides_and_its_probabilities_are_those_of_transformers(roberta):
    words = SimpleNamespace(**vars(model_of_words()))
    words.config = replace(words.config, end_tokens=(0,))
    guide = cg.load_discriminator(roberta[0], language_model=words)
    # All classes are alike in a text without a token: such a text is not written.
    rules = Rules(min_tokens=1)
    config = FudgeConfig(new_tokens=1, candidates=32, strength=300.0, rules=rules)
    how = {"discriminator": guide, "config": config, "seed": 3}
    prompts = ["This film", "was", "film w9"]
    found = {
        target: cg.generate(words, prompts, target=target, **how) for target in ("bad", "good")
    }
    for target, texts in found.items():
        place = guide.discriminator.classes.index(target)
        wanted = said_by_transformers(roberta, [text.text.lstrip() for text in texts])
        said = np.array([text.class_probabilities[target] for text in texts])
        np.testing.assert_allclose(said, wanted[:, place], atol=1e-4)
        others = found["good" if target == "bad" else "bad"]
        other = np.array([text.class_probabilities[target] for text in others])
        assert (said > other + 0.01).all()


def test_a_text_is_judged_the_same_alone_and_in_a_wave(roberta):
    guide = load(roberta[0])
    together = DiscriminatorJudge(tiny_model(), guide, batch=3).predict_proba(TEXTS)
    np.testing.assert_allclose(together, said_by_transformers(roberta, TEXTS), atol=1e-4)
    alone = DiscriminatorJudge(tiny_model(), guide, batch=1)
    for text, row in zip(TEXTS, together, strict=True):
        np.testing.assert_allclose(alone.predict_proba([text])[0], row, atol=1e-5)


def scores_of(guide, rows):
    """What a guide's network makes of rows of tokens, log p `[n, C]`."""
    read = guide.discriminator.evaluate.config.config[0]
    tokens = jnp.asarray(rows)
    return np.asarray(read(guide.params, tokens, jnp.ones(tokens.shape, bool)))


ROWS = [[258, 65, 66, 259], [258, 70, 71, 259]]


def test_one_output_is_a_reward(tmp_path):
    folder, model = save_classifier("bert", tmp_path / "bert", num_labels=1)
    guide = load(folder)
    assert guide.discriminator.classes == ("reward",)
    rewards = expected_scores(model, ROWS)
    np.testing.assert_allclose(np.exp(scores_of(guide, ROWS)), sigmoid(rewards), atol=1e-4)
    params = guide.params | {"centre": jnp.float32(0.5), "scale": jnp.float32(2)}
    moved = np.exp(scores_of(replace(guide, params=params), ROWS))
    np.testing.assert_allclose(moved, sigmoid((rewards - 0.5) / 2), atol=1e-4)


def test_classes_that_do_not_exclude_each_other_have_a_sigmoid_each(tmp_path):
    options = {"problem_type": "multi_label_classification"}
    folder, model = save_classifier("bert", tmp_path / "bert", **options)
    guide = load(folder)
    assert guide.discriminator.classes == ("LABEL_0", "LABEL_1", "LABEL_2")
    wanted = sigmoid(expected_scores(model, ROWS))
    assert abs(wanted.sum(axis=-1) - 1).min() > 0.01
    np.testing.assert_allclose(np.exp(scores_of(guide, ROWS)), wanted, atol=1e-4)


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x)))


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ({"2": "c", "10": None, "0": "a", "1": "b"}, ("a", "b", "c")),
        ({"1": "b"}, ("LABEL_0", "b", "LABEL_2")),
        ("DROP", ("LABEL_0", "LABEL_1", "LABEL_2")),
    ],
)
def test_labels_come_in_the_order_of_their_numbers(folder, labels, classes):
    edit(folder, id2label=labels)
    assert about_classifier(folder).classes == classes
    check_targets(str(folder), classes)
    with pytest.raises(UserError, match=r"--target odd is unknown to .*its classes are"):
        check_targets(str(folder), ["odd"])


def _without(folder: Path, name: str) -> None:
    found = tensors(folder)
    del found[name]
    safetensors.numpy.save_file(found, folder / "model.safetensors")


CONVERTS = r'python -c "from transformers import {0}; {0}.from_pretrained\(.*save_pretrained\(.*"$'
BROKEN = {
    "two of one name": (
        lambda f: edit(f, id2label={"0": "a", "1": "b", "2": "a"}),
        "calls two classes 'a' in id2label: give every class a name",
    ),
    "names of other classes": (
        lambda f: edit(f, id2label={str(n): f"c{n}" for n in range(5)}),
        "names 5 classes in id2label and its head has 3 outputs",
    ),
    "a list of names": (lambda f: edit(f, id2label=["a"]), "is damaged or not a model"),
    "several numbers": (lambda f: edit(f, problem_type="regression"), "3 outputs are no classes"),
    "a language model": (
        lambda f: edit(f, architectures=["LlamaForCausalLM"]),
        "holds a LlamaForCausalLM, which is no sequence classifier",
    ),
    "an unknown family": (
        lambda f: edit(f, model_type="xlnet"),
        "'xlnet'.*the known ones are bert, roberta, xlm-roberta, distilbert, deberta-v2, modernbert"
        ", gpt2, llama, mistral, qwen2",
    ),
    "relative positions": (
        lambda f: edit(f, position_embedding_type="relative_key"),
        "position_embedding_type = 'relative_key'.*absolute",
    ),
    "an unknown activation": (lambda f: edit(f, hidden_act="mish"), "hidden_act = 'mish'"),
    "no output": (
        lambda f: _without(f, "classifier.out_proj.weight"),
        "has no tensor 'classifier.out_proj.weight'",
    ),
    "no layer": (
        lambda f: _without(f, "roberta.encoder.layer.1.output.dense.bias"),
        "has no tensor 'roberta.encoder.layer.1.output.dense.bias'",
    ),
    "only a pickle": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        "pytorch_model.bin.*never opened.*" + CONVERTS.format("AutoModelForSequenceClassification"),
    ),
    "no tokenizer": (
        lambda f: (f / "tokenizer.json").unlink(),
        "has no tokenizer.json.*" + CONVERTS.format("AutoTokenizer"),
    ),
    "nothing": (
        lambda f: [path.unlink() for path in f.iterdir()],
        "neither a folder with a card.json nor one of the heads .* nor a Hugging Face classifier",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_folders_get_one_sentence(case, folder):
    damage, sentence = BROKEN[case]
    damage(folder)
    with pytest.raises(UserError, match=sentence) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("case", "change", "sentence"),
    [
        ("deberta-v3", {"conv_kernel_size": 3}, "conv_kernel_size = 3.*no convolution"),
        ("deberta-v3", {"pos_att_type": ["p2p"]}, r"pos_att_type = \['p2p'\].*c2p, p2c"),
        ("modernbert", {"classifier_pooling": "max"}, "classifier_pooling = 'max'.*cls, mean"),
        ("modernbert", {"layer_types": ["full_attention"]}, "layer_types.*every layer is one of"),
        (
            "modernbert",
            {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}},
            "rope_type = 'yarn'.*default",
        ),
    ],
)
def test_what_a_family_has_and_we_have_not_is_named(case, change, sentence, tmp_path):
    folder, _ = save_classifier(case, tmp_path / case)
    edit(folder, **change)
    with pytest.raises(UserError, match=sentence):
        load(folder)


def test_the_command_that_is_named_converts(folder):
    transformers = pytest.importorskip("transformers")
    import torch

    state = transformers.AutoModelForSequenceClassification.from_pretrained(folder).state_dict()
    torch.save(state, folder / "pytorch_model.bin")
    before = tensors(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError) as caught:
        load(folder)
    code = str(caught.value).partition('-c "')[2].removesuffix('"')
    exec(code, {})
    after = tensors(folder)
    assert set(before) == set(after)
    load(folder)


def test_a_name_of_the_hub_is_looked_up_in_its_cache(folder, monkeypatch):
    asked = []

    def snapshot(name, *, fetch=True):
        asked.append((name, fetch))
        return folder

    monkeypatch.setattr(loading, "snapshot", snapshot)
    assert load("someone/classifier").card["name"] == "someone/classifier"
    check_targets("someone/classifier", ["good"])
    assert asked == [("someone/classifier", True)] * 2
    # What is only asked about is not fetched.
    assert trained_on("someone/classifier").weights == trained_on(folder).weights
    assert asked[2:] and not any(fetch for _, fetch in asked[2:])


def test_the_cache_of_the_hub_needs_no_network(folder, tmp_path, monkeypatch):
    kept = tmp_path / "hub" / "models--someone--classifier"
    (kept / "snapshots").mkdir(parents=True)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("0" * 40)
    folder.rename(kept / "snapshots" / ("0" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert load("someone/classifier").card["classes"] == ["bad", "fair", "good"]
    assert trained_on("someone/classifier").weights is not None
    with pytest.raises(UserError, match="someone/other is no folder here and could not be had"):
        load("someone/other")
    assert trained_on("someone/other").weights is None


def test_its_training_rows_are_unknown_unless_it_says_them(folder, tmp_path):
    other = tmp_path / "other"
    save(hf_model("llama"), other)
    write_fingerprint(other, fingerprint(["x"]))
    judge, guide = trained_on(folder), trained_on(other)
    assert judge.weights is not None and judge.rows is None
    found = independence(judge, guide)
    assert not found.known and f"which rows {folder} was trained on is unknown" in found.why
    with pytest.raises(UserError, match="was trained on is unknown: take a judge"):
        require(found, force=False)
    assert require(found, force=True).startswith("forced: ")
    write_fingerprint(folder, fingerprint(["y"]))
    assert independence(trained_on(folder), guide).holds
    same = independence(trained_on(folder), trained_on(folder))
    assert not same.holds and "itself" in same.why


def test_it_judges_texts_without_a_language_model(roberta):
    judge = load_text_judge(roberta[0], model="nowhere")
    assert judge.classes == ("bad", "fair", "good")
    texts = [TEXTS[2], " ", f" {TEXTS[0]}\n", TEXTS[1], ""]
    said = SequenceJudge(judge.classifier, batch=2).predict_proba(texts)
    np.testing.assert_allclose(said[[2, 3, 0]], said_by_transformers(roberta, TEXTS), atol=1e-4)
    np.testing.assert_allclose(said[[1, 4]], 1 / 3)
    # Of a long text the last tokens are read: 60 letters beside two special tokens.
    ends = judge.predict_proba(["x" * 40 + "y" * 60, "y" * 60, "y" * 59])
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-6)
    assert np.abs(ends[1] - ends[2]).max() > 1e-4


def test_calibration_of_a_folder_without_a_card_is_refused(folder, tmp_path, capsys):
    data = tmp_path / "dev.csv"
    data.write_text("text,label\na,bad\n")
    words = ["evaluate", "discriminator", "--data", str(data), "--discriminator", str(folder)]
    from coopgen_jax.cli import main

    assert main([*words, "--calibrate"]) == 2
    assert "--calibrate writes into a card, and" in capsys.readouterr().err


def test_a_card_goes_before_a_configuration(folder):
    (folder / "card.json").write_text(json.dumps({"kind": "language model"}))
    with pytest.raises(UserError, match="holds no readable head"):
        load(folder)
