"""The trace of a search: nothing lost, nothing invented, nothing that breaks the page."""

import json
from html.parser import HTMLParser
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from coopgen_jax.decoding.job import Job
from coopgen_jax.decoding.mcts import ppl_mcts as mcts
from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig
from coopgen_jax.errors import UserError
from coopgen_jax.models.language_model import Prompt
from coopgen_jax.search.config import SearchConfig
from coopgen_jax.testing import ToyLanguage, toy_discriminator, toy_language_model
from coopgen_jax.tokenizer import Tokenizer
from coopgen_jax.tools.trace import Recorder, document, nested, number, render_html, token_names

TOY = ToyLanguage()
CONFIG = MCTSConfig(
    new_tokens=6, search=SearchConfig(simulations=16, candidates=4, reused_nodes=16)
)
# The last token ends a toy text; the others are chosen to be awkward on a page.
WORDS = ("</script>", "<!--<script>", "a\u2028b", "&amp;", "<end>")


def toy_tokenizer() -> Tokenizer:
    core = tokenizers.Tokenizer(models.WordLevel({w: n for n, w in enumerate(WORDS)}, WORDS[0]))
    core.decoder = decoders.Fuse()
    core.add_special_tokens([AddedToken("<end>", special=True)])
    return Tokenizer(core, end_tokens=[len(WORDS) - 1])


@pytest.fixture(scope="module")
def searched() -> list[SimpleNamespace]:
    """The steps of a batch of three rows, of which the last is a copy that fills it up."""
    tokens = jnp.asarray([[0, 1, 2], [3, 3, 1], [3, 3, 1]], jnp.int32)
    prompt = Prompt(
        tokens=tokens, mask=jnp.ones(tokens.shape, bool), index=jnp.asarray([0, 1, 1], jnp.int32)
    )
    tables = TOY.tables(3)
    job = Job(
        prompt=prompt,
        language_model=toy_language_model(TOY),
        params={"logits": jnp.asarray(tables["logits"])},
        discriminator=toy_discriminator(TOY),
        discriminator_params={"scores": jnp.asarray(tables["scores"])},
        target=jnp.asarray([1, 0, 0], jnp.int32),
        config=CONFIG,
    )
    advance = jax.jit(mcts.advance)
    state = jax.jit(mcts.begin)(job)
    steps = []
    for step in range(CONFIG.new_tokens):
        state, tree = advance(jax.random.key(0), job, state)
        heard = {"step": step + 1, "prompts": [0, 1], "generation": state.generation, "tree": tree}
        steps.append(SimpleNamespace(**heard))
    return steps


@pytest.fixture
def recorder(searched: list[SimpleNamespace]) -> Recorder:
    made = Recorder(toy_tokenizer(), ("zero", "one"))
    for step in searched:
        made(step)
    return made


def walk(node: dict) -> list[dict]:
    return [node, *(below for child in node["children"] for below in walk(child))]


def texts_of(searched: list[SimpleNamespace]) -> list[SimpleNamespace]:
    generation = jax.device_get(searched[-1].generation)
    return [
        SimpleNamespace(
            prompt="p</script>",
            text="t",
            number=row,
            sample=0,
            target="one",
            log_prob=float(generation.log_prob[row, 0]),
            perplexity=float("inf"),
        )
        for row in range(2)
    ]


def test_nodes_are_those_of_the_arrays(searched, recorder):
    for place, step in enumerate(searched):
        for row in range(2):
            if int(step.generation.length[row, 0]) != place + 1:
                continue
            arrays = jax.tree.map(lambda leaf, row=row: np.asarray(leaf)[row, 0], step.tree)
            nodes = walk(recorder.steps[row, 0][place]["root"])
            alive = np.flatnonzero(arrays.visits > 0)
            assert len(nodes) == len(alive)
            assert sorted(node["visits"] for node in nodes) == sorted(arrays.visits[alive].tolist())
            means = arrays.value_sum[alive] / arrays.visits[alive]
            found = sorted(node["value"] for node in nodes)
            np.testing.assert_allclose(found, np.sort(means), rtol=1e-5)
            own = sorted(node["own_value"] for node in nodes)
            np.testing.assert_allclose(own, np.sort(arrays.value[alive]), rtol=1e-5)


def test_each_node_follows_from_its_parent(recorder):
    for steps in recorder.steps.values():
        for step in steps:
            for node in walk(step["root"]):
                assert sum(node["classes"].values()) == pytest.approx(1, abs=1e-5)
                visits = [child["visits"] for child in node["children"]]
                assert visits == sorted(visits, reverse=True)
                assert sum(visits) < node["visits"]
                rest = node["unexpanded"]
                expected = 0 if node["terminal"] else 4 - len(visits)
                assert rest["count"] == expected
                assert len(rest["best"]) == min(3, expected)
                priors = sum(child["prior"] for child in node["children"]) + rest["prior"]
                assert priors <= 1 + 1e-5
                for child in node["children"]:
                    assert child["depth"] == node["depth"] + 1
                    assert child["log_prob"] <= 0
                    assert child["token"] == WORDS[child["id"]]


