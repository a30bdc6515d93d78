"""The tables of distinctive captioning, made of the experiment's JSON file."""

from typing import Any

from cells import fixed, interval, markdown, read, share

LABELS = {
    "mle": "teacher forcing",
    "wtf": "WTF",
    "rl": "RL",
    "wtf-rl": "WTF-RL",
    "rl-one-way": "RL, one way",
    "rl-alone": "RL, no regulariser",
    "rl-strongest": "RL, CLIP-S, strongest baseline",
    "scst": "SCST, discriminator",
    "scst-grammar": "SCST, grammar",
    "rerank": "teacher forcing, best of 10 beams",
    "fudge": "teacher forcing, FUDGE",
    "mcts": "teacher forcing, search",
    "human": "a human caption",
}
HEADS = {"scorer": "scorer", "judge": "judge", "all": "heads on all images"}


def _gallery(name: str) -> str:
    head = ["captions", "text to image, R@1", "R@5", "R@10", "MRR", "image to text, R@1"]
    head += ["CIDEr-D", "BLEU-4", "ROUGE-L", "self-BLEU-5", "words", "taken for human"]
    rows = []
    for row in read("captioning")["galleries"][name]["methods"]:
        cells = [LABELS[row["method"]], interval(row["text_to_image_recall_1"])]
        cells += [
            share(row[f"text_to_image_{figure}"]["value"])
            for figure in ("recall_5", "recall_10", "reciprocal_rank")
        ]
        cells.append(interval(row["image_to_text_recall_1"]))
        written = [_cell(row, "cider_d", interval), _cell(row, "bleu_4"), _cell(row, "rouge_l")]
        cells += [*written, share(row["self_bleu_5"]["value"]), fixed(row["length"]["value"], 1)]
        rows.append([*cells, _cell(row, "human", interval)])
    return markdown(head, rows)


def _cell(row: dict[str, Any], name: str, form: Any = None) -> str:
    if name not in row:
        return ""
    return share(row[name]["value"]) if form is None else form(row[name])


def captioning() -> str:
    """Returns the captions of all methods that are trained, on the gallery."""
    return _gallery("all")


def captioning_guided() -> str:
    """Returns the captions of all methods, guided ones too, on the first images of the gallery."""
    return _gallery("guided")


def captioning_ratios() -> str:
    """Returns the ratios of every method's figures to those of teacher forcing."""
    found = read("captioning")["galleries"]
    head = ["captions", "images", "text to image, R@1", "image to text, R@1", "CIDEr-D"]
    rows = []
    for gallery in found.values():
        for row in gallery["methods"]:
            guided = row["method"] in ("rerank", "fudge", "mcts")
            # A trained method's ratios are those of more images.
            if "ratio" not in row or (gallery is found["guided"]) != guided:
                continue
            cells = [
                "" if row["ratio"][name]["value"] is None else _ratio(row["ratio"][name])
                for name in ("text_to_image_recall_1", "image_to_text_recall_1", "cider_d")
            ]
            rows.append([LABELS[row["method"]], str(gallery["images"]), *cells])
    return markdown(head, rows)


def _ratio(cell: dict[str, Any]) -> str:
    low, high = cell["interval"]
    return f"{fixed(cell['value'], 2)} [{fixed(low, 2)}, {fixed(high, 2)}]"


def captioning_heads() -> str:
    """Returns how well the heads find human captions and their images on the gallery."""
    head = ["heads", "trained on images"]
    head += [f"{way}, {figure}" for way in ("image to text", "text to image")
             for figure in ("R@1", "R@5", "R@10")]  # fmt: skip
    rows = []
    for name, found in read("captioning")["heads"].items():
        cells = [HEADS[name], str(found["training_images"])]
        for way in ("image_to_text", "text_to_image"):
            cells.append(interval(found[way]["recall_1"]))
            cells += [share(found[way][f"recall_{cut}"]["value"]) for cut in (5, 10)]
        rows.append(cells)
    return markdown(head, rows)
