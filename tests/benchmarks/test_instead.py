"""What transformers is given is our network and our head, and nothing else is measured."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from benchmarks.instead import TARGET, Transformers, measure
from benchmarks.parts import make_parts, random_prompts
from benchmarks.settings import Settings, resolve
from coopgen_jax.decoding.decode import decode
from coopgen_jax.decoding.methods.sampling import SamplingConfig


@pytest.fixture(scope="module")
def parts():
    return make_parts(Settings(model="tiny", guide="trunk"))


def test_both_read_and_judge_alike(parts):
    theirs = Transformers(parts)
    prompt = random_prompts(parts, 3, 5)
    found = decode(
        jax.random.key(0),
        prompt,
        language_model=parts.language_model,
        params=parts.params,
        discriminator=parts.guide,
        discriminator_params=parts.guide_params,
        target=jnp.ones(3, jnp.int32),
        config=SamplingConfig(new_tokens=4),
    )
    texts = np.concatenate([prompt.tokens, found.tokens[:, 0]], axis=1)
    texts = torch.from_numpy(texts.astype(np.int64))
    said = theirs.log_class(texts, 5)
    np.testing.assert_allclose(found.log_class[:, 0], said, atol=1e-4)
    with torch.inference_mode():
        logits = theirs.network(texts).logits[:, 4:-1]
    log_p = torch.log_softmax(logits, dim=-1).gather(-1, texts[:, 5:, None])[..., 0].sum(dim=1)
    np.testing.assert_allclose(found.log_prob[:, 0], log_p, atol=1e-4)


def test_the_text_that_the_head_likes_best_is_kept(parts, monkeypatch):
    theirs = Transformers(parts)
    prompts = torch.tensor([[3, 4], [5, 6]])
    written = theirs.sample(prompts, 4, 3)
    assert written.shape == (8, 5) and (written[:, :2] == prompts.repeat_interleave(4, 0)).all()
    monkeypatch.setattr(theirs, "sample", lambda *_: written)
    liked = theirs.log_class(written, 2)[:, TARGET]
    best = theirs.best(prompts, 4, 3)
    for row in range(2):
        own = slice(4 * row, 4 * row + 4)
        assert (best[row] == written[own][liked[own].argmax()]).all()


@pytest.mark.default_model
def test_the_default_model_has_a_head_that_transformers_can_judge_by(monkeypatch):
    """Its packaged head has causal layers, which transformers does not know."""

    def judged(parts, theirs, repeats, **axes):
        texts = torch.from_numpy(np.array(random_prompts(parts, 2, 6).tokens, np.int64))
        return {"said": theirs.log_class(texts, 3)}

    monkeypatch.setattr("benchmarks.instead._timed", judged)
    given = Settings(model="default", guide="trunk", batch=(2,), samples=(2,))
    (row,) = measure(given)
    np.testing.assert_allclose(row["said"].exp().sum(dim=1), 1, atol=1e-5)


def test_the_dtype_is_chosen_as_on_the_command_line(monkeypatch):
    assert resolve(Settings(dtype="auto"), "instead", {}, {}).dtype == "float32"
    monkeypatch.setattr("benchmarks.settings.fastest_dtype", lambda: "bfloat16")
    assert resolve(Settings(dtype="auto"), "instead", {}, {}).dtype == "bfloat16"
    assert resolve(Settings(dtype="float32"), "instead", {}, {}).dtype == "float32"
