"""Training whose optimiser's state, and whose parameters, devices share: for parallel_checks.py."""

import functools
import tempfile
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from coopgen_jax.errors import UserError
from coopgen_jax.models.transformer import init_decoder
from coopgen_jax.parallel.mesh import make_mesh, place, share
from coopgen_jax.testing import TINY_LLAMA
from coopgen_jax.training.loop import LoopConfig, Outcome, train
from coopgen_jax.training.objectives import language_model_loss
from coopgen_jax.training.optimiser_shards import in_full
from coopgen_jax.training.step import begin_on, make_step, make_validation

STEPS = 5
SHAPES = {"first": (16, 24), "cube": (2, 3, 48), "second": (24, 3), "bias": (3,), "scale": ()}
# Every gradient is above this norm, and is not told apart from a small one by its sign alone.
OPTIMISER = optax.chain(
    optax.clip_by_global_norm(0.05),
    optax.adamw(optax.linear_schedule(3e-2, 0.0, STEPS), weight_decay=0.1, eps=1e-2),
)


class KilledError(Exception):
    """Stops a training wherever it is."""


def trainable() -> dict[str, jax.Array]:
    keys = jax.random.split(jax.random.key(1), len(SHAPES))
    drawn = zip(keys, SHAPES.items(), strict=True)
    return {name: jax.random.normal(key, shape) for key, (name, shape) in drawn}


def loss(trainable, fixed, batch, key):
    hidden = jnp.tanh(batch["x"] @ trainable["first"]) * trainable["scale"]
    hidden = hidden + trainable["cube"].sum()
    missed = hidden @ trainable["second"] + trainable["bias"][None] - batch["y"]
    return {"loss": (jnp.sum(missed**2), jnp.float32(len(missed)))}


def batch(number: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(number)
    return {"x": rng.normal(size=(16, 16)).astype("f"), "y": rng.normal(size=(16, 3)).astype("f")}


@functools.cache
def step_of(
    devices: int,
    mapper: str = "shard_map",
    sharded: bool = False,
    parameters: bool = False,
    pieces: int = 1,
):
    return make_step(
        loss, OPTIMISER, mesh=make_mesh(devices), mapper=mapper, sharded=sharded,
        sharded_parameters=parameters, micro_batches=pieces,
    )  # fmt: skip


def fitted(folder: Path, *settings, dies: int | None = None, **more) -> tuple[Outcome, list]:
    step, mesh = step_of(*settings, **more), make_mesh(settings[0])
    norms = []

    def listener(done, total, means):
        norms.append(float(means["gradient_norm"]))
        if done == dies:
            raise KilledError

    outcome = train(
        begin_on(
            mesh,
            trainable(),
            OPTIMISER,
            sharded=more.get("sharded", False),
            sharded_parameters=more.get("parameters", False),
        ),
        step=lambda state, batch: step(state, None, share(batch, mesh), jax.random.key(0)),
        batches=[batch(number) for number in range(STEPS)],
        validate=lambda trainable: {"loss": 1.0},
        folder=folder,
        config=LoopConfig(steps=STEPS, validate_every=STEPS, save_every=2),
        listener=listener,
    )
    return outcome, norms


def killed(*settings, **more) -> None:
    try:
        fitted(*settings, **more)
    except KilledError:
        return
    raise AssertionError("the training outlived its death")


def close(one, other) -> bool:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in pairs)


def kept_bytes(tree) -> tuple[int, int]:
    """Returns the bytes of a tree that each device holds, all alike, and those of all of it."""
    leaves = jax.tree.leaves(tree)
    held = np.sum([[part.data.nbytes for part in leaf.addressable_shards] for leaf in leaves], 0)
    assert len(set(held)) == 1, held
    return int(held[0]), sum(leaf.nbytes for leaf in leaves)


def layout() -> None:
    """Each device has its share of the optimiser state, around a step too, and gathers no other."""
    mesh = make_mesh(8)
    # Of either moment the three matrices are divided; three biases, the scale and counts are not.
    split, whole = 4 * 2 * (16 * 24 + 2 * 3 * 48 + 24 * 3), 4 * 2 * (3 + 1) + 4 * 2
    for mapper in ("shard_map", "pmap"):
        state = begin_on(mesh, trainable(), OPTIMISER, sharded=True)
        step = step_of(8, mapper, sharded=True)
        assert kept_bytes(state.optimiser_state) == (split // 8 + whole, split + whole)
        given = (None, share(batch(0), mesh), place(jax.random.key(0), mesh))
        program = step.lower(state, *given).compile().as_text().splitlines()
        assert any(" reduce-scatter(" in line for line in program), mapper
        assert not [x for x in program if " all-reduce(" in x and "16,24" in x], mapper
        for _ in range(2):
            state, _ = step(state, *given)
            assert kept_bytes(state.optimiser_state) == (split // 8 + whole, split + whole), mapper
            assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(state.trainable))
        assert step._cache_size() == 1, mapper
    state = begin_on(mesh, trainable(), OPTIMISER)
    assert kept_bytes(state.optimiser_state) == (split + whole, split + whole)


def shared_parameters() -> None:
    """Parameters that devices share between steps are trained as those that each one keeps."""
    split, complete = 4 * (16 * 24 + 2 * 3 * 48 + 24 * 3), 4 * (3 + 1)
    alone: list = []
    for mapper, devices, pieces in (
        ("shard_map", 1, 1), ("shard_map", 2, 1), ("shard_map", 8, 2), ("pmap", 4, 1),
    ):  # fmt: skip
        mesh, begun, norms = make_mesh(devices), trainable(), []
        state = begin_on(mesh, begun, OPTIMISER, sharded_parameters=devices > 1)
        deleted = [name for name, leaf in begun.items() if leaf.is_deleted()]
        assert deleted == ["first", "cube", "second"] * (devices > 1)
        step = step_of(devices, mapper, parameters=devices > 1, pieces=pieces)
        for number in range(STEPS):
            state, means = step(state, None, share(batch(number), mesh), jax.random.key(0))
            norms.append(float(means["gradient_norm"]))
            held = split // devices + complete, split + complete
            assert kept_bytes(state.trainable) == held, (mapper, devices)
        whole = in_full(state.trainable, mesh)
        assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(whole))
        assert in_full(whole, mesh) is whole
        alone = alone or [whole, norms]
        assert close([whole, norms], alone), (mapper, devices)
    in_half_the_bytes()


