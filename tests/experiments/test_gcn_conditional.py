"""The experiment on questions takes its rows, writes, judges and measures as it says."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from coopgen_jax.data.batches import BatchConfig
from coopgen_jax.data.labelled import half_of
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.discriminators.loading import load_discriminator
from coopgen_jax.models.pretrained.saving import save_model
from coopgen_jax.training.loop import LoopConfig
from coopgen_jax.training.run import RecipeConfig
from experiments.conditional_figures import report, share
from experiments.conditional_settings import FIRST, Config, decoders, round_of
from experiments.conditional_texts import Reading, chosen, quality, read_data, write_texts
from experiments.gcn_conditional import Clock, SpentError, joined, pretrained
from experiments.pair_judge import Sides, both_sides, says_human, train_pair_judge
from tests.training.gcn.gcn_worker import END, WORDS, language, tokenizer

TEMPLATE = "{} w58"


def reading(folder, **changes) -> Reading:
    how = Reading(
        folder, "context", "question", TEMPLATE, source_width=5, text_width=4, cut_sources=False,
        training=40, guide=24, judges=24, fresh=12, validation=6, test=7,
    )  # fmt: skip
    return replace(how, **changes)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A folder of questions: one or two of every source, and some that are too long."""
    folder, rng = tmp_path_factory.mktemp("rows"), np.random.default_rng(0)

    def said(most: int) -> str:
        return " ".join(rng.choice(WORDS[:50], rng.integers(2, most + 1)))

    for name, count in (("train", 300), ("test", 30)):
        lines = []
        for _ in range(count):
            source = said(6)
            lines += [{"context": source, "question": said(5)} for _ in range(rng.integers(1, 3))]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text)
    return folder


@pytest.fixture(scope="module")
def data(rows):
    return read_data(reading(rows), tokenizer())


def test_rows_fit_and_no_source_is_on_two_sides(rows, data, capsys):
    read_data(reading(rows), tokenizer())
    assert "sources above 5 tokens are left out" in capsys.readouterr().out
    sources = {
        name: set(getattr(data, name).sources)
        for name in ("training", "guide", "judges", "fresh", "validation", "test")
    }
    for pairs in (data.training, data.guide, data.judges, data.fresh, data.test):
        assert all(len(source) <= 5 and source[-1] == 58 for source in pairs.sources)
        # A text that fits has its end.
        assert all(len(text) <= 4 and text[-1] == END for text in pairs.texts)
    others = {"guide": ("judges",), "judges": ("training", "test", "validation"),
              "fresh": ("training", "judges", "validation", "test"),
              "test": ("training",)}  # fmt: skip
    for one, other in ((one, other) for one, all_ in others.items() for other in all_):
        assert not sources[one] & sources[other], (one, other)
    for name in ("guide", "judges", "fresh", "test"):
        assert len(sources[name]) == len(getattr(data, name)), "a source stands once"
    halves = {name: {half_of(" ".join(WORDS[n] for n in source[:-1])) for source in sources[name]}
              for name in ("training", "guide", "judges", "fresh")}  # fmt: skip
    assert halves == {"training": {"A"}, "guide": {"A"}, "judges": {"B"}, "fresh": {"B"}}


def test_references_are_all_texts_of_a_source_however_long(rows, data):
    lines = [json.loads(line) for line in (rows / "test.jsonl").read_text().splitlines()]
    for source, own in zip(data.test.sources, data.references, strict=True):
        said = " ".join(WORDS[n] for n in source[:-1])
        assert list(own) == [row["question"] for row in lines if row["context"] == said]
    assert {len(own) for own in data.references} == {1, 2}
    assert max(len(text.split()) for own in data.references for text in own) > 4


def test_sources_are_cut_where_that_is_asked_for(rows, data, capsys):
    more = read_data(reading(rows, cut_sources=True, training=1000), tokenizer())
    assert "are cut" in capsys.readouterr().out
    whole = read_data(reading(rows, training=1000), tokenizer())
    assert len(more.training) > len(whole.training) > len(data.training)
    assert max(map(len, more.training.sources)) == 5


