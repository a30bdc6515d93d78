"""The heads that come with the library."""

import json

import numpy as np
import pytest

from coopgen_jax.cli.evaluate import _check_cards
from coopgen_jax.discriminators import loading
from coopgen_jax.discriminators.loading import (
    PACKAGED,
    is_packaged,
    load_discriminator,
    packaged_heads,
)
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.discriminator_accuracy import (
    judge_prefixes,
    no_opinion,
    of_whole_texts,
)
from coopgen_jax.models.pretrained.loaded_model import load
from tests.evaluation.texts_without_sentiment import texts_without_sentiment

SAYS = {
    "sentiment": {"positive": "A wonderful film, moving and funny.", "negative": "Dull and awful."},
    "sentiment-distilled": {"positive": "A wonderful film.", "negative": "Dull and awful."},
    "sentiment-minilm": {"positive": "I love this book.", "negative": "A terrible, boring waste."},
    "sentiment-judge": {
        "positive": "A moving and funny film.",
        "negative": "Dull and awful.",
        "neither": "The library opens at nine and closes at six.",
    },
    "emotion": {
        "joy": "i feel so happy and cheerful today",
        "anger": "i feel furious and so angry with him",
        "fear": "i feel terrified and scared of the dark",
        "sadness": "i feel miserable and lonely",
    },
    "topic": {
        "sports": "The team scored twice in the last minute and won the championship match.",
        "business": "Shares fell after the company reported lower quarterly profits.",
        "scitech": "The new software lets computers find viruses on the internet.",
        "world": "Troops and rebels clashed near the capital, the minister said.",
    },
}

SURE = {
    "positive": [
        "A wonderful film, moving and funny.", "I love this book and will read it again.",
        "The acting is superb and the music beautiful.", "It works perfectly, a great buy.",
        "One of the best stories I have read in years.", "Charming, clever and warm.",
    ],
    "negative": [
        "Dull and awful from start to end.", "A terrible, boring waste of two hours.",
        "It broke after a day, very disappointing.", "The plot is stupid and the acting bad.",
        "I hated every page of it.", "Cheap, ugly and useless.",
    ],
}  # fmt: skip


def test_all_weights_together_are_small_and_every_card_says_what_it_must():
    folders = packaged_heads()
    assert folders.keys() == SAYS.keys()
    assert sum(path.stat().st_size for path in PACKAGED.rglob("*.safetensors")) < 8e6
    notice = (PACKAGED / "research" / "NOTICE.md").read_text(encoding="utf-8")
    for name, folder in folders.items():
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        assert card["name"] == name and card["terms"] and card["recipe"]
        assert card["accuracy"].keys() == card["data"].keys()
        assert all(f"| {source} |" in notice for source in card["data"])
        for source, floor in card.get("tf_idf_floor", {}).items():
            assert card["accuracy"][source]["whole"] > floor


@pytest.mark.default_model
@pytest.mark.parametrize("name", SAYS)
def test_a_head_knows_plain_cases(name):
    model = load()
    head = load_discriminator(name, language_model=model)
    said = judge_prefixes(model, head, list(SAYS[name].values()), longest=24, batch=4)
    for row, wanted in zip(said, SAYS[name], strict=True):
        last = row[~np.isnan(row[:, 0])][-1]
        assert head.discriminator.classes[int(last.argmax())] == wanted


@pytest.mark.default_model
def test_the_sentiment_head_is_less_sure_of_texts_without_sentiment():
    model = load()
    head = load_discriminator("sentiment", language_model=model)
    calm = [text for texts in texts_without_sentiment().values() for text in texts[::4]]
    sure = [text for texts in SURE.values() for text in texts]
    said = [of_whole_texts(judge_prefixes(model, head, texts)) for texts in (sure, calm)]
    found = no_opinion(*said, head.discriminator.classes)
    assert found["confidence"] < 0.7 and found["auroc"] > 0.9
    assert found["labelled_confidence"] > 0.85


def test_what_lies_in_the_package_is_asked_each_time(monkeypatch, tmp_path):
    assert is_packaged(PACKAGED / "research") and not is_packaged(tmp_path / "own")
    monkeypatch.setattr(loading, "PACKAGED", tmp_path)
    with pytest.raises(UserError, match="own comes with the library"):
        (tmp_path / "own").mkdir()
        (tmp_path / "own/card.json").write_text("{}")
        _check_cards((str(tmp_path / "own"),))
