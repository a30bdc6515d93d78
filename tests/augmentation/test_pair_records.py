"""Records of pairs, by hand."""

import json

import numpy as np

from coopgen_jax.augmentation.image_pairs import ImagePairs, PairSettings
from coopgen_jax.augmentation.pair_records import balance_of, pair_records, records_document

SETTINGS = PairSettings(("text-text", "scene"), ("hard", "easy"))
PAIRS = ImagePairs(
    caption=np.array([0, 2, 3]),
    image=np.array([0, 1, 2]),
    false_image=np.array([1, 0, 0]),
    score=np.array([0.5, 0.25, 0.75], np.float32),
    by=np.array([0, 0, 1]),
    hardness=np.array([0, 0, 1]),
    fold=np.array([0, 0, 4]),
)
CAPTIONS = ["a dog", "unused", "a cat", "a boat"]
IDS = ["x.jpg#0", "x.jpg#1", "y.jpg#0", "z.jpg#0"]
IMAGES = ["x.jpg", "y.jpg", "z.jpg"]


def test_pristine_and_falsified_records_alternate():
    records = pair_records(PAIRS, SETTINGS, CAPTIONS, IDS, IMAGES)
    assert records[:2] == [
        {
            "id": "x.jpg#0",
            "image_id": image,
            "similarity_score": 0.5,
            "falsified": falsified,
            "source_dataset": 0,
            "caption": "a dog",
            "hardness": "hard",
            "fold": 0,
        }
        for image, falsified in (("x.jpg", False), ("y.jpg", True))
    ]
    assert [record["falsified"] for record in records] == [False, True] * 3
    assert [record["id"] for record in records] == [IDS[n] for n in (0, 0, 2, 2, 3, 3)]
    shown = [record["image_id"] for record in records]
    assert shown == ["x.jpg", "y.jpg", "y.jpg", "x.jpg", "z.jpg", "x.jpg"]
    assert records[5]["source_dataset"] == 1 and records[5]["fold"] == 4


def test_documents_hold_the_records_a_line_each_or_as_published():
    records = pair_records(PAIRS, SETTINGS, CAPTIONS, IDS, IMAGES)
    lines = records_document(records, SETTINGS.by, ".jsonl").splitlines()
    assert [json.loads(line) for line in lines] == records
    found = json.loads(records_document(records, SETTINGS.by, ".json"))
    assert found == {"annotations": records, "source_datasets": ["text-text", "scene"]}


def test_the_balance_counts_what_is_uneven():
    records = pair_records(PAIRS, SETTINGS, CAPTIONS, IDS, IMAGES)
    assert balance_of(records, SETTINGS.by) == [
        {"by": "text-text", "hardness": "hard", "captions": 2, "captions_uneven": 0,
         "images": 2, "images_uneven": 0, "similarity": 0.375},
        {"by": "scene", "hardness": "easy", "captions": 1, "captions_uneven": 0,
         "images": 2, "images_uneven": 2, "similarity": 0.75},
    ]  # fmt: skip
    assert balance_of(records[1:], SETTINGS.by)[0]["captions_uneven"] == 1