def test_a_step_reads_both_sides_of_the_same_sources(data):
    written = replace(data.judges, texts=((7, END),) * len(data.judges))
    batch = both_sides(data.judges, written, [3, 0])
    assert batch["label"].tolist() == [1, 1, 0, 0] and batch["index"].tolist() == [0, 1, 2, 3]
    for place, number in enumerate([3, 0]):
        source = data.judges.sources[number]
        for row, text in ((place, data.judges.texts[number]), (place + 2, (7, END))):
            whole = [*source, *text]
            assert batch["tokens"][row, : len(whole)].tolist() == whole
            assert batch["mask"][row].sum() == len(whole)
            assert batch["written"][row].sum() == len(text)
    # Every source comes up once in a turn, and what is held out never does.
    numbered = replace(data.judges, sources=tuple((n,) for n in range(len(data.judges))))
    sides = Sides(numbered, numbered, tuple(range(1, 13)), 4, seed=0)
    first = [int(row[0]) for number in range(3) for row in sides[number]["tokens"][:4]]
    assert sorted(first) == list(range(1, 13)) and first != sorted(first)


def test_a_judge_learns_who_has_written_and_reads_the_source(data, tmp_path):
    # Others write one word: whoever reads the text can tell.
    written = replace(
        data.judges, texts=((7, 7, END),) * len(data.judges), written=("w7",) * len(data.judges)
    )
    how = RecipeConfig(
        LoopConfig(steps=30, validate_every=30, save_every=10),
        BatchConfig(rows=8, longest=9, shortest=None), lora=None, learning_rate=3e-3, dropout=0.0,
        saved_dtype="float32",
    )  # fmt: skip
    model = language()
    card = train_pair_judge(model, data.judges, written, how, beginnings=False, folder=tmp_path)
    assert card["held_out"]["accuracy"] == 1.0 and card["stopped"] == "steps"
    assert card["reads_prompt"] and card["start_token"] is None
    judge = load_discriminator(tmp_path, language_model=model)
    assert judge.discriminator.reads_prompt
    human, other = (says_human(judge, side, rows=16) for side in (data.judges, written))
    assert len(human) == len(other) == len(data.judges) and human.min() > 0.5 > other.max()
    # Rows do not depend on the ones beside them, nor on how many are read at once.
    again = says_human(judge, chosen(data.judges, [9, 2]), rows=16)
    np.testing.assert_allclose(again, human[[9, 2]], atol=1e-5)
    elsewhere = replace(data.judges, sources=((1, 58),) * len(data.judges))
    assert np.abs(says_human(judge, elsewhere, rows=16) - human).max() > 1e-5


def test_texts_are_written_once_and_for_every_source(data, tmp_path, monkeypatch):
    model, greedy = language(), SamplingConfig(new_tokens=4, rules=Rules(temperature=0.0))
    path = tmp_path / "texts" / "greedy.json"

    def write(sources=data.test, config=greedy, rows=4):
        return write_texts(path, model, config, sources, guide=None, rows=rows, seed=0)

    found = write()
    assert len(found) == len(data.test) == 7 and found.sources == data.test.sources
    for text, said in zip(found.texts, found.written, strict=True):
        bare = text[:-1] if text[-1] == END else text
        assert said == " ".join(tokenizer().decode([n]) for n in bare)
    # However they lie in batches, the last of which is not full.
    path.unlink()
    few = write(chosen(data.test, [5]))
    assert few.texts == found.texts[5:6]
    assert write().texts == found.texts
    monkeypatch.setattr("experiments.conditional_texts._written", lambda *args: pytest.fail())
    assert write().texts == found.texts
    with pytest.raises(pytest.fail.Exception):
        write(config=replace(greedy, new_tokens=3))


