"""Logits against torch and transformers, on the same weights and equal ids."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.language_model import Nodes
from coopgen_jax.models.pretrained.loaded_model import load
from coopgen_jax.models.pretrained.packaged import PACKAGED
from coopgen_jax.models.prompt import make_prompt
from coopgen_jax.models.slots import Capacity, commit
from tests.models.model_files import hf_model, save

SENTENCES = (
    "This film was a pleasant surprise.",
    "The quick brown fox jumps over the lazy dog",
    "In 1969, three people flew to the Moon and two of them walked on it.",
    "def add(a, b):\n    return a + b\n",
    "Il pleut sur la ville, et le café est déjà fermé.",
    "I would not buy this product again: it broke after 2 days!",
    "“Well,” she said — “that is that.”",
    "数学は美しい。",
    "To be, or not to be, that is the question:",
    "prices rose 3.7% in the 4th quarter of 2023, analysts said",
)


def cached_logits(loaded, texts: list[str]) -> list[np.ndarray]:
    """Logits behind every prefix: the first token prefilled, the rest read one by one."""
    rows = [loaded.tokenizer.encode(text) for text in texts]
    length = max(map(len, rows))
    model = language_model(loaded.config)
    prompt = make_prompt(loaded.tokenizer, ["x"] * len(rows), multiple=1)
    prompt = prompt.replace(
        tokens=jnp.asarray([row[:1] for row in rows]), mask=jnp.ones((len(rows), 1), bool)
    )
    logits, _, cache = model.prefill(loaded.params, prompt, capacity=Capacity(1, length, 1))
    columns = [np.asarray(logits)]
    shape = (len(rows), 1, 1)
    for at in range(1, length):
        token = [row[at] if at < len(row) else 0 for row in rows]
        committed = jnp.full(shape[:2], at - 1)
        nodes = Nodes(
            start=jnp.int32(0),
            token=jnp.asarray(token).reshape(shape),
            parent=jnp.zeros(shape, jnp.int32),
            path=jnp.full((*shape, 1), -1),
            depth=jnp.ones(shape, jnp.int32),
            committed=committed,
            terminal=jnp.zeros(shape, bool),
        )
        logits, _, cache = extend_once(model, loaded.params, cache, nodes)
        cache = commit(cache, committed)
        columns.append(np.asarray(logits[:, 0, 0]))
    stacked = np.stack(columns, axis=1)
    return [stacked[number, : len(row)] for number, row in enumerate(rows)]


def extend_once(model, params, cache, nodes):
    return jax.jit(model.extend, donate_argnums=1)(params, cache, nodes)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("gpt2", {}),
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
        (
            "llama",
            {
                "rope_parameters": {
                    "rope_type": "llama3",
                    "rope_theta": 10000.0,
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 16,
                }
            },
        ),
        ("qwen2", {}),
        ("mistral", {}),
    ],
)
def test_tiny_networks_equal_torch(family, options, tmp_path):
    reference = hf_model(family, **options).eval()
    loaded = load(save(reference, tmp_path))
    texts = ["hello, world", "ab"]
    for text, got in zip(texts, cached_logits(loaded, texts), strict=True):
        with torch.no_grad():
            ids = torch.tensor([loaded.tokenizer.encode(text)])
            expected = reference(ids).logits[0].numpy()
        np.testing.assert_allclose(got, expected, atol=2e-4)


@pytest.mark.default_model
@pytest.mark.filterwarnings("ignore")  # of the reference's own loader
def test_default_model_equals_the_reference_load_of_its_file():
    loaded = load()
    path = PACKAGED[loaded.name].place
    (file,) = path.glob("*.gguf")
    reference = transformers.AutoModelForCausalLM.from_pretrained(
        str(path), gguf_file=file.name, dtype=torch.float32
    ).eval()
    for text, got in zip(SENTENCES, cached_logits(loaded, list(SENTENCES)), strict=True):
        with torch.no_grad():
            ids = torch.tensor([loaded.tokenizer.encode(text)])
            expected = reference(ids).logits[0].numpy()
        np.testing.assert_allclose(got, expected, atol=1e-3)
