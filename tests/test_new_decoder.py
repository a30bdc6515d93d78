"""A decoder from outside the package: one file and one entry, and everything else has it."""

import functools
import importlib.util
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

import coopgen_jax as cg
from coopgen_jax.cli.compare_methods import method_config
from coopgen_jax.decoding.decode import DECODERS
from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.generation import Generation, append, blank, row_keys
from coopgen_jax.decoding.job import (
    Decoder,
    ends,
    read_prompts,
    read_token,
    seen_by,
    shaped,
    stop_states,
)
from coopgen_jax.decoding.on_mesh import on_mesh
from coopgen_jax.decoding.rules.draw import draw, entry_at
from coopgen_jax.models.slots import Capacity
from coopgen_jax.parallel.mesh import make_mesh
from coopgen_jax.text_generation import generate
from tests.cli.judging import write_all
from tests.cli.running import run, sentence
from tests.cli.tiny import load_tiny, load_toy_discriminator
from tests.decoding.toy import MODEL, PARAMS, prompt_of

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class CoinTossConfig(DecoderSettings):
    """Takes the likeliest token, or draws one where a coin says so.

    Attributes:
      heads: probability with which a token is drawn.
      warm_tokens: `K`, tokens at the beginning of a text that are always drawn.
    """

    heads: float = 0.5
    warm_tokens: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.heads <= 1:
            raise ValueError(f"heads is {self.heads}: give a probability")


@struct.dataclass
class State:
    """Logits `[B, R, V]` of the next token, the networks' states, the texts, the step."""

    logits: jax.Array
    states: tuple
    generation: Generation
    step: jax.Array


def begin(job):
    """Reads the prompts."""
    config = job.config
    capacity = Capacity(config.samples, config.new_tokens, nodes=1)
    logits, log_class, states = read_prompts(job, capacity, config.ahead)
    return State(logits, states, blank(log_class, config.new_tokens), jnp.int32(0))


def advance(key, job, state):
    """Writes a token of every text."""
    generation, stop, rules = state.generation, stop_states(state.states), job.config.rules
    seen = seen_by(job, generation, stop)
    scores = shaped(job, state.logits, seen)
    keys = row_keys(key, job.prompt, job.config.samples, state.step)
    drawn, _ = draw(rules, keys, scores, seen=seen)
    best, log_q = draw(rules, None, scores)
    coins = jax.vmap(jax.vmap(functools.partial(jax.random.uniform, shape=())))(keys)
    toss = (coins < job.config.heads) | (state.step < job.config.warm_tokens)
    token = jnp.where(toss, drawn, best)
    log_p, end = entry_at(jax.nn.log_softmax(state.logits), token), ends(job, token, stop)
    logits, log_class, states = read_token(job, state.states, generation, token)
    written = append(
        generation, token, log_prob=log_p, log_proposal=log_q, log_class=log_class, end=end
    )
    return State(logits, states, written, state.step + 1), None


@pytest.fixture(autouse=True)
def registered(monkeypatch, tmp_path):
    """All that the package is told of the decoder."""
    monkeypatch.setitem(DECODERS, CoinTossConfig, Decoder(begin, advance))
    monkeypatch.setattr("coopgen_jax.cli.generate.load", load_tiny)
    monkeypatch.setattr("coopgen_jax.cli.generate.load_discriminator", load_toy_discriminator)
    monkeypatch.setattr("coopgen_jax.cli.generate.keep_compilations", lambda folder: None)
    monkeypatch.setattr("coopgen_jax.cli.compare.keep_compilations", lambda folder: None)
    monkeypatch.setattr("coopgen_jax.cli.generate.check_class", lambda options: None)
    monkeypatch.setenv("COOPGEN_CACHE", str(tmp_path / "cache"))


def test_it_decodes_and_generates():
    config = CoinTossConfig(new_tokens=5, samples=3, heads=0.0)
    prompt = prompt_of([0, 1], [3])
    decode = jax.jit(cg.decode, static_argnames=("language_model", "config"))
    parts = {"language_model": MODEL, "params": PARAMS}
    got = decode(jax.random.key(0), prompt, config=config, **parts)
    greedy = cg.SamplingConfig(new_tokens=5, samples=3, rules=cg.Rules(temperature=0.0))
    best = decode(jax.random.key(0), prompt, config=greedy, **parts)
    np.testing.assert_array_equal(got.tokens, best.tokens)
    np.testing.assert_allclose(got.log_prob, best.log_prob, rtol=1e-6)

    model = load_tiny("smollm2-135m", dtype="float32")
    texts = generate(model, ["This film"], config=replace(config, heads=1.0))
    sampled = generate(model, ["This film"], config=cg.SamplingConfig(new_tokens=5, samples=3))
    assert [text.tokens for text in texts] == [text.tokens for text in sampled]