def test_a_step_is_the_token_that_was_written(searched, recorder):
    generation = jax.device_get(searched[-1].generation)
    for row in range(2):
        length = int(generation.length[row, 0])
        steps = recorder.steps[row, 0]
        written = generation.tokens[row, 0, :length].tolist()
        assert [step["id"] for step in steps] == written
        for place, step in enumerate(steps):
            assert step["root"]["children"][0]["id"] == step["id"]
            assert step["root"]["token"] is step["root"]["prior"] is None
            assert step["before"] == "".join(WORDS[token] for token in written[:place])
            child = step["root"]["children"][0]
            assert step["classes"] == child["classes"]


def test_copies_and_finished_texts_are_not_recorded(searched, recorder):
    assert set(recorder.steps) == {(0, 0), (1, 0)}
    lengths = {row: int(searched[-1].generation.length[row, 0]) for row in range(2)}
    # The seed was chosen so that one text ends early.
    assert min(lengths.values()) < CONFIG.new_tokens
    assert {row: len(recorder.steps[row, 0]) for row in range(2)} == lengths


def test_plain_decoding_has_no_trees(searched):
    step = SimpleNamespace(step=1, prompts=[0], generation=searched[0].generation, tree=None)
    with pytest.raises(UserError, match="mcts"):
        Recorder(toy_tokenizer())(step)


def test_a_value_that_is_not_finite_is_null(searched):
    assert number(float("nan")) is None
    assert number(float("-inf")) is None
    assert number(np.float32(0.123456789)) == 0.123457
    tree = jax.tree.map(lambda leaf: np.array(leaf)[0, 0], searched[0].tree)
    tree.value[0] = np.nan
    assert nested(tree, token_names(toy_tokenizer()), ("zero", "one"))["own_value"] is None


def test_what_a_step_earns_is_told_where_steps_earn_anything(searched):
    tree = jax.tree.map(lambda leaf: np.array(leaf)[0, 0], searched[0].tree)
    name = token_names(toy_tokenizer())
    assert not any("reward" in node for node in walk(nested(tree, name, ("zero", "one"))))
    rewards = np.arange(tree.priors.size, dtype=np.float32).reshape(tree.priors.shape)
    root = nested(tree.replace(rewards=rewards), name, ("zero", "one"))
    assert root["reward"] is None and root["children"]
    for child in root["children"]:
        assert child["reward"] == rewards[0, tree.tokens[0].tolist().index(child["id"])]


class Page(HTMLParser):
    """Collects scripts and whatever might load something."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[tuple[dict, str]] = []
        self.links: list[str] = []
        self.inside = False

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        self.inside = tag == "script"

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)


def test_the_page_holds_the_document_and_nothing_can_break_out(searched, recorder):
    trace = document(recorder, texts_of(searched), settings={"target": "</script><b>"})
    names = {node["token"] for text in trace["texts"] for node in walk(text["steps"][0]["root"])}
    assert "</script>" in names
    page = Page()
    page.feed(render_html(trace))
    assert len(page.scripts) == 2
    assert page.links == []
    attributes, data = page.scripts[0]
    assert attributes["type"] == "application/json"
    assert not set("<>&\u2028") & set(data)
    assert json.loads(data, parse_constant=pytest.fail) == trace
    assert trace["texts"][0]["perplexity"] is None
    assert "http://" not in page.scripts[1][1] and "https://" not in page.scripts[1][1]


def byte_level() -> Tokenizer:
    """Every byte is a token, and "Ġa" (a space and an a) one more."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: place for place, letter in enumerate([*alphabet, "Ġa", "<|end|>"])}
    core = tokenizers.Tokenizer(models.BPE(vocabulary, [("Ġ", "a")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken("<|end|>", special=True)])
    return Tokenizer(core)


def test_parts_of_characters_are_named_by_their_bytes():
    tokenizer = byte_level()
    name = token_names(tokenizer)
    fragments = [name(token) for token in tokenizer.encode("é\U0001f600")]
    assert fragments == [f"<0x{byte:02X}>" for byte in "é\U0001f600".encode()]
    assert [name(token) for token in tokenizer.encode("b a\n")] == ["b", " a", "\n"]
    assert name(tokenizer.core.token_to_id("<|end|>")) == "<|end|>"
    assert name(10_000) == "<10000>"


def test_spaces_of_sentence_pieces_are_kept():
    pieces = {"▁the": 0, "▁": 1, "end": 2, "<0xE2>": 3, "\ufffd": 4}
    core = tokenizers.Tokenizer(models.WordLevel(pieces, "▁"))
    core.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    name = token_names(Tokenizer(core))
    assert [name(token) for token in range(5)] == [" the", " ", "end", "<0xE2>", "\ufffd"]
