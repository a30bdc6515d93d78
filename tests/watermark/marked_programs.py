"""Compiles marked sampling for a TPU that is not there; prints what marks add, in JSON.

By scheme: the sorts of the program and its calls of the host.
"""

import json
import re
from dataclasses import replace
from functools import partial

import jax
from jax.sharding import SingleDeviceSharding

from coopgen_jax.decoding.job import write_all
from coopgen_jax.decoding.methods.sampling import SAMPLING, SamplingConfig
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.decoding.rules.watermark import Watermark
from coopgen_jax.parallel.platform import made_for
from coopgen_jax.testing import TINY_LLAMA
from coopgen_jax.tools.job_shapes import job_of_shapes
from tests.tpu import devices, laid

CONFIG = replace(TINY_LLAMA, vocab_size=8192, dtype="bfloat16")
CASES = {
    "unmarked": Rules(), "greenlist": Rules(watermark=Watermark("greenlist")),
    "gumbel": Rules(watermark=Watermark("gumbel")),
    "permute-flip": Rules(watermark=Watermark("permute-flip")),
    "unmarked, top 50": Rules(top_k=50), "n-grams": Rules(no_repeat_ngram=2),
    "tournament, top 50": Rules(top_k=50, watermark=Watermark("tournament")),
}  # fmt: skip


def main() -> None:
    """Compiles every case."""
    place = SingleDeviceSharding(devices("v5e:1x1")[0])
    found = {}
    for name, rules in CASES.items():
        with made_for("tpu"):
            settings = SamplingConfig(new_tokens=4, rules=rules)
            job = job_of_shapes(CONFIG, settings, batch=4, prompt_length=16)
            key = jax.eval_shape(lambda: jax.random.key(0))
            given = laid((key, job), place)
            # A new function each time: one that has been traced is not traced again.
            program = jax.jit(partial(write_all, SAMPLING.begin, SAMPLING.advance)).lower(*given)
            compiled = program.compile()
        text = compiled.as_text()
        found[name] = {
            "sorts": len(re.findall(r"[\s)]sort\(", text)),
            "host": len(re.findall(r"\b(?:send|recv|infeed|outfeed)\(|xla_.*callback", text)),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
