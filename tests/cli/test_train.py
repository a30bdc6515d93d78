"""What `coopgen train` does with a signal and with a folder that cannot be written."""

import re
import signal
from dataclasses import asdict, replace

import numpy as np
import pytest

from coopgen_jax.cli import _parse_train
from coopgen_jax.cli.train_gcn import training_of
from coopgen_jax.cli.train_options import GcnOptions
from coopgen_jax.cli.train_progress import interruptible
from coopgen_jax.data.batches import BatchConfig
from coopgen_jax.errors import UserError
from coopgen_jax.models.lora import LoraConfig
from coopgen_jax.training.card import save_head
from coopgen_jax.training.gcn import gcn_recipe
from coopgen_jax.training.gcn.gcn_config import GcnConfig
from coopgen_jax.training.loop import LoopConfig
from coopgen_jax.training.run import RecipeConfig, Rows
from coopgen_jax.training.training_folder import claim
from tests.full_disk import full_behind


@pytest.fixture
def before():
    """What an interrupt does; a process begun in the background ignores it."""
    kept = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, kept)


def test_the_first_interrupt_asks_and_the_second_stops(capsys, before):
    heard = []
    with interruptible(lambda done, total, means: heard.append(done)) as listen:
        # In front of the first step nothing is caught.
        assert signal.getsignal(signal.SIGINT) is before
        assert not listen(1, 9, {})
        signal.raise_signal(signal.SIGINT)
        assert listen(2, 9, {})
        assert "saving; press once more to stop at once" in capsys.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert heard == [1, 2]
    assert signal.getsignal(signal.SIGINT) is before


def test_where_its_state_lies_and_what_is_computed_twice_make_no_other_training(tmp_path):
    rows = Rows([[1]], [0])
    for config in (
        RecipeConfig(LoopConfig(1)),
        RecipeConfig(LoopConfig(1), sharded_optimiser=True),
        RecipeConfig(LoopConfig(1), sharded_parameters=True),
        RecipeConfig(LoopConfig(1), remat="all"),
    ):
        claim(tmp_path, "causal", "x", config, (rows, rows))
    with pytest.raises(UserError, match=r"another mapper \(shard_map, and pmap is asked for"):
        claim(tmp_path, "causal", "x", RecipeConfig(LoopConfig(1), mapper="pmap"), (rows, rows))


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    rows = Rows([[1]], [0])
    config = RecipeConfig(LoopConfig(1), BatchConfig())
    with pytest.raises(UserError, match=r"out/training\.json cannot be written"):
        claim(tmp_path / "file" / "out", "causal", "x", config, (rows, rows))


@pytest.mark.parametrize("name", ["config.json", "card.json", "head.safetensors"])
def test_a_model_that_no_training_has_begun_is_not_written_over(tmp_path, name):
    (tmp_path / name).write_text("kept")
    rows = Rows([[1]], [0])
    config = RecipeConfig(LoopConfig(1))
    sentence = rf"holds a model already \({name}\), which a training would write over: give another"
    with pytest.raises(UserError, match=sentence):
        claim(tmp_path, "gcn", "x", config, (rows, rows))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["kept"]
    # A training that has claimed the folder before goes on, whatever it has written since.
    (tmp_path / name).unlink()
    claim(tmp_path, "gcn", "x", config, (rows, rows))
    (tmp_path / name).write_text("its own")
    claim(tmp_path, "gcn", "x", config, (rows, rows))


def test_what_is_noted_of_a_training_is_there_whole_or_told(tmp_path):
    rows, config = Rows([[1]], [0]), RecipeConfig(LoopConfig(1))
    with full_behind(20), pytest.raises(UserError, match=r"json cannot be written .*: make room"):
        claim(tmp_path, "causal", "x", config, (rows, rows))
    assert not list(tmp_path.iterdir())
    claim(tmp_path, "causal", "x", config, (rows, rows))
    path = tmp_path / "training.json"
    whole = path.read_bytes()
    for damaged in (whole[:40], b"", b"[]", b"\xff"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"training\.json is damaged .*: put a whole copy"):
            claim(tmp_path, "causal", "x", config, (rows, rows))
    path.write_bytes(whole)
    claim(tmp_path, "causal", "x", config, (rows, rows))