def in_half_the_bytes() -> None:
    """A network's matrices cross over in the number format of its products; it trains alike."""
    config, mesh, key = replace(TINY_LLAMA, dtype="bfloat16"), make_mesh(4), jax.random.key(0)
    rows = {"tokens": np.arange(56, dtype=np.int32).reshape(8, 7), "mask": np.ones((8, 7), bool)}
    rows, objective, found = share(rows, mesh), language_model_loss(config), []
    given = {"sharded_parameters": True, "dtype": "bfloat16"}
    for divided in (False, True):
        more = given if divided else {}
        network = init_decoder(jax.random.key(1), config)
        state = begin_on(mesh, network, OPTIMISER, sharded_parameters=divided)
        step = make_step(objective, OPTIMISER, mesh=mesh, **more)
        # A processor's compiler has float32 cross over, whatever it is asked for.
        lowered = step.lower(state, None, rows, key)
        lines = lowered.as_text().splitlines()
        placed = [line for line in lines if "sharding_constraint" in line and "bf16" in line]
        # The seven matrices of a layer and the output layer, where they lie and gathered.
        assert len(placed) == 2 * 8 * divided, placed
        measured = make_validation(objective, mesh=mesh, **more)(state.trainable, None, rows, key)
        # Where it may keep more digits, it keeps those of parameters that every device has.
        exact = lowered.compile(compiler_options={"xla_allow_excess_precision": False})
        state, means = exact(state, None, rows, key)
        assert np.isclose(measured["loss"][0] / measured["loss"][1], means["loss"], rtol=1e-2)
        found.append((means["loss"], state.trainable))
    (loss, plain), (other_loss, apart) = found
    assert np.isclose(loss, other_loss, rtol=1e-5)
    before = init_decoder(jax.random.key(1), config)
    for one, other, begun in zip(*map(jax.tree.leaves, (plain, apart, before)), strict=True):
        # The gradients of what was gathered are rounded before they are added up.
        change = np.linalg.norm(one - begun)
        assert np.linalg.norm(other - one) <= 1e-2 * change, (begun.shape, change)


def shared_state() -> None:
    """Sharing the optimiser's state changes no result, however often a training is killed."""
    layout()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        alone, norms = fitted(folder / "alone", 1)
        assert min(norms) > 1 and not close(alone.trainable, trainable())
        plain, _ = fitted(folder / "plain", 8)
        assert close(plain.trainable, alone.trainable)
        for mapper, pieces in (("shard_map", 2), ("pmap", 1)):
            settings = {"mapper": mapper, "pieces": pieces, "sharded": True}
            found, seen = fitted(folder / mapper, 8, **settings)
            assert close(found.trainable, alone.trainable), mapper
            assert np.allclose(seen, norms, rtol=1e-5), mapper
            for died in (3, 5):
                killed(folder / "killed" / mapper, 8, dies=died, **settings)
            again, _ = fitted(folder / "killed" / mapper, 8, **settings)
            pairs = zip(*map(jax.tree.leaves, (again.trainable, found.trainable)), strict=True)
            assert all(np.array_equal(a, b) for a, b in pairs), mapper
        # A checkpoint is that of any number of devices, whatever they share.
        shared, parameters = {"sharded": True}, {"parameters": True}
        for before, devices, behind in (
            (shared, 8, {}),
            (shared, 4, shared),
            (shared, 1, shared),
            (shared, 8, parameters),
            (parameters, 4, {}),
            (parameters, 2, parameters),
            (parameters, 1, shared),
        ):
            here = folder / f"moved {before} {devices} {behind}"
            killed(here, 8, dies=3, **before)
            moved, _ = fitted(here, devices, **behind)
            assert close(moved.trainable, alone.trainable), (before, devices, behind)
    try:
        make_step(loss, OPTIMISER, mesh=make_mesh(2, 2), sharded=True)
    except UserError as error:
        assert "2 devices share the weights" in str(error)
    else:
        raise AssertionError("the optimiser state was shared along tensor")