def test_a_mesh_writes_what_one_device_writes():
    config = CoinTossConfig(new_tokens=4, samples=2)
    prompt, key = prompt_of([0, 1], [3]), jax.random.key(1)

    def decode(write):
        @jax.jit
        def written(prompt):
            return write(key, prompt, language_model=MODEL, params=PARAMS, config=config)

        return written(prompt)

    mesh = make_mesh(1)
    alone, spread = decode(cg.decode), decode(on_mesh(cg.decode, mesh))
    np.testing.assert_array_equal(alone.tokens, spread.tokens)
    model = load_tiny("smollm2-135m", dtype="float32")
    one, other = (generate(model, ["This"], config=config, mesh=m) for m in (None, mesh))
    assert [text.tokens for text in one] == [text.tokens for text in other]


COMMAND = ["generate", "This film", "--method", "coin-toss", "--new-tokens", "4"]
COMMAND += ["--discriminator", "none", "--quiet"]


def test_the_command_line_has_it_with_its_own_flags(capsys):
    own = ["--heads", "0.25", "--warm-tokens", "1", "--top-k", "3", "--stop", "was"]
    status, out, err = run(capsys, *COMMAND, *own, "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    settings = found["settings"]
    assert (settings["method"], settings["heads"], settings["warm_tokens"]) == (
        "coin-toss", 0.25, 1,
    )  # fmt: skip
    assert settings["top_k"] == 3
    model = load_tiny("smollm2-135m", dtype="float32")
    config = CoinTossConfig(4, rules=cg.Rules(top_k=3, stop=("was",)), heads=0.25, warm_tokens=1)
    (text,) = generate(model, ["This film"], config=config)
    assert [text.tokens] == [entry["tokens"] for entry in found["texts"]]
    status, out, _ = run(capsys, *COMMAND)
    assert status == 0 and "This film" in out

    assert "--heads is 2.0: give a probability" in sentence(capsys, *COMMAND, "--heads", "2")
    other = sentence(capsys, "generate", "film", "--method", "sample", "--heads", "1")
    assert other == "--heads means nothing to --method sample: leave one of them out"
    foreign = sentence(capsys, *COMMAND, "--wave", "1")
    assert foreign == "--wave means nothing to --method coin-toss: leave one of them out"


def test_help_and_the_pages_made_of_it_show_it(monkeypatch):
    where = ROOT / "docs" / "hooks" / "commands.py"
    spec = importlib.util.spec_from_file_location("made_commands", where)
    commands = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(commands)
    shown = commands.help_of("generate --method coin-toss")
    assert "Takes the likeliest token, or draws one where a coin says so." in shown
    assert re.search(r"--heads X\s+Probability with which a token is drawn\. \(default:\s+0\.5\)",
                     shown)  # fmt: skip
    assert re.search(r"--warm-tokens K\s+Tokens at the beginning", shown)
    assert re.search(r"coin-toss +Takes the likeliest token", commands.help_of("generate"))
    monkeypatch.setattr(commands, "COMMANDS", ("generate",))
    monkeypatch.setattr(commands, "help_of", functools.partial(_short_help, commands.help_of))
    page = commands.command_line()
    assert "### --method coin-toss" in page and "--warm-tokens K" in page


def _short_help(help_of, command: str) -> str:
    """Returns the help of the new method, and a line for all others."""
    return help_of(command) if command.endswith("coin-toss") else command


def test_compare_has_it(capsys, tmp_path):
    config = method_config("coin-toss:heads=0.75:warm_tokens=2", new_tokens=3, samples=2)
    assert config == CoinTossConfig(3, 2, heads=0.75, warm_tokens=2)
    prompts, out, world = tmp_path / "prompts.txt", tmp_path / "out", write_all(tmp_path)
    prompts.write_text("This film\nThat was\n")
    arguments = [
        "compare", "--methods", "greedy,coin-toss:heads=0.75:top_k=2", "--prompts", prompts,
        "--target", "good", "--out", out, "--new-tokens", 3, "--quiet",
        "--model", world / "base", "--discriminator", world / "guide",
    ]  # fmt: skip
    capsys.readouterr()
    status, table, err = run(capsys, *arguments)
    assert (status, err) == (0, "")
    assert "coin-toss:heads=0.75:top_k=2" in table
    (path,) = out.glob("coin-toss*.jsonl")
    header, *lines = map(json.loads, path.read_text().splitlines())
    assert len(lines) == 2
    assert header["settings"]["method"] == "coin-toss" and header["settings"]["heads"] == 0.75
    # The same command goes on from its files, and finds them its own.
    status, again, _ = run(capsys, *arguments)
    assert (status, again) == (0, table)
    said = sentence(capsys, "compare", "--methods", "coin-toss:wave=2", *map(str, arguments[3:]))
    assert "'wave=2' is no option of coin-toss as key=value; it takes" in said and "heads" in said
