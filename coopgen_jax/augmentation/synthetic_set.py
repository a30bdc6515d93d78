"""The training set that was written: its rows, and the report on it."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from typing import Any

from coopgen_jax.augmentation.filters import REASONS
from coopgen_jax.augmentation.memorisation import memorisation
from coopgen_jax.augmentation.synthetic_texts import ENOUGH
from coopgen_jax.data.labelled import Labelled
from coopgen_jax.decoding.rules.watermark_key import WatermarkKey
from coopgen_jax.files import to_json
from coopgen_jax.tokenizer import Tokenizer
from coopgen_jax.watermark.detection import detect

# A text and its class, then where it comes from.
COLUMNS = (
    "text", "label", "opening", "seed_text", "method", "p_guide", "p_filter", "log_prob", "tokens",
    "longest_run", "watermark",
)  # fmt: skip
# The false-positive rate at which texts are counted as recognised.
RATE = 1e-3


def training_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the rows that are kept, in the columns of a training file."""
    return [
        {name: row["class" if name == "label" else name] for name in COLUMNS}
        for row in rows
        if row["reason"] is None
    ]


def in_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Returns rows as CSV with a header; what is not there is empty."""
    written = io.StringIO()
    # Else a text that has a carriage return and nothing else to quote would end its line there.
    table = csv.DictWriter(written, COLUMNS, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    table.writeheader()
    table.writerows(rows)
    return written.getvalue()


def in_json_lines(rows: Sequence[dict[str, Any]]) -> str:
    """Returns rows as JSON, one a line."""
    return "".join(to_json(row) + "\n" for row in rows)


def counts_by_class(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns how many texts of each class were `tried` and `kept`, and why others were left out.

    `left_out` has the reasons that left any text out, with their numbers of texts.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(row["class"] for row in rows):
        reasons = Counter(row["reason"] for row in rows if row["class"] == name)
        found[name] = {
            "tried": reasons.total(),
            "kept": reasons[None],
            "left_out": {why: reasons[why] for why in (*REASONS, ENOUGH) if reasons[why]},
        }
    return found


def recognition(texts: Sequence[str], key: WatermarkKey, tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns how surely a key's mark is found in texts.

    Short texts hold too few tokens to be recognised alone; all together they hold many.

    Returns:
      The `key`, the false-positive rate `fpr`, how many of the texts are `recognised` alone at that
      rate, and `log10_p`, that of the p-value of all texts together.
    """
    alone = detect(texts, key=key, tokenizer=tokenizer, fpr=RATE)
    (together,) = detect(["\n".join(texts)], key=key, tokenizer=tokenizer, fpr=RATE)
    return {
        "key": key.identity,
        "fpr": RATE,
        "texts": len(texts),
        "recognised": sum(one.marked for one in alone),
        "log10_p": together.log10_p,
    }


def set_report(
    rows: Sequence[dict[str, Any]],
    originals: Labelled,
    *,
    near: float,
    key: WatermarkKey | None,
    tokenizer: Tokenizer,
) -> dict[str, Any]:
    """Returns the report on what was written.

    Returns:
      `classes` (see `counts_by_class`), `memorisation` of the texts that are kept against all
      originals, by words and pairs of words (see `memorisation.memorisation`), `watermark` (see
      `recognition`; None without a key) and the `seconds` that writing took.
    """
    texts = [row["text"] for row in training_rows(rows)]
    return {
        "classes": counts_by_class(rows),
        "memorisation": memorisation(texts, originals.texts, near=near),
        "watermark": recognition(texts, key, tokenizer) if key is not None and texts else None,
        "seconds": round(sum(row["seconds"] for row in rows), 3),
    }
