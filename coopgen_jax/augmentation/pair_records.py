"""Records of out-of-context pairs, in the format that NewsCLIPpings was published in.

A record has `id` (of the caption), `image_id`, `similarity_score`, `falsified` and `source_dataset`
(the number of the measure that found the false image); every second record, from the first, is
pristine, and the next one shows the same caption with a false image. `caption`, `hardness` and
`fold` are added, so that a file can be used without another.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from coopgen_jax.augmentation.image_pairs import HARDNESS, ImagePairs, PairSettings
from coopgen_jax.files import to_json


def pair_records(
    pairs: ImagePairs,
    settings: PairSettings,
    captions: Sequence[str],
    caption_ids: Sequence[str],
    image_ids: Sequence[str],
) -> list[dict[str, Any]]:
    """Returns two records for every caption of the pairs: it is pristine, then it is falsified.

    Both have the similarity by which the false image was found, so that it tells nothing.

    Args:
      pairs: what was made by the settings.
      settings: those.
      captions: the text of every caption, by number.
      caption_ids: what captions are called, by number.
      image_ids: what images are called, by number.
    """
    records = []
    columns = (pairs.caption, pairs.image, pairs.false_image, pairs.score, pairs.by,
               pairs.hardness, pairs.fold)  # fmt: skip
    for caption, image, false, score, by, hardness, fold in zip(*columns, strict=True):
        for shown, falsified in ((image, False), (false, True)):
            records.append(
                {
                    "id": caption_ids[caption],
                    "image_id": image_ids[shown],
                    "similarity_score": round(float(score), 6),
                    "falsified": falsified,
                    "source_dataset": int(by),
                    "caption": captions[caption],
                    "hardness": settings.hardness[hardness],
                    "fold": int(fold),
                }
            )
    return records


def records_document(records: Sequence[dict[str, Any]], by: Sequence[str], suffix: str) -> str:
    """Returns what a file of records holds: a record a line, or as .json the published document.

    That has `annotations`, the records, and `source_datasets`, the names of the measures.
    """
    if suffix == ".json":
        return to_json({"annotations": list(records), "source_datasets": list(by)}, indent=1) + "\n"
    return "".join(to_json(record) + "\n" for record in records)


def balance_of(records: Sequence[dict[str, Any]], by: Sequence[str]) -> list[dict[str, Any]]:
    """Returns what each part holds, by measure and hardness, folds together.

    Returns:
      For each part `by`, `hardness`, `captions`, `images`, `similarity` (the mean of the false
      images), and `images_uneven` and `captions_uneven`: how many are not as often true as false.
      Balanced collections have none.
    """
    parts: dict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        parts[record["source_dataset"], record["hardness"]].append(record)
    rows = []
    order = list(HARDNESS)
    for (measure, hardness), own in sorted(
        parts.items(), key=lambda part: (part[0][0], order.index(part[0][1]))
    ):
        row: dict[str, Any] = {"by": by[measure], "hardness": hardness}
        for name, key in (("captions", "id"), ("images", "image_id")):
            sides: Counter[str] = Counter()
            for record in own:
                sides[record[key]] += -1 if record["falsified"] else 1
            row[name] = len(sides)
            row[f"{name}_uneven"] = sum(side != 0 for side in sides.values())
        row["similarity"] = sum(record["similarity_score"] for record in own) / len(own)
        rows.append(row)
    return rows
