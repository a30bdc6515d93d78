"""Training whose optimiser's state is shared among devices; a check of parallel_checks.py."""

import functools
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from coopgen_jax.errors import UserError
from coopgen_jax.parallel.mesh import make_mesh, place, share
from coopgen_jax.training.loop import LoopConfig, Outcome, train
from coopgen_jax.training.step import TrainState, begin_on, make_step

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
def step_of(devices: int, mapper: str = "shard_map", sharded: bool = False, pieces: int = 1):
    mesh = make_mesh(devices)
    return make_step(
        loss, OPTIMISER, mesh=mesh, mapper=mapper, sharded=sharded, micro_batches=pieces
    )  # fmt: skip


def fitted(folder: Path, *settings, dies: int | None = None, **more) -> tuple[Outcome, list]:
    step, mesh = step_of(*settings, **more), make_mesh(settings[0])
    norms = []

    def listener(done, total, means):
        norms.append(float(means["gradient_norm"]))
        if done == dies:
            raise KilledError

    outcome = train(
        begin_on(mesh, trainable(), OPTIMISER, sharded=more.get("sharded", False)),
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


def kept_bytes(state: TrainState) -> tuple[int, int]:
    """Returns the bytes of moments that each device holds, all alike, and those of all moments."""
    moments = jax.tree.leaves(state.optimiser_state)
    held = np.sum([[part.data.nbytes for part in leaf.addressable_shards] for leaf in moments], 0)
    assert len(set(held)) == 1, held
    return int(held[0]), sum(leaf.nbytes for leaf in moments)


def layout() -> None:
    """Each device has its share of the moments, before and behind a step, and gathers no other."""
    mesh = make_mesh(8)
    # Of either moment the three matrices are divided; three biases, the scale and counts are not.
    split, whole = 4 * 2 * (16 * 24 + 2 * 3 * 48 + 24 * 3), 4 * 2 * (3 + 1) + 4 * 2
    for mapper in ("shard_map", "pmap"):
        state = begin_on(mesh, trainable(), OPTIMISER, sharded=True)
        step = step_of(8, mapper, sharded=True)
        assert kept_bytes(state) == (split // 8 + whole, split + whole), kept_bytes(state)
        given = (None, share(batch(0), mesh), place(jax.random.key(0), mesh))
        program = step.lower(state, *given).compile().as_text().splitlines()
        assert any(" reduce-scatter(" in line for line in program), mapper
        assert not [x for x in program if " all-reduce(" in x and "16,24" in x], mapper
        for _ in range(2):
            state, _ = step(state, *given)
            assert kept_bytes(state) == (split // 8 + whole, split + whole), mapper
            assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(state.trainable))
        assert step._cache_size() == 1, mapper
    state = begin_on(mesh, trainable(), OPTIMISER)
    assert kept_bytes(state) == (split + whole, split + whole)


def shared_moments() -> None:
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
        for devices, sharded in ((8, False), (4, True), (1, True)):
            here = folder / f"moved {devices} {sharded}"
            killed(here, 8, dies=3, sharded=True)
            moved, _ = fitted(here, devices, sharded=sharded)
            assert close(moved.trainable, alone.trainable), (devices, sharded)
    try:
        make_step(loss, OPTIMISER, mesh=make_mesh(2, 2), sharded=True)
    except UserError as error:
        assert "2 devices share the weights" in str(error)
    else:
        raise AssertionError("moments were shared along tensor")
