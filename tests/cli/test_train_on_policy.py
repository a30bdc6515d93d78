"""`coopgen train discriminator --on-policy`: rounds of writing and training, killed and resumed."""

import hashlib
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

import coopgen_jax.comparison.writing as writing
from coopgen_jax.cli import guide_shape, main, train_on_policy
from coopgen_jax.cli.train_options import DiscriminatorOptions
from coopgen_jax.data.fingerprint import fingerprint, read_fingerprint
from coopgen_jax.discriminators.loading import load_discriminator
from coopgen_jax.models.pretrained.loaded_model import load
from tests.cli.running import sentence
from tests.models.model_files import hf_model, save
from tests.training.tiny_texts import TRAIN, written

# What is known of a text exactly: letters of one class against those of the other.
TEACHER = """
import math

def exact(texts):
    scores = [sum((c in "ab") - (c in "xy") for c in text) for text in texts]
    return [1 / (1 + math.exp(-score)) for score in scores]

exact.classes = ("low", "high")

def other(texts):
    return [0.5 for text in texts]

other.classes = ("good", "bad")
"""
ROUNDS = ["--rounds", "2", "--tolerance", "0.001", "--on-policy-texts", "16", "--new-tokens", "5"]
ROUNDS += ["--search", "mcts:simulations=8:wave=4:candidates=8"]


