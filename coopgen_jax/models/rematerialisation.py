"""Which results of a layer training keeps for the gradient, and which it computes again.

A layer's gradient needs the layer's intermediate results. Kept, they take more memory than the
parameters; written and read, they take more of an accelerator's time than a second computation of
all but the matrix products. Rematerialisation is Chen et al. 2016, arXiv 1604.06174.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, get_args

import jax
from jax.ad_checkpoint import checkpoint_name

from coopgen_jax.errors import UserError
from coopgen_jax.parallel.platform import on_accelerator

Remat = Literal["none", "dots", "all"]
OF_WEIGHTS = "product with weights"

# Outside `rematerialised`, as in every decoder, a layer is traced without any of it.
_chosen: ContextVar[Remat] = ContextVar("remat", default="none")


def of_weights(result: jax.Array) -> jax.Array:
    """Marks the result of a product with weights, which "dots" keeps, in the format it has here.

    JAX's own policy for products would keep the float32 sums even of what is used in bfloat16.
    """
    return checkpoint_name(result, OF_WEIGHTS)


def check_remat(remat: Remat | None) -> None:
    """Raises UserError where there is no such rematerialisation."""
    if remat is not None and remat not in get_args(Remat):
        raise UserError(f"there is no rematerialisation {remat!r}: choose one of none, dots, all")


@contextmanager
def rematerialised(remat: Remat | None) -> Iterator[None]:
    """Has the layers of networks that are traced inside compute results again for their gradient.

    Args:
      remat: "none" keeps every intermediate result of a layer; "dots" keeps its products with
        weights and computes the rest again, attention included; "all" keeps a layer's input alone
        and runs the layer twice. None for "dots" on an accelerator and "none" on a processor.

    Raises:
      UserError: there is no such rematerialisation.
    """
    check_remat(remat)
    if remat is None:
        remat = "dots" if on_accelerator() else "none"
    token = _chosen.set(remat)
    try:
        yield
    finally:
        _chosen.reset(token)


def rematerialise(layer: Callable[..., Any], *, scanned: bool) -> Callable[..., Any]:
    """Returns a layer as `rematerialised` chooses; `scanned` if it is the body of a scan."""
    remat = _chosen.get()
    if remat == "none":
        return layer
    policy = jax.checkpoint_policies.save_only_these_names(OF_WEIGHTS) if remat == "dots" else None
    # A compiler may see through the second computation of a layer and keep the first one's results.
    # It cannot in a scan, whose forward and backward loops are programs of their own.
    wrapped: Callable[..., Any] = jax.checkpoint(layer, policy=policy, prevent_cse=not scanned)
    return wrapped
