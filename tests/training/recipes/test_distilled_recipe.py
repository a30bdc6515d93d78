"""A look-ahead head that learns from searches, from the command line to the decoder."""

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file

from coopgen_jax.cli import main
from coopgen_jax.data.fingerprint import fingerprint, read_fingerprint
from coopgen_jax.data.labelled import Teacher
from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig, Rollout, Value
from coopgen_jax.discriminators.loading import load_discriminator
from coopgen_jax.errors import UserError
from coopgen_jax.models.pretrained.loaded_model import load
from coopgen_jax.training import searched_texts
from coopgen_jax.training.recipes import distilled_recipe
from coopgen_jax.training.run import Rows
from coopgen_jax.training.searched_rows import SearchedRows, beside, both_teachers
from coopgen_jax.training.searched_texts import Found, SearchedText, Searches

PROMPTS = ["the a", "b", "mm nn", "x y"]


@pytest.fixture
def job(places, tmp_path) -> list[str]:
    _, common = places
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(prompt + "\n" for prompt in PROMPTS))
    job = ["train", "discriminator", *common, "--label", "class", "--out", str(tmp_path / "out")]
    job += ["--epochs", "2", "--taps", "0", "3", "--width", "32", "--look-ahead", "4"]
    job += ["--from-search", str(prompts), "--new-tokens", "3"]
    return [*job, "--search", "mcts:simulations=4:wave=2:candidates=6:considered=4"]


def card_of(capsys, *arguments) -> dict:
    status = main(list(map(str, arguments)))
    out, err = capsys.readouterr()
    assert status == 0, err
    return json.loads(out)


