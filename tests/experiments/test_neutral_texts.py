"""The halves of the texts without a class: what a guide learns from and what a judge does."""

import csv
import json

import numpy as np

from coopgen_jax.data.fingerprint import fingerprint
from experiments.neutral_test_texts import neutral_test_texts
from experiments.neutral_texts import code, made, neutral_texts


def test_the_halves_have_no_text_in_common_whatever_its_case(tmp_path):
    for name in ("ag_news", "squad_questions", "web_prompts", "coco_sentences"):
        (tmp_path / name).mkdir()
    words = [f"the {number} trains run past station {number}" for number in range(60)]
    with (tmp_path / "ag_news" / "train.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *((word, "world") for word in words)])
    lines = [json.dumps({"context": f"of {word}", "question": f"when {word}?"}) for word in words]
    (tmp_path / "squad_questions" / "train.jsonl").write_text("\n".join(lines))
    lines = [json.dumps({"prompt": f"page {word} " * 9}) for word in words]
    (tmp_path / "web_prompts" / "prompts.jsonl").write_text("\n".join(lines))
    (tmp_path / "coco_sentences" / "train.txt").write_text("\n".join(f"a {word}" for word in words))
    one, other = (neutral_texts(tmp_path, half) for half in "AB")
    assert min(len(one), len(other)) > 1500
    assert not len(np.intersect1d(fingerprint(one), fingerprint(other)))
    # The same ones again, and text of every kind.
    assert one == neutral_texts(tmp_path, "A")
    for word in ("station", "page", "when", "=", "Gleis", "of"):
        assert any(word in text for text in one), word


def test_the_500_for_measuring_are_others_than_those_for_training():
    texts = neutral_test_texts()
    assert len(set(texts)) == len(texts) == 500 and texts == neutral_test_texts()
    assert len(fingerprint(texts)) > 490, "they differ by more than white space and case"
    rng = np.random.default_rng(0)
    seen = fingerprint([*made(rng, 4000), *code(rng, 40), *code(rng, 52)])
    assert not len(np.intersect1d(fingerprint(texts), seen))
