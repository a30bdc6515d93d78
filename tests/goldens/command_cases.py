"""Command lines of `coopgen generate` on tiny networks, and the networks that they name."""

import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import coopgen_jax.cli.generate as command
from coopgen_jax.cli import main
from coopgen_jax.decoding.presets import PRESETS
from coopgen_jax.discriminators.head import Head, HeadConfig
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.discriminators.shared_trunk import SharedTrunkConfig, shared_trunk
from coopgen_jax.models.transformer import init_decoder
from coopgen_jax.testing import TINY_LLAMA
from tests.cli.tiny import load_toy_discriminator, tiny_model
from tests.goldens.comparing import FOLDER

# Of the tiny network's own drawing all tokens are nearly as likely; so much larger they differ.
LARGER = 3.0
TAPS = (1, 2)
HEAD = HeadConfig(("zero", "one"), 2 * len(TAPS) * TINY_LLAMA.width, (8,))


def load_model(name: str, *, dtype: str) -> SimpleNamespace:
    """The default model, and the models named `other` and `another`."""
    seeds = {"smollm2-135m": 0, "other": 1, "another": 2}
    params = init_decoder(jax.random.key(seeds[name]), TINY_LLAMA)
    found = {"name": name, "params": jax.tree.map(lambda leaf: LARGER * leaf, params)}
    return SimpleNamespace(**{**vars(tiny_model()), **found})


def load_guide(name: str, *, language_model: SimpleNamespace) -> LoadedDiscriminator:
    """The toy discriminator, or one named `head` that has gradients."""
    if name != "head":
        return load_toy_discriminator(name, language_model=language_model)
    params = Head(HEAD).init(jax.random.key(3), jnp.zeros((1, HEAD.inputs)))["params"]
    guide = shared_trunk(SharedTrunkConfig(TAPS, True, HEAD))
    return LoadedDiscriminator(guide, jax.tree.map(lambda leaf: 0.3 * leaf, params))


@contextmanager
def stand_ins() -> Iterator[None]:
    """Has the command line load the tiny networks, from the folder of the goldens."""
    before = Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "load", load_model)
        patch.setattr(command, "load_discriminator", load_guide)
        patch.setattr(command, "keep_compilations", lambda folder: None)
        # The card of the real sentiment head has other classes than what stands in for it.
        patch.setattr(command, "check_class", lambda options: None)
        os.chdir(FOLDER)
        try:
            yield
        finally:
            os.chdir(before)


PROMPTS = ("This film was", "w7 was a film")
SIZE = "--new-tokens 4 --batch-size 2 --seed 5 --json --quiet"
ONE = "--target one"
SMALL = f"{ONE} --simulations 6 --wave 2 --candidates 6 --depth 3"
PLAIN = "--discriminator none"

LINES = (
    *(f"{ONE} --preset {preset} --samples 2" for preset in PRESETS),
    f"{SMALL} --preset puct --visit-temperature 0.7 --samples 2 --full-share 0.2",
    f"{SMALL} --value-power 1.5 --samples 2 --seed 6",
    f"{SMALL} --width 0.5 --considered 4 --value-scale 0.5 --temperature 0.8 --rollout 1",
    f"{SMALL} --preset ppo --reference other --kl 0.2",
    f"{PLAIN} --simulations 6 --alpha 0.3 --c-puct 1 --repetition-penalty 1.2",
    f"--method fudge {ONE} --samples 2",
    f"--method fudge {ONE} --candidates 5 --strength 2 --score value --temperature 0.8",
    f"--method fudge {ONE} --look-ahead --repetition-penalty 1.3 --no-repeat-ngram 2",
    f"--method gedi {ONE}",
    f"--method gedi {ONE} --draw --samples 2 --strength 3 --filter-p 0.5 --target-p 0.9",
    "--method pplm --discriminator head --target one --step-size 0.2 --top-k 20",
    f"--method pplm {PLAIN} --bag words.txt --iterations 2 --kl 0.1 --fusion 0.8 --window 2",
    f"--method smc {ONE} --samples 4",
    f"--method smc {ONE} --samples 4 --resampling residual --threshold 0.9 --power 2",
    f"--method rerank {ONE} --of 4 --top-p 0.9 --samples 2",
    f"--method rerank {ONE} --of 3 --alpha 0.5 --bad-words w3 --begin-with w9",
    f"--method rerank {ONE} --beams 4",
    f"--method rerank {ONE} --beams 2 --groups 2 --diversity 0.5 --length-penalty 0.8",
    f"--method blockwise {ONE} --block 2 --of 3 --top-k 20 --top-p 0.9 --temperature 1.2",
    f"--method das {ONE}",
    f"--method das {ONE} --beams 3 --candidates 5 --alpha 0.5 --no-repeat-ngram 2 --samples 2",
    f"--method beam {PLAIN}",
    f"--method beam {PLAIN} --beams 3 --groups 2 --diversity 0.4 --samples 3 --no-repeat-ngram 2",
    f"--method stochastic-beam {PLAIN} --samples 3 --temperature 1.2",
    f"--method sample {PLAIN} --samples 2",
    "--method sample --temperature 0.8 --top-k 30 --top-p 0.9 --min-p 0.01 --repetition-penalty 1.2"
    " --no-repeat-ngram 2 --bad-words w1 --bad-words w2 --begin-with w5",
    f"--method sample {PLAIN} --typical-p 0.8 --eta 0.001 --mirostat 3 --mirostat-rate 0.2",
    f"--method sample {PLAIN} --top-p 0.7 --full-share 0.3 --samples 2",
    "--method greedy",
    f"--method greedy {PLAIN} --repetition-penalty 1.5 --bad-words w4 --begin-with w8 --chat",
    f"--method greedy {PLAIN} --expert other --anti-expert another --expert-weight 1.5",
    f"--method sample {PLAIN} --negative-prompt w9 --guidance 2 --control-code w6",
)  # fmt: skip

FIGURES = (
    "tokens", "log_prob", "log_proposal", "log_weight", "class_probabilities", "simulations",
    "model_tokens",
)  # fmt: skip


def written(line: str) -> list[dict[str, Any]]:
    """Returns what a command line writes: the figures of every text."""
    out = io.StringIO()
    with stand_ins(), redirect_stdout(out):
        assert main(["generate", *PROMPTS, *SIZE.split(), *line.split()]) == 0
    return [{name: text[name] for name in FIGURES} for text in json.loads(out.getvalue())["texts"]]
