"""The README's commands as it had them, on the default model, and its chain of trainings."""

import functools
import io
import json
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import coopgen_jax.cli.compare as compare
import coopgen_jax.cli.generate as command
import coopgen_jax.comparison.loaded_run as loaded_run
from coopgen_jax.cli import main
from coopgen_jax.models.pretrained.loaded_model import load

# Another processor adds up in another order; training multiplies what that changes.
FAR = 1e-4
SHORT = "--new-tokens 4"
TEXT = '"This film was"'
# As `coopgen generate --help` and the README say them, but for the length and what wants several
# devices, several machines or a model of the user's own.
GENERATE = (
    f"{TEXT} --target positive {SHORT}",
    f"{TEXT} --target negative --compare --trace search.html {SHORT}",
    "--prompts prompts.txt --target positive --samples 3 --preset puct --visit-temperature 0.5"
    f" --out texts.jsonl {SHORT}",
    f"- --target positive {SHORT}",
    f'"How was it?" --chat --method sample --top-p 0.9 --temperature 0.8 {SHORT}',
    f"{TEXT} --target positive --method mcts --preset ppo --reference smollm2-135m --kl 0.1"
    f" {SHORT}",
    f"{TEXT} --target positive --method fudge {SHORT}",
    f"{TEXT} --target positive --method pplm --bag words.txt {SHORT}",
    f"{TEXT} --target positive --method smc --samples 8 {SHORT}",
    f"{TEXT} --target positive --method rerank --beams 16 {SHORT}",
    f"{TEXT} --target positive --method blockwise --block 2 {SHORT}",
    f"{TEXT} --target positive --method das {SHORT}",
    f"{TEXT} --method beam --groups 2 --diversity 0.5 {SHORT}",
    f"{TEXT} --method stochastic-beam --samples 4 {SHORT}",
    f"{TEXT} --method greedy --negative-prompt 'A bad film was' --control-code 'A review:' {SHORT}",
    f"{TEXT} --method sample --top-k 50 --typical-p 0.9 --bad-words film --begin-with ' a' {SHORT}",
)  # fmt: skip
PROMPTS = "This film was\nMy phone\n"
WORDS = "good\ngreat\nwonderful\n"
SPOKEN = "My neighbour is\n"
FIGURES = ("tokens", "log_prob", "log_proposal", "log_weight", "class_probabilities")


def processor() -> dict[str, Any]:
    """What the roundings of a matrix product depend on: the width of vectors and the cores."""
    path = Path("/proc/cpuinfo")
    flags = set(path.read_text().split()) if path.exists() else set()
    simd = next((name for name in ("amx_tile", "avx512f", "avx2") if name in flags), "other")
    return {"simd": simd, "cores": os.cpu_count()}


@functools.cache
def loaded(name: str, dtype: str) -> Any:
    return load(name, dtype=dtype)


@contextmanager
def beside(folder: Path) -> Iterator[None]:
    """Works in a folder; the default model is loaded once for all commands."""
    with pytest.MonkeyPatch.context() as patch:

        def load_once(name: str, *, dtype: str) -> Any:
            return loaded(name, dtype) if name == "smollm2-135m" else load(name, dtype=dtype)

        for module in (command, loaded_run):
            patch.setattr(module, "load", load_once)
        for module in (command, compare):
            patch.setattr(module, "keep_compilations", lambda folder: None)
        patch.chdir(folder)
        Path("prompts.txt").write_text(PROMPTS)
        Path("words.txt").write_text(WORDS)
        yield


def said(*words: str) -> str:
    """Runs a command and returns what it prints."""
    out = io.StringIO()
    with redirect_stdout(out):
        assert main(words) == 0
    return out.getvalue()


def written(line: str, folder: Path) -> list[dict[str, Any]]:
    """Returns the figures of what a command line of `coopgen generate` writes in a folder."""
    with beside(folder), pytest.MonkeyPatch.context() as patch:
        spoken = io.TextIOWrapper(io.BytesIO(SPOKEN.encode()))
        patch.setattr(sys, "stdin", spoken)
        found = json.loads(said("generate", *shlex.split(line), "--json", "--quiet"))
    texts = [*found["texts"], *(found["compare"] or ())]
    return [{name: text[name] for name in FIGURES} for text in texts]


