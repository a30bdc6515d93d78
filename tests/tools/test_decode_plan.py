"""The plan's bytes against real arrays, its seconds against numbers worked out by hand."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest

from coopgen_jax.cli import main
from coopgen_jax.decoding.mcts import ppl_mcts as mcts
from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig
from coopgen_jax.errors import UserError
from coopgen_jax.models import layer_layout as layout
from coopgen_jax.models.transformer import init_decoder
from coopgen_jax.search import SearchConfig
from coopgen_jax.testing import TINY_GPT2, TINY_LLAMA
from coopgen_jax.tools import probe as machine
from coopgen_jax.tools.decode_plan import matrix_parameters, plan, product_seconds
from coopgen_jax.tools.job_shapes import job_of_shapes

CONFIG = MCTSConfig(
    new_tokens=5, samples=3,
    search=SearchConfig(simulations=8, wave=2, candidates=6, depth=4, reused_nodes=7),
)  # fmt: skip
MACHINE = machine.Machine(bandwidth=1e6, rate=1e8, ranking=1e5, step=0.001)


@pytest.mark.parametrize("config", [TINY_LLAMA, TINY_GPT2])
def test_matrices_are_counted_as_they_are_made(config):
    params = init_decoder(jax.random.key(0), config)
    kernels = [
        leaf.size
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if "kernel" in str(path[-1])
    ]
    output = params["embedding" if config.tied else "head"].size
    assert matrix_parameters(config) == sum(kernels) + output
    assert matrix_parameters(config, output=False) == sum(kernels)


@pytest.mark.parametrize("guide", ["trunk", "causal"])
@pytest.mark.parametrize("config", [TINY_LLAMA, TINY_GPT2])
def test_bytes_are_those_of_the_arrays(config, guide):
    found = plan(config, CONFIG, MACHINE, batch=2, prompt_length=9, guide=guide)
    shapes = job_of_shapes(config, CONFIG, batch=2, prompt_length=9, guide=guide)
    real = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes)
    state = jax.jit(mcts.begin)(real)
    caches, tree = jax.tree.leaves(state.states), jax.tree.leaves(state.tree)
    # Masks and lengths, a byte or four each, are the only state that is not counted.
    counted = found.prompt + found.trunk + found.nodes
    held = sum(leaf.nbytes for leaf in caches)
    assert counted <= held < counted + 100
    assert found.tree == sum(leaf.nbytes for leaf in tree)
    assert found.weights == sum(
        leaf.nbytes for leaf in jax.tree.leaves((real.params, real.discriminator_params))
    )
    assert found.bytes == counted + found.tree + found.weights + found.logits


def test_seconds_are_those_of_a_roofline():
    found = plan(TINY_LLAMA, CONFIG, MACHINE, batch=2, prompt_length=9)
    c, rows = TINY_LLAMA, 2 * 3 * 2
    # Prompt and trunk are read once per prompt and per sample; a path three times per leaf.
    attended = (2 * 9 + 2 * 3 * 5 + 3 * rows * 4) * 2 * c.layers * c.kv_heads * c.head_width * 4
    weights = matrix_parameters(c)
    rest = attended / 1e6 + rows * c.vocab_size / 1e5 + c.layers * 0.001
    assert found.calls == 4
    assert found.call_seconds == pytest.approx(4 * weights / 1e6 + rest)
    moved = 2 * found.nodes * 8 / 16 / 1e6
    assert found.token_seconds == pytest.approx(4 * found.call_seconds + moved)
    assert found.seconds == pytest.approx(found.prefill_seconds + 5 * found.token_seconds)
    assert found.simulations_per_second == pytest.approx(2 * 3 * 8 / found.token_seconds)
    slow = dataclasses.replace(MACHINE, rate=1e6)
    found = plan(TINY_LLAMA, CONFIG, slow, batch=2, prompt_length=9)
    assert found.call_seconds == pytest.approx(2 * weights * rows / 1e6 + rest)


def test_a_token_that_need_not_be_in_the_tree_is_read_once_more():
    drawing = CONFIG.with_settings(value_power=1.0)
    found, without = (
        plan(TINY_LLAMA, config, MACHINE, batch=2, prompt_length=9) for config in (drawing, CONFIG)
    )
    c, rows = TINY_LLAMA, 2 * 3
    one = dataclasses.replace(CONFIG.search, wave=1, depth=1)
    single = dataclasses.replace(CONFIG, search=one)
    call = plan(c, single, MACHINE, batch=2, prompt_length=9).call_seconds
    moved = 2 * (found.nodes * 8 / 17 - without.nodes * 8 / 16) / 1e6
    added = found.token_seconds - without.token_seconds
    assert added == pytest.approx(call + moved)
    assert found.logits - without.logits == 4 * rows * c.vocab_size


def test_seconds_follow_what_was_measured(monkeypatch):
    measured = dataclasses.replace(
        MACHINE, stacked=((1, 3e-6), (4, 6e-6)), separate=((1, 1e-6), (16, 16e-6))
    )
    for rows, stacked, expected in [
        (1, True, 3e-6),
        (2, True, 18e-12**0.5),
        (4, True, 6e-6),
        (12, True, 6e-6 + 2 * 8 / 1e8),
        (4, False, 4e-6),
        (32, False, 16e-6 + 2 * 16 / 1e8),
    ]:
        got = product_seconds(measured, 1000, rows, 4, stacked=stacked)
        assert got == pytest.approx(1000 * expected)
    c, rows = TINY_LLAMA, 12
    found = plan(c, CONFIG, measured, batch=2, prompt_length=9)
    attended = (2 * 9 + 2 * 3 * 5 + 3 * rows * 4) * 2 * c.layers * c.kv_heads * c.head_width * 4
    layers, output = matrix_parameters(c, output=False), c.vocab_size * c.width
    rest = attended / 1e6 + rows * c.vocab_size / 1e5 + c.layers * 0.001
    assert found.call_seconds == pytest.approx(layers * 6.16e-6 + output * 12e-6 + rest)
    monkeypatch.setattr(layout, "CACHED", 0)
    found = plan(c, CONFIG, measured, batch=2, prompt_length=9)
    assert found.call_seconds == pytest.approx((layers + output) * 12e-6 + rest)


def test_a_network_beside_the_model_costs_a_call_of_its_own():
    alone = plan(TINY_LLAMA, CONFIG, MACHINE, batch=1, prompt_length=9)
    both = plan(TINY_LLAMA, CONFIG, MACHINE, batch=1, prompt_length=9, guide="causal")
    assert both.call_seconds > 1.5 * alone.call_seconds
    assert both.prompt == 2 * alone.prompt
    assert both.prefill_seconds == pytest.approx(2 * alone.prefill_seconds)


def test_a_text_longer_than_the_context_is_refused():
    with pytest.raises(UserError, match="exceed the language model's context of 128"):
        plan(TINY_LLAMA, CONFIG, MACHINE, batch=1, prompt_length=127)


@pytest.mark.slow
def test_the_machine_is_measured():
    found = machine.measure()
    assert min(found.bandwidth, found.rate, found.ranking, found.step) > 0
    for curve in (found.stacked, found.separate):
        assert tuple(rows for rows, _ in curve) == machine.ROWS
        assert all(seconds > 0 for _, seconds in curve)


@pytest.fixture
def unmeasured(monkeypatch):
    monkeypatch.setattr(machine, "measure", lambda dtype: MACHINE)


def test_the_command_prints_bytes_and_seconds(unmeasured, capsys):
    assert (
        main(["plan", "--model", "gpt2-small", "--simulations", "64", "--wave", "8", "--json"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["plan"]["calls"] == 8
    assert found["bytes"] == sum(
        found["plan"][name] for name in ("weights", "prompt", "trunk", "nodes", "tree", "logits")
    )
    assert main(["plan", "--model", "gpt2-small", "--wave", "8"]) == 0
    assert "network calls of a token's search" in capsys.readouterr().out


def test_another_machine_can_be_described(unmeasured, capsys):
    command = ["plan", "--model", "gpt2-small", "--bandwidth", "3000", "--rate", "200", "--json"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)["machine"]
    assert (found["bandwidth"], found["rate"], found["stacked"]) == (3e12, 2e14, [])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--wave", "0"], "wave is 0"),
        (["--batch-size", "0"], "--batch-size is 0: give 1 to 1000000"),
        (["--batch-size", "1000000000000"], "--batch-size is 1000000000000"),
        (["--simulations", "3000000000"], "--simulations is 3000000000"),
        (["--rate", "-1", "--bandwidth", "1"], "--rate is -1.0: give a number above 0"),
        (["--rate", "100"], "give both or none"),
        (["--prompt-length", "2000"], "context of 1024"),
    ],
)
def test_wrong_options_are_one_sentence(unmeasured, capsys, arguments, sentence):
    assert main(["plan", "--model", "gpt2-small", *arguments]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1
