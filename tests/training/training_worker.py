"""A small training in a process of its own, which can be told to die: run by the tests of training.

The one argument is a JSON object: `folder`; `steps`; `die`, null or the step in or behind which the
process kills itself; `during`, "step" or "write" (of a checkpoint, in front of the renaming that
completes it); `mapper`; `pieces`; `sharded`, whether devices share the optimiser's state; and for
one of several processes `coordinator` and `process`.
The last line of output is a JSON object of what became of the training.
"""

import hashlib
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path

import jax
import numpy as np
import optax

from coopgen_jax.data.batches import BatchConfig, in_order, training_batches
from coopgen_jax.discriminators.causal import CausalConfig, init_causal
from coopgen_jax.discriminators.head import HeadConfig
from coopgen_jax.parallel.mesh import make_mesh, share
from coopgen_jax.testing import TINY_LLAMA
from coopgen_jax.training.loop import LoopConfig, train
from coopgen_jax.training.objectives import classification_loss
from coopgen_jax.training.step import begin_on, make_step, make_validation, mean_over

JUDGE = CausalConfig(TINY_LLAMA, HeadConfig(("a", "b"), TINY_LLAMA.width, (), 0.1), start_token=60)


def rows_of(seed: int, count: int) -> tuple[list[list[int]], list[int]]:
    """Texts whose class is whether their first token is even."""
    rng = np.random.default_rng(seed)
    rows = [rng.integers(0, 60, rng.integers(1, 12)).tolist() for _ in range(count)]
    return rows, [row[0] % 2 for row in rows]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(options: dict) -> None:
    processes = 1
    if options.get("coordinator"):
        processes = 2
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(options["coordinator"], processes, options["process"])
    mesh = make_mesh()
    settings = {"mesh": mesh, "mapper": options.get("mapper", "shard_map")}
    optimiser = optax.adamw(optax.linear_schedule(3e-3, 0, 40))
    pieces, sharded = options.get("micro_batches", 1), options.get("sharded", False)
    step = make_step(
        classification_loss(JUDGE), optimiser, micro_batches=pieces, sharded=sharded, **settings
    )
    validation = make_validation(classification_loss(JUDGE, training=False), **settings)
    key = jax.random.key(7)
    batches = training_batches(
        *rows_of(0, 64), BatchConfig(rows=16, longest=8, balanced=True),
        process=jax.process_index(), processes=processes,
    )  # fmt: skip
    held_out = in_order(*rows_of(1, 24), size=16, longest=8)
    own = slice(jax.process_index() * 16 // processes, (jax.process_index() + 1) * 16 // processes)
    held_out = [{name: array[own] for name, array in batch.items()} for batch in held_out]
    wanted, during = options.get("die"), options.get("during")

    class Mortal:
        def __getitem__(self, number):
            if number == wanted and during == "step":
                die()
            if number == wanted and during == "write":
                sys.addaudithook(lambda event, _: die() if event == "os.rename" else None)
            return share(batches[number], mesh)

    state = begin_on(mesh, init_causal(jax.random.key(3), JUDGE), optimiser, sharded=sharded)
    outcome = train(
        state,
        step=lambda state, batch: step(state, None, batch, key),
        batches=Mortal(),
        validate=lambda trainable: mean_over(
            held_out, lambda batch: validation(trainable, None, share(batch, mesh), key)
        ),
        folder=Path(options["folder"]),
        config=LoopConfig(
            steps=options["steps"], validate_every=3, save_every=4, log_every=1,
            budget_minutes=options.get("budget"),
        ),
    )  # fmt: skip
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(outcome.trainable)]
    found = asdict(outcome) | {
        "trainable": [float(np.sum(leaf, dtype=np.float64)) for leaf in leaves],
        "digest": hashlib.sha256(b"".join(leaf.tobytes() for leaf in leaves)).hexdigest(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