SMALL = "--rows 8 --longest 16 --validate-every 2 --quiet --json"
ROUNDS = (
    "--rounds 2 --new-tokens 16 --source-tokens 8 --sources 2 --samples 2 --judge-rows 4"
    " --judge-steps 1 --first-judge-steps 2 --replay-rows 4 --sample-texts 2 --validation-rows 4"
    " --validate-every 2 --quiet --json"
)
# What trains, in the README's order; the models are as small as they can be.
TRAININGS = {
    "first": "lm --from-scratch --vocabulary 300 --data captions.txt --validation dev.txt"
    f" --out first --layers 2 --width 64 --context 64 --epochs 2 {SMALL}",
    "second": "gcn --model first --rank 0 --data captions.txt --validation dev.txt --out second"
    f" --judge-reads beginnings {ROUNDS}",
    "judge": f"discriminator --data train.csv --validation dev.csv --out judge --epochs 2 {SMALL}",
    "causal": "discriminator --kind causal --model first --data train.csv --validation dev.csv"
    f" --out causal --epochs 2 {SMALL}",
    "rater": "discriminator --kind generative --model first --data dev.csv --validation train.csv"
    f" --out rater --epochs 4 {SMALL}",
    "oracle": f"lm --data captions.txt --validation dev.txt --model first --out oracle {SMALL}",
}
# And what is done with it.
USES = {
    "second": '--model second --discriminator second/judge --target human "A man" --simulations 8'
    f" --wave 2 {SHORT}",
    "judge": f"{TEXT} --discriminator judge --target positive --simulations 8 --wave 2 {SHORT}",
    "expert": '"A man" --model first --method sample --discriminator none --expert oracle'
    f" --anti-expert first --expert-weight 2 {SHORT}",
}
JUDGEMENT = (
    "evaluate discriminator --data dev.csv --discriminator sentiment judge --picture judges.png"
    " --out judges.json --longest 16 --quiet"
)
COMPARISON = (
    "compare --methods greedy,fudge:strength=2 --prompts prompts.txt"
    " --target positive negative --judge rater --force --oracle oracle --model first"
    " --discriminator causal --out compared --new-tokens 4 --quiet"
)


def write_data() -> None:
    """Writes captions and rated texts."""
    rng = np.random.default_rng(0)
    who, what = ("A man", "A woman", "A dog", "Two cats"), ("runs", "sits", "eats", "sleeps")
    where = ("in a park", "on a chair", "by the sea")

    def caption() -> str:
        return f"{rng.choice(who)} {rng.choice(what)} {rng.choice(where)}."

    Path("captions.txt").write_text("".join(f"{caption()}\n" for _ in range(48)))
    Path("dev.txt").write_text("".join(f"{caption()}\n" for _ in range(12)))
    words = {"positive": ("good", "great", "lovely"), "negative": ("bad", "dull", "awful")}
    for path, count in (("train.csv", 32), ("dev.csv", 12)):
        labels = [("positive", "negative")[number % 2] for number in range(count)]
        rows = [
            f"a {rng.choice(words[label])} {rng.choice(('film', 'book'))},{label}"
            for label in labels
        ]
        Path(path).write_text("text,label\n" + "\n".join(rows) + "\n")


def trained(name: str) -> list[dict[str, Any]]:
    """Returns the metrics of a training, without its seconds."""
    said("train", *shlex.split(TRAININGS[name]))
    lines = (Path(name) / "metrics.jsonl").read_text().splitlines()
    return [timeless(json.loads(line)) for line in lines]


def timeless(value: Any) -> Any:
    """Returns a value of JSON without what depends on the clock."""
    if isinstance(value, dict):
        return {key: timeless(entry) for key, entry in value.items() if "second" not in key}
    return [timeless(entry) for entry in value] if isinstance(value, list) else value


def chain(folder: Path) -> dict[str, Any]:
    """Trains, generates, evaluates and compares as the README does, and returns all figures."""
    found: dict[str, Any] = {}
    with beside(folder):
        write_data()
        for name in TRAININGS:
            found[f"train {name}"] = trained(name)
        for name, line in USES.items():
            found[f"generate {name}"] = written(line, folder)
        said(*shlex.split(JUDGEMENT))
        found["evaluate"] = timeless(json.loads(Path("judges.json").read_text()))
        said(*shlex.split(COMPARISON))
        found["compare"] = {
            path.stem: [timeless(json.loads(line)) for line in path.read_text().splitlines()[1:]]
            for path in sorted(Path("compared").glob("*.jsonl"))
        }
        found["figures"] = timeless(json.loads(Path("compared/figures.json").read_text()))
    return found
