"""What a user would pick instead: `generate` of transformers, and best of n by the same head.

Both sides have the same network, dtype, prompts and number of tokens. Sampling is nucleus sampling.
The best of n is chosen by the same random head on means of the network's states: transformers
writes n texts and reads them once more for the states, and ours is the decoder `rerank`.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from benchmarks.parts import Parts, make_parts, random_prompts
from benchmarks.pytorch import set_threads, torch_device, versions, waited
from benchmarks.settings import Settings, combinations
from benchmarks.suite import Benchmark, Row, draw_ratios
from benchmarks.timing import compiled, in_turn, milliseconds, ratio
from coopgen_jax.decoding.decode import decode
from coopgen_jax.decoding.methods.rerank import RerankConfig
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.discriminators.shared_trunk import SharedTrunkConfig
from coopgen_jax.models.layer_layout import stack_layers
from coopgen_jax.models.pretrained.saving import hugging_face

TOP_P = 0.9
TARGET = 1


class Transformers:
    """The network and its head in PyTorch, the network as transformers has it."""

    def __init__(self, parts: Parts) -> None:
        device, dtype = torch_device(), getattr(torch, parts.config.dtype)
        values, tensors = hugging_face(parts.config, stack_layers(parts.params))
        config = transformers.AutoConfig.for_model(**values)
        network = transformers.AutoModelForCausalLM.from_config(config)
        weights = {name: torch.from_numpy(np.array(array)) for name, array in tensors.items()}
        network.load_state_dict(weights, strict=False)
        network.tie_weights()
        self.network = network.to(device, dtype).eval()
        assert parts.judge is None
        self.judge: SharedTrunkConfig = parts.guide.evaluate.config
        self.head = jax.tree.map(
            lambda leaf: torch.from_numpy(np.array(leaf)).to(device), parts.guide_params
        )

    def sample(self, prompts: torch.Tensor, texts: int, new_tokens: int) -> torch.Tensor:
        """Returns `texts` continuations of every prompt `[B, P]`: `[B * texts, P + T]`."""
        found: torch.Tensor = self.network.generate(
            input_ids=prompts,
            attention_mask=torch.ones_like(prompts),
            do_sample=True,
            top_p=TOP_P,
            top_k=0,
            max_new_tokens=new_tokens,
            num_return_sequences=texts,
            eos_token_id=None,
            pad_token_id=0,
        )
        return found

    def log_class(self, texts: torch.Tensor, prompt_length: int) -> torch.Tensor:
        """Returns the head's log p(class) `[n, C]` of whole texts `[n, P + T]`."""
        with torch.inference_mode():
            read = self.network.base_model(texts, output_hidden_states=True).hidden_states
        start = 0 if self.judge.reads_prompt else prompt_length
        parts = []
        for tap in self.judge.taps:
            states = read[tap].float()
            parts += [states[:, -1], states[:, start:].mean(dim=1)]
        x = (torch.cat(parts, dim=-1) - self.head["centre"]) * self.head["scale"]
        for number in range(len(self.judge.head.hidden)):
            layer = self.head[f"hidden_{number}"]
            x = torch.relu(x @ layer["kernel"] + layer["bias"])
        x = x @ self.head["output"]["kernel"] + self.head["output"]["bias"]
        return torch.log_softmax(x, dim=-1)

    def best(self, prompts: torch.Tensor, of: int, new_tokens: int) -> torch.Tensor:
        """Returns the text of every prompt that the head finds the target in most: `[B, P + T]`."""
        texts = self.sample(prompts, of, new_tokens)
        liked = self.log_class(texts, prompts.shape[1])[:, TARGET].reshape(-1, of)
        return texts.reshape(len(prompts), of, -1)[torch.arange(len(prompts)), liked.argmax(dim=1)]


def measure(settings: Settings) -> Iterator[Row]:
    """Times sampling of one text, and the best of several, for every number of prompts."""
    parts = make_parts(settings, packaged=False)
    if parts.own_network:
        raise ValueError("the head must be the network's own: leave --guide out")
    set_threads(settings.threads)
    theirs = Transformers(parts)
    for axes in combinations(settings):
        yield _timed(parts, theirs, settings.repeats or 1, **axes)


def _timed(
    parts: Parts,
    theirs: Transformers,
    repeats: int,
    *,
    batch: int,
    samples: int,
    prompt_length: int,
    new_tokens: int,
) -> Row:
    prompt = random_prompts(parts, batch, prompt_length)
    prompts = torch.from_numpy(np.array(prompt.tokens, np.int64)).to(torch_device())
    config: Any = SamplingConfig(new_tokens=new_tokens)
    if samples > 1:
        config = RerankConfig(proposal=config, of=samples, new_tokens=new_tokens)
    config = config.with_settings(top_p=TOP_P)
    judged = samples > 1

    def ours(key: jax.Array, params: Any, guide_params: Any) -> Any:
        return decode(
            key,
            prompt,
            language_model=parts.language_model,
            params=params,
            discriminator=parts.guide if judged else None,
            discriminator_params=guide_params if judged else None,
            target=jnp.full(batch, TARGET) if judged else None,
            config=config,
        ).tokens

    given = (jax.random.key(0), parts.params, parts.guide_params)
    program = compiled(ours, *given)

    def picked() -> Any:
        if judged:
            return theirs.best(prompts, samples, new_tokens)
        return theirs.sample(prompts, 1, new_tokens)

    functions = {"ours": lambda: program.call(*given), "theirs": waited(picked)}
    seconds = in_turn(functions, repeats)
    ours_ms, theirs_ms = (milliseconds(seconds[name]) for name in functions)
    return versions() | {
        "what": f"best of {samples}" if judged else "sampling",
        "transformers": transformers.__version__,
        "batch": batch,
        "samples": samples,
        "prompt_length": prompt_length,
        "new_tokens": new_tokens,
        "ours_tokens_per_second": 1e3 * batch * new_tokens / ours_ms,
        "theirs_tokens_per_second": 1e3 * batch * new_tokens / theirs_ms,
        **ratio(seconds["theirs"], seconds["ours"]),
        "compile_seconds": program.seconds,
    }


def draw(rows: list[Row], axes: Any) -> None:
    """Draws how many times faster ours is."""
    draw_ratios(rows, [f"{row['what']}, {row['batch']} prompts" for row in rows], axes)
    axes.set_xlabel("times as fast as transformers")


INSTEAD = Benchmark(
    name="instead",
    about="texts by sampling and by best of n, against transformers' generate",
    measure=measure,
    columns=(
        ("what", "what", "s"),
        ("batch", "prompts", "d"),
        ("prompt_length", "prompt", "d"),
        ("new_tokens", "new tokens", "d"),
        ("ours_tokens_per_second", "our tokens / s", ".1f"),
        ("theirs_tokens_per_second", "transformers' tokens / s", ".1f"),
        ("ratio", "times as fast", ".2f"),
        ("compile_seconds", "compile s", ".1f"),
    ),
    own={
        "batch": (1, 8, 32),
        "samples": (1, 8),
        "prompt_length": (16,),
        "new_tokens": (24,),
        "repeats": 3,
    },
    quick={"batch": (2,), "samples": (1, 3), "new_tokens": (3,)},
    draw=draw,
)