def test_what_a_cooperative_training_reads_back_is_told_where_it_is_damaged(tmp_path):
    damaged = "is damaged .*: delete it and start again"
    (tmp_path / "start.json").write_text('{"loss": 3.')
    with pytest.raises(UserError, match=rf"start\.json {damaged}"):
        gcn_recipe._start(tmp_path, lambda: pytest.fail("measured again"))
    (tmp_path / "card.json").write_text("")
    with pytest.raises(UserError, match=rf"card\.json {damaged}"):
        gcn_recipe._reopen(tmp_path, 3)
    # A card of no rounds is of none that would be left out.
    (tmp_path / "card.json").write_text("{}")
    gcn_recipe._reopen(tmp_path, 3)
    (tmp_path / "start.json").unlink()
    with full_behind(5), pytest.raises(UserError, match=r"start\.json cannot be written"):
        gcn_recipe._start(tmp_path, lambda: {"loss": 3.0})
    assert not list(tmp_path.iterdir())
    for _ in range(2):
        assert gcn_recipe._start(tmp_path, lambda: {"loss": 3.0}) == {"loss": 3.0}


def test_a_damaged_card_is_told_where_a_head_is_written(tmp_path):
    weights = {"output": {"kernel": np.ones((2, 2))}}
    save_head(tmp_path, weights, {"classes": ["a", "b"]})
    (tmp_path / "card.json").write_text('{"temp')
    with pytest.raises(UserError, match=r"card\.json is damaged .*: delete it"):
        save_head(tmp_path, weights, {"classes": ["a", "b"]})


RANK = LoraConfig(4)
ROUND = asdict(GcnConfig())


@pytest.mark.parametrize(
    ("change", "more", "sentence"),
    [
        ({"lora": replace(RANK, rank=8)}, {}, "another lora rank (4, and 8 is asked for): give"),
        ({"lora": None, "learning_rate": 1.0}, {}, "another lora (some, and none is asked for)"),
        ({"batch": BatchConfig(longest=9)}, {}, "another batch longest (64, and 9 is asked for)"),
        ({"hidden": (3, 4)}, {}, "another hidden (none, and 3, 4 is asked for)"),
        ({}, {"kind": "lm"}, "another kind (gcn, and lm is asked for)"),
        ({}, {"source": "y"}, "another model to begin with: give"),
        ({}, {"rows": Rows([[2]], [0])}, "another set of texts: give"),
        (
            {}, {"round": ROUND | {"objective": "gan"}},
            "another round objective (gcn, and gan is asked for)",
        ),
        (
            {}, {"round": ROUND | {"proposal": {"simulations": 9}}, "proposal": "MCTSConfig"},
            "another proposal (SamplingConfig, and MCTSConfig is asked for)",
        ),
        ({}, {"round": {}}, "another round: give an empty"),
    ],
)  # fmt: skip
def test_what_differs_from_the_training_in_a_folder_is_named(tmp_path, change, more, sentence):
    config = RecipeConfig(LoopConfig(1), lora=RANK)
    settings = {"kind": "gcn", "source": "x", "rows": Rows([[1]], [0])}
    settings |= {"round": ROUND, "proposal": "SamplingConfig"}

    def begin(config: RecipeConfig, *, kind, source, rows, **more) -> None:
        claim(tmp_path, kind, source, config, (rows, rows), **more)

    begin(config, **settings)
    begin(config, **settings)
    with pytest.raises(UserError, match=re.escape(sentence)):
        begin(replace(config, **change), **(settings | more))


def test_going_on_with_a_training_of_everything_wants_rank_0(tmp_path):
    data = ["gcn", "--data", "a", "--validation", "b", "--out", "c"]
    found = _parse_train([*data, "--rank", "0"]).what, _parse_train(data).what
    assert all(isinstance(what, GcnOptions) for what in found)
    rows = Rows([[1]], [0])
    whole, added = map(training_of, found)
    claim(tmp_path, "gcn", "x", whole, (rows, rows))
    with pytest.raises(UserError, match="holds a training of everything: give --rank 0 to go on"):
        claim(tmp_path, "gcn", "x", added, (rows, rows))
    with pytest.raises(UserError, match=r"another lora \(none, and some is asked for\)"):
        claim(tmp_path, "gcn", "x", replace(added, seed=1), (rows, rows))