@pytest.fixture(scope="module", autouse=True)
def small_batches():
    """Two batches a method and round, so that a run can end between them."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(train_on_policy, "BATCH", 4)
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    save(hf_model("llama"), folder / "base")
    save(hf_model("llama", tie_word_embeddings=True), folder / "other")
    written(folder / "a.jsonl", 0, 48)
    written(folder / "b.jsonl", 1, 16)
    (folder / "teacher.py").write_text(TEACHER)
    (folder / "prompts.txt").write_text("ab mn\nxy nn\nmm\nnm\nmm\n")
    (folder / "empty.txt").write_text("\n")
    return folder


def words(world, out, *more, kind=("--layers", "0", "--dropout", "0")):
    base = str(world / "base")
    own = ["--data", str(world / "a.jsonl"), "--validation", str(world / "b.jsonl")]
    own += ["--text", "said", "--label", "class", "--model", base, "--on-policy", base]
    own += ["--on-policy-prompts", str(world / "prompts.txt"), "--epochs", "4"]
    own += ["--teacher", f"python:{world / 'teacher.py'}:exact"]
    return ["train", "discriminator", *own, *TRAIN, *ROUNDS, *kind, "--out", str(out), *more]


def trained(capsys, world, out, *more, **other):
    status = main(words(world, out, *more, **other))
    said, err = capsys.readouterr()
    assert status == 0, err
    return json.loads(said)


@pytest.fixture(scope="module")
def whole(world):
    """The folder of a run that was never interrupted."""
    assert main(words(world, world / "whole")) == 0
    return world / "whole"


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()][1:]


def digest(folder):
    return hashlib.sha256((folder / "head.safetensors").read_bytes()).hexdigest()


def exact(text):
    score = sum((c in "ab") - (c in "xy") for c in text)
    return 1 / (1 + np.exp(-score))


def test_rounds_are_what_the_card_says(world, whole):
    card = json.loads((whole / "card.json").read_text())
    report = card["on_policy"]
    assert report["model"] == str(world / "base") and report["prompts"] == 4
    assert report["search"] == "mcts:simulations=8:wave=4:candidates=8"
    assert report["new_tokens"] == 5 and report["texts_of_a_round"] == 16
    assert not report["agreed"] and [entry["round"] for entry in report["rounds"]] == [0, 1, 2]
    rows, texts = 0, []
    for number, entry in enumerate(report["rounds"]):
        folder = whole / "rounds" / str(number)
        searched, samples = (lines(folder / "texts" / f"{n}.jsonl") for n in ("search", "samples"))
        assert len(searched) == len(samples) == 8
        assert sum(line["target"] == "high" for line in searched) == 4
        assert all(line["simulations"] == 0 for line in samples)
        assert all(line["simulations"] > 0 for line in searched)
        kept = [line for line in searched if line["text"].strip()]
        assert entry["rows"] == rows and entry["texts"] == len(kept)
        # The gap is that of texts that the guide was not trained on, by hand.
        guide = [line["class_probabilities"][line["target"]] for line in kept]
        high = [exact(line["text"]) for line in kept]
        truth = [
            p if line["target"] == "high" else 1 - p for p, line in zip(high, kept, strict=True)
        ]
        assert entry["gap"] == pytest.approx(np.mean(guide) - np.mean(truth), abs=1e-6)
        own = read_fingerprint(folder)
        assert not set(fingerprint(line["text"] for line in kept)) <= set(own)
        assert set(fingerprint(texts)) <= set(own)
        texts += [line["text"] for line in searched + samples if line["text"].strip()]
        rows = len(texts)
    assert card["steps"] == -(-4 * (48 + report["rounds"][-1]["rows"]) // 16)
    # What comes out is the last round's guide, with a temperature.
    last = json.loads((whole / "rounds" / "2" / "card.json").read_text())
    assert {name: card[name] for name in last} == last
    assert digest(whole) == digest(whole / "rounds" / "2")
    np.testing.assert_array_equal(read_fingerprint(whole), read_fingerprint(whole / "rounds" / "2"))
    assert card["temperature"] > 0 and card["teacher"]["rows"] == "unknown"
    assert set(report["by_tokens_read"]) == {"1-4", "5-8"}
    load_discriminator(whole, language_model=load(str(world / "base")))
    assert not (whole / "rounds" / "states").exists()


def test_labels_are_the_teachers_in_the_order_of_the_classes(world, tmp_path, monkeypatch, capsys):
    seen, real = [], train_on_policy.train_on_policy

    def spied(config, classes, teacher, *, train, **more):
        def watched(number, rows):
            seen.append(rows[:])
            return train(number, rows)

        return real(config, classes, teacher, train=watched, **more)

    monkeypatch.setattr(train_on_policy, "train_on_policy", spied)
    card = trained(capsys, world, tmp_path / "x", "--rounds", "1")
    # The teacher names its classes the other way round.
    assert card["classes"] == ["high", "low"]
    first, ((part,)) = seen[0], seen[1]
    assert first == []
    for text, shares in zip(part.texts, part.shares, strict=True):
        assert shares == pytest.approx([exact(text), 1 - exact(text)], abs=1e-6)


def test_few_prompts_are_continued_once_a_round(world, tmp_path, capsys):
    out = tmp_path / "x"
    more = ["--on-policy-texts", "100", "--tolerance", "0.99"]
    plain = [word for word in words(world, out, *more) if word != "--quiet"]
    assert main(plain) == 0
    said, err = capsys.readouterr()
    assert "4 different prompts give 16 texts a round: add prompts" in err
    assert json.loads(said)["on_policy"]["texts_of_a_round"] == 16
    for name in ("search", "samples"):
        written = lines(out / "rounds" / "0" / "texts" / f"{name}.jsonl")
        assert len({(line["prompt"], line["target"]) for line in written}) == len(written) == 8


class Killed(BaseException):
    """What ends a run at once."""


@pytest.mark.parametrize(
    "when",
    [
        pytest.param("round 0 writes", marks=pytest.mark.slow),
        "round 1 trains",
        pytest.param("round 1 writes", marks=pytest.mark.slow),
        pytest.param("delivers", marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_equals_never_killed(world, whole, tmp_path, capsys, monkeypatch, when):
    out, append = tmp_path / "out", writing.append
    # A copy spares the rounds in front; what the killed run has not come to is taken away.
    shutil.copytree(whole, out, ignore=shutil.ignore_patterns(".lock"))
    for name in ("card.json", "card.md", "head.safetensors"):
        (out / name).unlink()
    missing = {"round 0 writes": "12", "round 1 trains": "12", "round 1 writes": "12"}
    for name in missing.get(when, ""):
        shutil.rmtree(out / "rounds" / name)
    if when == "round 0 writes":
        shutil.rmtree(out / "rounds" / "0" / "texts")
        next(out.glob("judgements-*")).unlink()
    left = {"round 0 writes": 1, "round 1 writes": 3}.get(when)

    def mortal(path, rows):
        nonlocal left
        if when.endswith("writes"):
            if not left:
                # Half of a line is there.
                path.write_bytes(path.read_bytes() + b'{"prompt": "ab')
                raise Killed
            left -= f"rounds/{when[6]}/" in path.as_posix()
        append(path, rows)

    def dies(*arguments, **more):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(writing, "append", mortal)
        if when == "round 1 trains":
            patched.setattr("coopgen_jax.training.recipes.recipe.note_rows", dies)
        if when == "delivers":
            patched.setattr(train_on_policy, "write_card", dies)
        with pytest.raises(Killed):
            main(words(world, out))
    capsys.readouterr()
    assert not (out / "card.json").exists()
    found = trained(capsys, world, out)
    assert digest(out) == digest(whole)
    assert found["on_policy"] == json.loads((whole / "card.json").read_text())["on_policy"]
    for number in range(3):
        texts = [
            [
                {**line, "seconds": 0}
                for line in lines(folder / "rounds" / str(number) / "texts" / "search.jsonl")
            ]
            for folder in (out, whole)
        ]
        assert texts[0] == texts[1]


def test_a_spent_budget_ends_a_run_and_the_next_goes_on(world, whole, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(whole, out, ignore=shutil.ignore_patterns(".lock"))
    for name in ("rounds/1", "rounds/2"):
        shutil.rmtree(out / name)
    for name in ("card.json", "card.md", "head.safetensors"):
        (out / name).unlink()
    card = trained(capsys, world, out, "--budget-minutes", "1e-6")
    assert card["stopped"] == "budget" and len(card["on_policy"]["rounds"]) == 1
    assert not (out / "card.json").exists()
    plain = [word for word in words(world, out, "--budget-minutes", "1e-6") if word != "--json"]
    assert main(plain) == 0
    assert "the budget is spent: start the same command again" in capsys.readouterr().out
    found = trained(capsys, world, out)
    assert found["stopped"] == "steps" and digest(out) == digest(whole)


def test_a_budget_that_is_spent_while_a_round_writes_ends_it_behind_a_batch(
    world, whole, tmp_path, capsys
):
    out = tmp_path / "out"
    shutil.copytree(whole, out, ignore=shutil.ignore_patterns(".lock"))
    for name in ("rounds/1", "rounds/2", "rounds/0/texts"):
        shutil.rmtree(out / name)
    for name in ("card.json", "card.md", "head.safetensors"):
        (out / name).unlink()
    spent = ("--budget-minutes", "1e-6")
    # Two methods write eight texts each, four in a batch; the last batch has nothing behind it.
    for written_texts in (4, 8, 12, 16):
        card = trained(capsys, world, out, *spent)
        assert card["stopped"] == "budget" and not (out / "card.json").exists()
        paths = (out / "rounds" / "0" / "texts").glob("*.jsonl")
        assert sum(len(lines(path)) for path in paths) == written_texts
        assert len(card["on_policy"]["rounds"]) == (written_texts == 16)
    assert trained(capsys, world, out)["stopped"] == "steps"
    assert digest(out) == digest(whole)


def test_a_finished_run_is_gone_on_with_and_others_are_refused(world, whole, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(whole, out, ignore=shutil.ignore_patterns(".lock"))
    for more, said in (
        (("--new-tokens", "6"), "holds a training with another new tokens (5, and 6"),
        (("--search", "fudge"), "holds a training with another search"),
        (("--seed", "1"), "holds a training with another batch seed"),
        (("--data", str(world / "b.jsonl")), "holds a training with another set of texts"),
        (("--layers", "1"), "holds a training with another trunk layers (0, and 1 is asked for)"),
        (("--taps", "0", "3"), "holds a training with another trunk taps"),
        (("--width", "32"), "holds a training with another trunk width (128, and 32"),
        (("--layers", "1", "--look-ahead", "4"), "holds a training with another trunk"),
    ):
        assert said in sentence(capsys, *words(world, out, *more))
    assert main(words(world, out)[:-2]) == 2  # no --out
    capsys.readouterr()
    card = trained(capsys, world, out, "--tolerance", "0.9")
    # A looser tolerance ends the rounds where they would have ended.
    assert card["on_policy"]["agreed"] and len(card["on_policy"]["rounds"]) == 1
    assert digest(out) == digest(out / "rounds" / "0")
    card = trained(capsys, world, out)
    assert len(card["on_policy"]["rounds"]) == 3 and digest(out) == digest(whole)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--rounds", "0"), "--rounds is 0: give 1 or more"),
        (("--on-policy-texts", "0"), "--on-policy-texts is 0: give 1 or more"),
        (("--tolerance", "1"), "--tolerance is 1.0: give a gap from 0 to below 1"),
        (("--on-policy", "nowhere", "--model", "nowhere"), "nowhere"),
        (("--on-policy", "smollm2-135m"), "a shared trunk reads the states of the model"),
        (("--search", "sample"), "--search sample asks no guide"),
        (("--search", "mtcs"), "--search has 'mtcs'"),
        (("--search", "mcts:discriminator=sentiment"), "so discriminator says nothing to it"),
        (("--kind", "generative"), "options: --on-policy "),
    ],
)
def test_mistakes_are_told_before_anything_is_read(world, tmp_path, capsys, more, said):
    assert said in sentence(capsys, *words(world, tmp_path / "x", *more))
    assert not (tmp_path / "x").exists()


def test_what_is_missing_or_does_not_go_together_is_told(world, tmp_path, capsys):
    out = tmp_path / "x"
    whole = words(world, out)

    def without(*names):
        cut = list(whole)
        for name in names:
            del cut[cut.index(name) : cut.index(name) + 2]
        return cut

    assert "--on-policy wants a --teacher" in sentence(capsys, *without("--teacher"))
    assert "--on-policy wants prompts" in sentence(capsys, *without("--on-policy-prompts"))
    assert "says nothing without --on-policy" in sentence(capsys, *without("--on-policy"))
    empty = ["--on-policy-prompts", str(world / "empty.txt")]
    assert "empty.txt" in sentence(capsys, *whole, *empty)
    other = ["--teacher", f"python:{world / 'teacher.py'}:other"]
    assert "has the classes good, bad" in sentence(capsys, *whole, *other)
    assert not out.exists()


def test_texts_without_labels_are_labelled_by_the_teacher_too(world, tmp_path, capsys):
    texts = [json.loads(line)["said"] for line in (world / "a.jsonl").read_text().splitlines()[:-1]]
    (tmp_path / "texts.txt").write_text("".join(f"{text}\n" for text in texts))
    more = ["--data", str(tmp_path / "texts.txt"), "--validation", str(tmp_path / "texts.txt")]
    cut = words(world, tmp_path / "x", *more, "--tolerance", "0.99")
    for name in ("--text", "--label"):
        del cut[cut.index(name) : cut.index(name) + 2]
    assert main(cut) == 0
    card = json.loads(capsys.readouterr().out)
    assert card["classes"] == ["low", "high"] and card["teacher"]["rows"] == "unknown"
    assert len(card["on_policy"]["rounds"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["causal"])
def test_a_guide_with_a_network_of_its_own_is_delivered_with_it(world, tmp_path, capsys, kind):
    more = ["--kind", kind, "--epochs", "1", "--tolerance", "0.99", "--rank", "2"]
    card = trained(capsys, world, tmp_path / "x", *more, kind=())
    assert card["kind"] == kind and (tmp_path / "x" / "network").is_dir()
    other = words(world, tmp_path / "x", *more, "--model", str(world / "other"), kind=())
    assert "another model or encoder to begin with" in sentence(capsys, *other)
    load_discriminator(tmp_path / "x", language_model=load(str(world / "base")))


def test_the_encoder_that_is_begun_with_is_noted(world, tmp_path, monkeypatch):
    encoders = {"one": SimpleNamespace(sha256="1"), "other": SimpleNamespace(sha256="2")}
    monkeypatch.setattr(guide_shape, "load_encoder", encoders.get)
    writer = load(str(world / "base"))

    def noted(**options):
        what = DiscriminatorOptions("a", "b", tmp_path, kind="bidirectional", **options)
        return guide_shape.shape_settings(what, writer)

    assert noted(encoder="one") != noted(encoder="other")
    assert noted(encoder="one") != noted(encoder="one", frozen=True)
