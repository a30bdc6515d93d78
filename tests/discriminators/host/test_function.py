"""Functions in Python as discriminators: what they are asked, and what their answers become."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import coopgen_jax as cg
from coopgen_jax.discriminators.host.function import host_function, reward
from coopgen_jax.errors import UserError
from tests.tiny_model import model

ROOT = Path(__file__).parents[3]
SEARCH = cg.SearchConfig(simulations=6, wave=2, candidates=6, depth=4, reused_nodes=6)
CONFIG = cg.MCTSConfig(new_tokens=4, search=SEARCH)


def letters(text: str) -> float:
    return (1 + len(re.findall("[a-zA-Z]", text))) / (2 + len(text))


class Letters:
    """p(few), p(many) of texts, with a record of what was asked."""

    def __init__(self):
        self.batches = []

    def __call__(self, texts):
        self.batches.append(list(texts))
        many = np.array([letters(text) for text in texts])
        return np.stack([1 - many, many], axis=-1)

    def many(self, texts):
        return self(texts)[:, 1]

    def labelled(self, texts):
        return [
            [{"label": "many", "score": many}, {"label": "few", "score": 1 - many}]
            for many in self.many(texts)
        ]

    def mapped(self, texts):
        return [{"many": many, "few": 1 - many} for many in self.many(texts)]


def judge_of(function, **changes):
    return host_function(function, classes=("few", "many"), tokenizer=model().tokenizer, **changes)


def written(judge, target, prompts=("A prompt", "So"), **changes):
    return cg.generate(
        model(), prompts, discriminator=judge, target=target, config=replace(CONFIG, **changes)
    )


@pytest.mark.parametrize("form", ["__call__", "many", "labelled", "mapped"])
def test_the_texts_are_judged_as_the_function_judges_them(form):
    asked = Letters()
    judge = judge_of(getattr(asked, form))
    for text in written(judge, "many", samples=2, new_tokens=3):
        seen = text.text.rstrip("\ufffd")
        expected = letters(seen) if seen else 0.5
        assert text.class_probabilities["many"] == pytest.approx(expected, abs=1e-5)
        assert text.class_probabilities["few"] == pytest.approx(1 - expected, abs=1e-5)
    texts = [text for batch in asked.batches for text in batch]
    # Nothing is asked twice, and never the empty text.
    assert len(set(texts)) == len(texts) > 5 and "" not in texts
    again = len(asked.batches)
    written(judge, "many", samples=2, new_tokens=3)
    # Every text is known by now, so nothing is asked again, until the function is given anew.
    assert len(asked.batches) == again
    written(judge_of(getattr(asked, form)), "many", samples=2, new_tokens=3)
    assert len(asked.batches) > again
    assert judge.host_seconds > 0


def test_a_search_finds_more_of_what_the_function_likes():
    judge = judge_of(Letters())
    search = cg.SearchConfig(simulations=48, wave=8, candidates=48, depth=4, reused_nodes=8)
    many, few = (
        np.mean([letters(text.text) for text in written(judge, target, search=search)])
        for target in ("many", "few")
    )
    assert many > few + 0.1


def test_the_prompt_is_read_where_asked():
    asked = Letters()
    (text,) = written(judge_of(asked, reads_prompt=True), "many", ["A prompt"])
    whole = "A prompt" + text.text.rstrip("\ufffd")
    assert text.class_probabilities["many"] == pytest.approx(letters(whole), abs=1e-5)
    assert asked.batches[0] == ["A prompt"]
    assert all(one.startswith("A prompt") for batch in asked.batches for one in batch)


def test_no_call_has_more_texts_than_a_batch():
    asked = Letters()
    written(judge_of(asked, batch=1), "many")
    assert {len(batch) for batch in asked.batches} == {1}


def test_a_reward_counts_as_the_sigmoid_of_what_it_is():
    judge = reward(
        lambda texts: [float(len(text)) for text in texts],
        tokenizer=model().tokenizer,
        centre=3,
        scale=2,
    )
    for text in written(judge, "reward"):
        seen = text.text.rstrip("\ufffd")
        expected = 1 / (1 + np.exp(-(len(seen) - 3) / 2)) if seen else 0.5
        assert text.class_probabilities == {"reward": pytest.approx(expected, abs=1e-5)}


class Changing:
    """A function that can be changed without another compilation."""

    answer: Callable

    def __call__(self, texts):
        return self.answer(texts)


def broken(texts):
    raise RuntimeError("no such file")


def test_what_a_function_gets_wrong_is_told():
    changing = Changing()
    judge = judge_of(changing, batch=1)
    cases = {
        "the discriminator's host function failed: RuntimeError: no such file": broken,
        "array of shape (1, 3) for 1 texts: it must be (1, 2)": lambda texts: [[0.1, 0.2, 0.7]],
        "must lie between 0 and 1": lambda texts: [[2.0, -1.0]],
        "numbers that are no probabilities": lambda texts: [float("nan")],
        "has no class 'few': it has many": lambda texts: [{"many": 1.0}],
    }
    for sentence, changing.answer in cases.items():
        with pytest.raises(UserError, match=re.escape(sentence)):
            written(judge, "many")
    # A function that failed can be asked again.
    changing.answer = Letters()
    assert written(judge, "many")[0].class_probabilities["many"] > 0
    scored = reward(lambda texts: [float("inf")] * len(texts), tokenizer=model().tokenizer)
    with pytest.raises(UserError, match="finite numbers"):
        written(scored, "reward")


def test_mistakes_are_told():
    tokenizer = model().tokenizer
    for classes in (("one",), ("a", "a")):
        with pytest.raises(UserError, match="give two or more different names"):
            host_function(Letters(), classes=classes, tokenizer=tokenizer)
    for settings in ({"batch": 0}, {"remember": 0}):
        with pytest.raises(UserError, match="they must be 1 or more"):
            judge_of(Letters(), **settings)
    with pytest.raises(UserError, match="scale is 0: it must be above 0"):
        reward(len, tokenizer=tokenizer, scale=0)


WORDS = ("good", "bad", "good", "bad", "good", "bad")


def test_the_tutorials_ten_lines_run(monkeypatch, capsys):
    page = (ROOT / "docs/tutorials/your_own_classifier.md").read_text(encoding="utf-8")
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", page, re.S) if "MultinomialNB" in b]
    assert len([line for line in block.splitlines() if line.strip()]) <= 11
    monkeypatch.setattr(cg, "load_language_model", lambda name: model())
    monkeypatch.setitem(cg.PRESETS, "default", CONFIG)
    exec(compile(block, "tutorial", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_the_tutorials_classifier_of_toxicity_runs(monkeypatch, capsys, tmp_path):
    page = (ROOT / "docs/tutorials/your_own_classifier.md").read_text(encoding="utf-8")
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", page, re.S) if "toxicity.jsonl" in b]
    rows = [{"text": f"{word} text", "toxicity": 0.2 + 0.5 * (word == "bad")} for word in WORDS]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "toxicity.jsonl").write_text(lines)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cg, "load_language_model", lambda name: model())
    monkeypatch.setitem(cg.PRESETS, "default", CONFIG)
    exec(compile(block, "tutorial", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 4 and all(" text" in line for line in printed)


def test_fudge_asks_a_function_about_tokens_that_the_language_model_has_not_read():
    config = cg.FudgeConfig(new_tokens=5, samples=2, candidates=9, strength=4.0)
    ask = Letters()
    texts = [
        cg.generate(
            model(), ["A prompt", "So"], discriminator=judge_of(ask), target="many", config=one
        )
        for one in (config, replace(config, look_ahead=True))
    ]
    for plain, ahead in zip(*texts, strict=True):
        assert plain.tokens == ahead.tokens
        assert plain.class_probabilities == pytest.approx(ahead.class_probabilities)
        assert plain.model_tokens == 9 * len(plain.tokens)
        assert ahead.model_tokens == len(ahead.tokens)


def test_nobody_asks_a_function_about_the_whole_vocabulary():
    with pytest.raises(UserError, match=r"gedi asks about every token .* reads every text anew"):
        cg.generate(
            model(), ["So"], discriminator=judge_of(Letters()), target="many",
            config=cg.GediConfig(new_tokens=2),
        )  # fmt: skip
