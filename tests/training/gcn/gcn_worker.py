"""A small cooperative training in a process of its own, which can be told to die in a phase.

The one argument is a JSON object: `folder`; `rounds`; `die`, null or a phase of `Round`, in
whose `at`-th turn the process kills itself; `full`, whether the disk is full from there on instead;
`mapper`; `sharded`; `parameters`; `proposal`; `conditional`; and for one of several processes
`coordinator` and `process`. The last line of output is a JSON object of what became of it.
"""

import hashlib
import json
import os
import resource
import signal
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import tokenizers

from coopgen_jax.data.pairs import tokenise_pairs
from coopgen_jax.decoding.mcts.mcts_config import ByVisits, MCTSConfig
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.models.transformer import init_decoder
from coopgen_jax.parallel.mesh import make_mesh
from coopgen_jax.search import SearchConfig
from coopgen_jax.testing import TINY_LLAMA
from coopgen_jax.tokenizer import Tokenizer
from coopgen_jax.training.gcn.examination import Examination
from coopgen_jax.training.gcn.gcn_config import GcnConfig
from coopgen_jax.training.gcn.gcn_recipe import train_gcn
from coopgen_jax.training.gcn.gcn_training import GcnTraining
from coopgen_jax.training.loop import LoopConfig

WORDS = [f"w{number}" for number in range(59)]
END = 60
TREE = MCTSConfig(
    new_tokens=4,
    samples=2,
    search=SearchConfig(simulations=4, wave=2, candidates=4, depth=3, reused_nodes=4),
    rules=Rules(repetition_penalty=1.0),
    choice=ByVisits(visit_temperature=1.0, mix_base=0.3),
)
PROPOSALS = {
    "nucleus": SamplingConfig(new_tokens=4, samples=2, mix_base=0.2, rules=Rules(top_p=0.8)),
    "tree": TREE,
}


def tokenizer() -> Tokenizer:
    vocabulary = {word: number for number, word in enumerate([*WORDS, "<unk>", "<end>"])}
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens(["<end>"])
    return Tokenizer(core, end_tokens=[END])


def language(dtype: str = "float32") -> LoadedModel:
    shape = replace(TINY_LLAMA, end_tokens=(END,), dtype=dtype)
    params = init_decoder(jax.random.key(1), shape)
    return LoadedModel(shape, params, tokenizer(), "tiny", "0" * 64, None)


def pairs(seed: int, count: int, conditional: bool):
    rng = np.random.default_rng(seed)

    def said(most: int) -> str:
        return " ".join(rng.choice(WORDS[:20], rng.integers(1, most)))

    found = [(said(4) if conditional else "", said(4)) for _ in range(count)]
    template = "{} w58" if conditional else None
    return tokenise_pairs(tokenizer(), found, source_width=5, text_width=4, template=template)


def main(options: dict) -> None:
    if options.get("coordinator"):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(options["coordinator"], 2, options["process"])
    conditional = options.get("conditional", True)
    left = options.get("at", 1)

    def watch(phase: str, found: object) -> None:
        nonlocal left
        if phase == options.get("die"):
            left -= 1
            if not left and options.get("full"):
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
            elif not left:
                os.kill(os.getpid(), signal.SIGKILL)

    card = train_gcn(
        language(),
        pairs(0, 40, conditional),
        pairs(1, 12, conditional),
        GcnConfig(
            proposal=PROPOSALS[options.get("proposal", "nucleus")],
            sources=8,
            discriminator_steps=2,
            first_discriminator_steps=3,
            discriminator_rows=16,
            replay_rows=24,
            kl=0.1,
        ),
        GcnTraining(
            LoopConfig(steps=options["rounds"], validate_every=2, save_every=1),
            lora=None,
            learning_rate=3e-3,
            discriminator_learning_rate=3e-3,
            dropout=0.1,
            examination=Examination(texts=8, held_out=8, rows=8),
            mapper=options.get("mapper", "shard_map"),
            saved_dtype="float32",
            sharded_optimiser=options.get("sharded", False),
            sharded_parameters=options.get("parameters", False),
        ),
        folder=Path(options["folder"]),
        mesh=make_mesh(),
        watch=watch,
    )
    if jax.process_index() == 0:
        weights = (Path(options["folder"]) / "model.safetensors").read_bytes()
        judge = (Path(options["folder"]) / "judge" / "head.safetensors").read_bytes()
        card["digest"] = hashlib.sha256(weights + judge).hexdigest()
    print(json.dumps(card))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
