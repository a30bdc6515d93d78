"""Rounds of writing and training, on a toy language whose p(class | text) is known exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import coopgen_jax as cg
from coopgen_jax.data.labelled import Teacher
from coopgen_jax.errors import UserError
from coopgen_jax.testing import ToyLanguage, toy_discriminator, toy_language_model
from coopgen_jax.training.on_policy import OnPolicyConfig, train_on_policy
from coopgen_jax.training.over_optimisation import Visited, gap_of

TOY = ToyLanguage(vocab_size=5)
TABLES = jax.tree.map(jnp.asarray, TOY.tables(seed=0))
EXACT = np.asarray(jax.nn.softmax(TABLES["scores"]))
TEACHER = Teacher("exact", "0" * 64, np.array([7], np.uint64))
SEARCH = cg.MCTSConfig(new_tokens=5, search=cg.SearchConfig(simulations=24, wave=4, candidates=4))
DECODE = jax.jit(cg.decode, static_argnames=("language_model", "discriminator", "config"))
COUNT = 32
PROMPTS = jnp.asarray([[at % 2, at // 2 % 4, at // 8] for at in range(COUNT)])


def last_memory(text):
    """The memory behind a text; the token that ends it is not judged."""
    memory = 0
    for token in map(int, text.split()):
        memory = memory if token == TOY.vocab_size - 1 else TOY.read(memory, token)
    return memory


class Guide:
    """A table of p(class) by memory, which knows what it has seen; the rest it takes for "one"."""

    def __init__(self):
        self.scores = np.tile(np.log([0.02, 0.98]), (TOY.states, 1))
        self.trained = []

    def train(self, number, rows):
        self.trained.append([len(part.texts) for part in rows])
        seen = {}
        for part in rows:
            assert part.teacher is TEACHER
            for text, shares in zip(part.texts, part.shares, strict=True):
                seen.setdefault(last_memory(text), []).append(shares)
        for memory, shares in seen.items():
            self.scores[memory] = np.log(np.mean(shares, axis=0))
        return {"stopped": "steps", "round": number}


def written(guide, number):
    """Texts that a search by the guide has chosen towards "one", the prompt in front."""
    params = {**TABLES, "scores": jnp.asarray(guide.scores, jnp.float32)}
    prompt = cg.Prompt(PROMPTS, jnp.ones(PROMPTS.shape, bool), jnp.arange(COUNT) + COUNT * number)
    found = DECODE(
        jax.random.key(number), prompt, language_model=toy_language_model(TOY), params=params,
        discriminator=toy_discriminator(TOY), discriminator_params=params,
        target=jnp.ones(COUNT, jnp.int32), config=SEARCH,
    )  # fmt: skip
    texts, said = [], []
    for row in range(COUNT):
        own = np.asarray(found.tokens)[row, 0, : int(found.length[row, 0])]
        texts.append(" ".join(map(str, [*np.asarray(PROMPTS)[row], *own])))
        said.append(np.exp(found.log_class[row, 0]))
    rows = np.arange(COUNT)
    return Visited(
        tuple(map(str, rows)), tuple(texts), np.ones(COUNT, np.int32), np.ones(COUNT, bool),
        np.asarray(said, np.float64),
    )  # fmt: skip


def exact(number, texts):
    return np.array([EXACT[last_memory(text)] for text in texts])


def test_rounds_mend_a_guide_that_is_wrong_where_a_search_goes():
    guide = Guide()
    off = []

    def write(number):
        found = written(guide, number)
        off.append(np.abs(found.guide - exact(number, found.texts)).mean())
        return found

    told = []
    found = train_on_policy(
        OnPolicyConfig(rounds=12, tolerance=0.02), ("zero", "one"), TEACHER,
        train=guide.train, write=write, judge=exact, listener=told.append,
    )  # fmt: skip
    assert off[0] > 0.3 and off[-1] < 0.05 < 0.25 < off[0] - off[-1]
    assert abs(found.history[-1]["gap"]) <= 0.02 < found.history[0]["gap"]
    assert 1 < len(found.history) < 13 and found.number == len(found.history) - 1
    assert told == found.history and found.card["round"] == found.number
    # Every round had the rows of all in front of it, and none of the last ones.
    assert guide.trained == [[COUNT] * number for number in range(found.number + 1)]
    assert [entry["rows"] for entry in found.history] == [
        COUNT * n for n in range(found.number + 1)
    ]
    visited, shares = found.visited
    assert gap_of(visited, shares)["gap"] == found.history[-1]["gap"]
    np.testing.assert_array_equal(shares, exact(0, visited.texts))


def fake(gaps, stopped="steps"):
    """Rounds whose gaps are known beforehand."""
    texts = ("x", "y")

    def write(number):
        guide = np.tile([0.5 - gaps[number], 0.5 + gaps[number]], (2, 1))
        return Visited(texts, texts, np.ones(2, np.int32), np.ones(2, bool), guide)

    trained = []

    def train(number, rows):
        trained.append((number, len(rows)))
        return {"stopped": stopped if number == len(gaps) - 1 else "steps"}

    def run(**config):
        return train_on_policy(
            OnPolicyConfig(**config), ("a", "b"), TEACHER, train=train, write=write,
            judge=lambda number, texts: np.full((2, 2), 0.5),
        )  # fmt: skip

    return run, trained


def test_rounds_end_at_the_tolerance_up_or_down_and_at_their_number():
    for gaps, rounds in (([0.3, 0.1], 1), ([0.3, 0.1, -0.01], 5), ([0.015], 4)):
        run, trained = fake(gaps)
        found = run(rounds=rounds, tolerance=0.02)
        assert [entry["gap"] for entry in found.history] == pytest.approx(gaps)
        assert trained == [(number, number) for number in range(len(gaps))]
    # A guide that underrates is as far from its teacher.
    run, trained = fake([-0.3, 0.0])
    assert len(run(rounds=4).history) == 2


def test_a_training_that_is_not_finished_ends_the_rounds():
    run, trained = fake([0.3, 0.3], "interrupt")
    found = run(rounds=4)
    assert found.visited is None and len(found.history) == 1 and found.number == 1
    assert found.card == {"stopped": "interrupt"} and trained[-1] == (1, 1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"rounds": 0}, "rounds is 0"), ({"tolerance": 1.0}, "tolerance"), ({"tolerance": -1}, "gap")],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        OnPolicyConfig(**settings)


def test_a_search_without_texts_and_a_teacher_without_probabilities_are_refused():
    nothing = Visited((), (), np.zeros(0, np.int32), np.zeros(0, bool), np.zeros((0, 2)))
    run = {"train": lambda number, rows: {"stopped": "steps"}, "write": lambda number: nothing}
    config = OnPolicyConfig()
    with pytest.raises(UserError, match="are empty"):
        train_on_policy(config, ("a", "b"), TEACHER, judge=exact, **run)
    one = Visited(("x",), ("x",), np.ones(1, np.int32), np.ones(1, bool), np.array([[0.5, 0.5]]))
    run["write"] = lambda number: one
    with pytest.raises(UserError, match="must be 0 or more and sum to 1"):
        train_on_policy(
            config, ("a", "b"), TEACHER, judge=lambda number, texts: np.ones((1, 2)), **run
        )
