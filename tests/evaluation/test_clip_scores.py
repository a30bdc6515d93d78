"""CLIP-S and RefCLIP-S, against their formulas written out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopgen_jax.evaluation.clip_scores import clip_s, ref_clip_s

IMAGES, WIDTH = 4, 6


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    drawn = rng.standard_normal(shape)
    return (drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)).astype(np.float32)


def test_clip_scores_are_those_of_their_paper():
    rng = np.random.default_rng(0)
    captions, truths, greedy, images = (unit(rng, IMAGES, WIDTH) for _ in range(4))
    references = np.stack([truths, greedy], axis=1)
    counted = jnp.asarray([[True, True], [True, False], [False, True], [False, False]])
    plain = clip_s(captions, images)
    found = ref_clip_s(captions, images, references, counted)
    for number in range(IMAGES):
        clip = 2.5 * max(float(captions[number] @ images[number]), 0)
        near = [
            captions[number] @ text
            for text, there in zip(references[number], counted[number], strict=True)
            if there
        ]
        best = max([0.0, *near])
        wanted = 0.0 if clip * best == 0 else 2 * clip * best / (clip + best)
        assert plain[number] == pytest.approx(clip, abs=1e-6)
        assert found[number] == pytest.approx(wanted, abs=1e-6)
    assert (np.asarray(found) > 0).any() and found[3] == 0


def test_no_gradient_flows():
    rng = np.random.default_rng(1)
    captions, images = unit(rng, IMAGES, WIDTH), unit(rng, IMAGES, WIDTH)
    assert not np.any(jax.grad(lambda own: jnp.sum(clip_s(own, images)))(jnp.asarray(captions)))