def test_quality_by_hand():
    references = [["what is it ?", "who was here ?"], ["a b c d e"]]
    found = quality(["Who is here ?", "a c e b d"], references)
    # Two of three words with the second reference; the longest common subsequence of a c e b d is
    # a c e, or a b d.
    assert found["rouge_1"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["rouge_l"] == pytest.approx((2 / 3 + 3 / 5) / 2)
    assert found["words"] == 4.5
    assert quality(["who was here ?"], references[:1])["bleu_4"] == pytest.approx(1)


def test_every_decoder_spends_what_it_is_told(tmp_path):
    found = decoders(Config(tmp_path, tmp_path, new_tokens=6, beams=3, alpha=3.0, search=24))
    assert list(found) == ["greedy", "beam", "DAS local", "DAS global", "tree search"]
    assert {config.new_tokens for config in found.values()} == {6}
    # A weight of 3 beside 1 is one of 3 in 4.
    assert found["DAS local"].alpha == 3.0 and found["DAS global"].alpha == 0.75
    assert found["DAS global"].proposal == found["beam"] and found["DAS global"].of == 3
    assert found["tree search"].search.simulations == 24
    guided = [name for name, config in found.items() if config.guided]
    assert guided == ["DAS local", "DAS global", "tree search"]


def test_rounds_go_on_from_maximum_likelihood_by_weighable_proposals(tmp_path):
    config = Config(tmp_path, tmp_path, samples=3, sources=5)
    first = round_of(config, FIRST)
    assert first.objective == "mle" and first.sources == config.first_rows
    for name in ("gcn", "selfgan"):
        found = round_of(config, name)
        assert found.objective == name and found.texts == 15
        # The search that samples can write whatever the generator can.
        assert found.covers and found.weighable and found.guided


def test_a_cut_model_is_another_one(tmp_path):
    model = language()
    save_model(tmp_path, model.config, model.params, model.tokenizer, dtype="float32")
    config = Config(tmp_path, tmp_path, model=str(tmp_path))
    whole, cut = pretrained(config), pretrained(replace(config, layers=1))
    assert whole.config.layers > cut.config.layers == 1 and whole.sha256 != cut.sha256
    assert {len(leaf) for leaf in jax.tree.leaves(cut.params["layers"])} == {1}


def test_a_clock_that_has_run_out_says_so(data):
    assert Clock(None).left() is None
    with pytest.raises(SpentError):
        Clock(0.0).left()
    both = joined((chosen(data.test, [0]), chosen(data.test, [4, 2])))
    assert both.texts == tuple(data.test.texts[n] for n in (0, 4, 2)) and len(both.written) == 3


def test_the_table_tells_shares_with_their_intervals(tmp_path, capsys):
    said = share([0.9, 0.8, 0.2, 0.4])
    assert said["value"] == 0.5 and said["mean"] == pytest.approx(0.575)
    assert said["interval"][0] < 0.5 < said["interval"][1]
    judged = {"base": [0.9, 0.1], "base_plus": [0.2, 0.1]}
    row = {"bleu_4": 0.165, "rouge_1": 0.4, "rouge_l": 0.3, "words": 9.0} | judged
    measured = {"people": {"people": judged}, FIRST: {"greedy": row}, "gcn": {"greedy": row}}
    found = {
        "settings": {}, "measured": measured, "judges_held_out": {"base": {"accuracy": 0.7}},
        "trained": {FIRST: {"start": {"loss": 4.0}, "last": {"loss": 3.0}}},
    }  # fmt: skip
    report(tmp_path, "summaries", found)
    text = (tmp_path / "gcn_summaries.txt").read_text()
    assert "16.5" in text and "50% [9%, 91%]" in text and "loss 4.000 to 3.000" in text
    # The papers' questions are no measure of another task.
    assert "Reported" not in text and text.strip() in capsys.readouterr().out
    report(tmp_path, "questions", found)
    assert "Reported" in (tmp_path / "gcn_questions.txt").read_text()
    kept = json.loads((tmp_path / "gcn_questions.json").read_text())
    assert kept["figures"]["gcn"]["greedy"]["base_plus"]["value"] == 0
    assert (tmp_path / "gcn_questions.png").stat().st_size > 1000