def texts_of(folder: Path) -> list[dict]:
    files = sorted(folder.glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_a_head_learns_from_searches_in_rounds_and_goes_on(
    places, job, capsys, tmp_path, monkeypatch
):
    folder, _ = places
    out = tmp_path / "out"
    card = card_of(capsys, *job, "--rounds", 2)
    searches = card["searches"]
    assert (searches["prompts"], searches["rounds"], searches["texts"]) == (4, 2, 16)
    assert searches["search"]["search"]["simulations"] == 4 and searches["new_tokens"] == 3
    assert searches["guide"] == "the labelled texts' own head" and len(searches["guide_sha256"]) > 9
    assert {"loss", "searched_loss", "ahead_loss"} <= card["best"].keys()
    assert json.loads((out / "card.json").read_text()) == card
    assert sorted(path.name for path in (out / "rounds").iterdir()) == ["0", "1"]

    written = [texts_of(out / "searches" / number) for number in ("1", "2")]
    for texts in written:
        asked = {(text["prompt"], text["target"]) for text in texts}
        assert asked == {(prompt, name) for prompt in PROMPTS for name in ("high", "low")}
        for text in texts:
            assert len(text["found"]) == len(text["tokens"]) <= 3
            for found in text["found"]:
                assert min(found["visits"]) > 0 and min(found["values"]) >= 0
                assert max(found["values"]) <= 1
    # The search writes what it has tried; along the texts of FUDGE it may not have.
    for text in written[0]:
        for token, found in zip(text["tokens"], text["found"], strict=True):
            assert token in found["tokens"]
    assert [t["tokens"] for t in written[0]] != [t["tokens"] for t in written[1]]
    rows = fingerprint(PROMPTS)
    assert np.isin(rows, read_fingerprint(out)).all()

    # What is there is neither searched nor trained again; what is lost is found as it was.
    calls = []
    search = searched_texts._search
    monkeypatch.setattr(searched_texts, "_search", lambda *a: calls.append(a) or search(*a))
    assert card_of(capsys, *job, "--rounds", 2) == card and not calls
    lost = next((out / "searches" / "2").glob("*.jsonl"))
    before = lost.read_text()
    lost.unlink()
    assert card_of(capsys, *job, "--rounds", 2) == card and len(calls) == 1
    assert lost.read_text() == before

    # The head decodes at the price of sampling.
    text = card_of(
        capsys, "generate", "the a", "--model", folder / "base", "--discriminator", out,
        "--target", "high", "--method", "fudge", "--look-ahead", "--new-tokens", 3, "--json",
        "--quiet",
    )["texts"][0]  # fmt: skip
    assert text["model_tokens"] == len(text["tokens"])
    guide = load_discriminator(out, language_model=load(folder / "base"))
    assert guide.card == card and guide.discriminator.evaluate_children is not None

    # Without the searches, or with those of one round, it is another training.
    plain = job[: job.index("--from-search")]
    assert main(plain) == 2
    assert "another set of searched texts" in capsys.readouterr().err
    # Another number of rounds is refused before anything is searched.
    for rounds in ("1", "3"):
        assert main([*job, "--rounds", rounds]) == 2
        assert "holds searches with another number of rounds: give an" in capsys.readouterr().err
    assert len(calls) == 1 and not (out / "searches" / "3").exists()
    own = [str(tmp_path / "plain") if word == str(out) else word for word in plain]
    card_of(capsys, *own)
    assert main([str(tmp_path / "plain") if word == str(out) else word for word in job]) == 2
    assert "holds a training of another kind" in capsys.readouterr().err
    assert main([*map(str, job), "--rounds", "2", "--new-tokens", "2"]) == 2
    assert "holds searches with another search: give an empty folder" in capsys.readouterr().err
    lost.write_text(before[:-5] + "\n")
    assert main([*map(str, job), "--rounds", "2"]) == 2
    assert "is damaged" in capsys.readouterr().err


def judged_by(job: list[str], capsys, folder: Path, *options) -> dict:
    """Trains a guide on the labels alone."""
    own = job[: job.index("--from-search")]
    own[own.index("--out") + 1] = str(folder)
    at = own.index("--taps")
    return card_of(capsys, *own[:at], "--taps", 1, 2, *options)


@pytest.mark.slow
def test_a_budget_is_that_of_searches_and_trainings_together(job, capsys, tmp_path, monkeypatch):
    judged_by(job, capsys, tmp_path / "judge", "--width", 64)
    now, search = [0.0], searched_texts._search
    monkeypatch.setattr(distilled_recipe, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def slow(*arguments):
        now[0] += 60.0
        return search(*arguments)

    def run(minutes):
        return card_of(capsys, *job, "--guide", tmp_path / "judge", "--budget-minutes", minutes)

    monkeypatch.setattr(searched_texts, "_search", slow)
    monkeypatch.setattr("coopgen_jax.cli.train_searches.Searches", partial(Searches, batch_size=3))
    searches = tmp_path / "out" / "searches" / "1"
    # Of three batches two are begun in two minutes; then nothing is trained.
    card = run(2)
    assert (card["stopped"], card["steps"], len(texts_of(searches))) == ("budget", 0, 6)
    assert not (tmp_path / "out" / "card.json").exists()
    # The third takes what is left, and the training one step.
    card = run(1)
    assert (card["stopped"], card["steps"], len(texts_of(searches))) == ("budget", 1, 8)
    assert run(1)["stopped"] == "steps"


def test_a_named_guide_stays_what_it_is_and_gets_a_look_ahead_head(places, job, capsys, tmp_path):
    folder, _ = places
    guide, out = tmp_path / "judge", tmp_path / "out"
    before = judged_by(job, capsys, guide, "--width", 64)
    card = card_of(capsys, *job, "--guide", guide, "--epochs", 40)
    assert card["teacher"]["name"] == card["searches"]["guide"] == str(guide)
    assert card["teacher"]["rows"] == "known"
    assert not (out / "rounds").exists()
    known = [*fingerprint(PROMPTS), *read_fingerprint(guide)]
    np.testing.assert_array_equal(np.sort(np.unique(known)), read_fingerprint(out))
    # The shape is the guide's, and so is what is said of its judgements.
    for name in ("taps", "width", "accuracy", "hidden", "classes"):
        assert card[name] == before[name]
    assert (before["look_ahead"], card["look_ahead"]) == (0, 4)
    one, other = (load_file(path / "head.safetensors") for path in (guide, out))
    assert other.keys() - one.keys() == {"keys", "queries.query.kernel", "queries.query.bias"}
    for name, leaf in one.items():
        np.testing.assert_array_equal(leaf, other[name])
    losses = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    own = [line["loss"] for line in losses if line["split"] == "training"]
    assert own[-1] < own[0]
    loaded = load_discriminator(out, language_model=load(folder / "base"))
    assert loaded.discriminator.evaluate_children is not None


@pytest.mark.slow
def test_a_guide_of_another_kind_teaches_a_new_head(job, capsys, tmp_path):
    judged_by(job, capsys, tmp_path / "judge", "--layers", 0)
    card = card_of(capsys, *job, "--guide", tmp_path / "judge")
    assert card["taps"] == [0, 3] and card["layers"] == 1
    assert card["searches"]["guide"] == str(tmp_path / "judge")
    assert {"ahead_loss", "searched_loss"} <= card["best"].keys()


@pytest.mark.parametrize(
    "shape", [["--width", 64], pytest.param(["--layers", 0], marks=pytest.mark.slow)]
)
def test_a_guide_of_other_classes_cannot_teach(job, capsys, tmp_path, shape):
    renamed = ["--rename", "high=good", "low=bad"]
    judged_by(job, capsys, tmp_path / "judge", *shape, *renamed, "--epochs", 1)
    assert main([*job, "--guide", str(tmp_path / "judge")]) == 2
    sentence = (
        "the labelled texts have the classes high, low and the guide of the searches bad, good: "
        "they must be the same, in the same order"
    )
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out" / "searches").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["--look-ahead", "0"], "it is a look-ahead head that learns from searches: give --look-"),
        (["--search", "fudge"], "--search fudge is no search: give mcts"),
        (["--search", "mcts:simulations=0"], "--simulations is 0: it must be 1 or more"),
        (["--rounds", "0"], "--rounds is 0: give 1 or more"),
        (["--search", "mcts:samples=2"], "samples is 2: one text a prompt and class"),
        (["--search", "mcts:rollout=2"], "give a search with rollout 0"),
        (["--rounds", "2", "--search", "mcts:alpha=0.5"], "give alpha 1 and kl 0, or 1 round"),
        (["--from-search", "none.txt"], "none.txt cannot be read"),
        (["--guide", "nobody"], "nobody"),
    ],
)
def test_what_cannot_be_searched_is_refused_and_leaves_nothing(
    job, capsys, tmp_path, changes, sentence
):
    assert main([*job, *changes]) == 2
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.glob("out/*.json"))


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--guide", "--guide says what guides the searches of --from-search: give prompts"),
        ("--search", "--search says nothing without --on-policy or --from-search"),
        ("--rounds", "--rounds says nothing without --on-policy or --from-search"),
        ("--new-tokens", "--new-tokens says nothing without --on-policy or --from-search"),
    ],
)
def test_without_prompts_there_is_no_search(places, capsys, tmp_path, option, told):
    _, common = places
    job = ["train", "discriminator", *common, "--label", "class", "--out", str(tmp_path / "out")]
    assert main([*job, option, "2"]) == 2
    assert told in capsys.readouterr().err


