"""What the benchmarks are told, on the command line or by another program."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

from coopgen_jax.parallel.platform import fastest_dtype

Model = Literal["default", "default-6", "tiny", "gpt2-small", "gpt2-large", "llama-1b"]
Guide = Literal["trunk", "causal"]


@dataclass(frozen=True)
class Settings:
    """What to time; what is left out is the benchmark's own choice.

    Of several numbers of one kind every one is timed, each with all those of the others.

    model: "default" is the packaged model with its weights; the others are shapes with random
      weights, since timing does not depend on them. "default-6" has six of its thirty layers.
    guide: "trunk", a head on the language model's states, or "causal", a network of its own of the
      same shape.
    device: cpu, gpu or tpu; None takes what JAX finds.
    dtype: of weights and of what is multiplied by them, ours and PyTorch's, whose activations have
      it too; auto is what the command line chooses on this machine.
    batch: prompts decoded at once.
    samples: texts per prompt.
    simulations: evaluations per token.
    wave: leaves per network call.
    depth: longest path below the root.
    prompt_length: tokens of every prompt, in training of every text.
    new_tokens: tokens written.
    repeats: how often everything is timed.
    threads: of PyTorch; None leaves the choice to it.
    quick: a tiny network and few repeats: shows that everything runs, and no more.
    out: folder for the JSON files and pictures.
    """

    model: Model | None = None
    guide: Guide | None = None
    device: Literal["cpu", "gpu", "tpu"] | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    batch: tuple[int, ...] = ()
    samples: tuple[int, ...] = ()
    simulations: tuple[int, ...] = ()
    wave: tuple[int, ...] = ()
    depth: tuple[int, ...] = ()
    prompt_length: tuple[int, ...] = ()
    new_tokens: tuple[int, ...] = ()
    repeats: int | None = None
    threads: int | None = None
    quick: bool = False
    out: Path = field(default=Path("benchmarks/results"))

    def __post_init__(self) -> None:
        for name in AXES:
            if any(number < 1 for number in getattr(self, name)):
                raise ValueError(f"--{name.replace('_', '-')} takes whole numbers from 1")
        for name in ("repeats", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} is {value}: it must be 1 or more")


AXES = ("batch", "samples", "simulations", "wave", "depth", "prompt_length", "new_tokens")


def resolve(settings: Settings, name: str, own: dict[str, Any], quick: dict[str, Any]) -> Settings:
    """Fills what the user left open with a benchmark's own choice, or its quick one.

    Raises:
      ValueError: the user set an axis that the benchmark does not have.
    """
    chosen: dict[str, Any] = {"model": "default", "guide": "trunk", "repeats": 7} | own
    if settings.quick:
        chosen |= {"model": "tiny", "repeats": 2} | quick
    for axis in AXES:
        if axis not in own and getattr(settings, axis):
            flag = axis.replace("_", "-")
            raise ValueError(f"the benchmark {name} has no --{flag}: leave one of them out")
    left = {key: value for key, value in chosen.items() if getattr(settings, key) in (None, ())}
    dtype = fastest_dtype() if settings.dtype == "auto" else settings.dtype
    return replace(settings, **(left | {"dtype": dtype}))


def combinations(settings: Settings) -> Iterator[dict[str, int]]:
    """Yields every combination of the axes that have values, the last axis fastest."""
    axes = {axis: getattr(settings, axis) for axis in AXES if getattr(settings, axis)}
    for values in product(*axes.values()):
        yield dict(zip(axes, values, strict=True))