def test_searches_and_rounds_on_policy_are_two_trainings(job, capsys, tmp_path):
    prompts = str(tmp_path / "prompts.txt")
    more = ["--on-policy", "smollm2-135m", "--on-policy-prompts", prompts, "--teacher", "judge"]
    assert main([*job, *more]) == 2
    assert "--from-search a look-ahead head: train one, then the" in capsys.readouterr().err


def text(prompt: str, target: str) -> SearchedText:
    return SearchedText(prompt, target, [1, 2], [0.4, 0.6], [Found([1], [2], [0.5])] * 2)


def test_a_tenth_of_the_prompts_is_validated_on():
    texts = [text(f"p{number // 2}", "ab"[number % 2]) for number in range(40)]
    rows = SearchedRows(texts, ("a", "b"))
    training, validation = rows.parts
    assert {one.prompt for one in validation} == {"p9", "p19"} and len(validation) == 4
    assert len(training) == 36 and not {one.prompt for one in training} & {"p9", "p19"}
    first, second = rows.rows(5)
    assert first.ids[0] == [5, 6] and second.ids[0] == [5 + 72, 6 + 72]
    both = beside(Rows([[0], [1]], [1, [0.2, 0.8]]), second, 2)
    assert both.labels == [[0, 1], [0.2, 0.8], *[[0.4, 0.6]] * 4]
    few = SearchedRows(texts[:6], ("a", "b")).parts
    assert [len(part) for part in few] == [4, 2] and few[1][0].prompt == "p2"
    many = beside(Rows([[0]] * 9, [0] * 9), second, 2, evenly=True)
    assert many.ids == [[0]] * 9 + second.ids * 2 and many.labels[9:] == [[0.4, 0.6]] * 8
    with pytest.raises(UserError, match="classes b, a and the guide of the searches a, b"):
        rows.check(("b", "a"))


def test_two_teachers_are_both_named():
    rows = [np.array(own, np.uint64) for own in ([1, 2], [2, 3])]
    one, other = Teacher("one", "x", rows[0]), Teacher("other", "y", rows[1])
    searched = SearchedRows([], (), other)
    assert both_teachers(None, searched) is other
    assert both_teachers(one, SearchedRows([], ())) is one
    both = both_teachers(one, searched)
    assert both.name == "one, other" and both.rows.tolist() == [1, 2, 3]
    assert both_teachers(Teacher("one"), searched).rows is None


def test_searches_refuse_what_they_cannot_do():
    with pytest.raises(UserError, match="fewer than two different prompts to search from"):
        Searches(("a", "a"), MCTSConfig())
    with pytest.raises(UserError, match="rounds is 0"):
        Searches(("a", "b"), MCTSConfig(), rounds=0)
    with pytest.raises(UserError, match="give a search with rollout 0"):
        Searches(("a", "b"), MCTSConfig(rollout=Rollout()))
    assert Searches(("a", "b"), MCTSConfig(value=Value(alpha=0.5))).rounds == 1
