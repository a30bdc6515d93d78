"""The tables of explanations, made of the experiments' JSON files."""

from typing import Any

from cells import fixed, markdown, read, share

EXPLAINERS = {
    "therapy": "Therapy, weights",
    "therapy, considered": "Therapy, considered words",
    "therapy, by reaction": "Therapy, reactions",
    "therapy, vocabulary": "Therapy, reactions, vocabulary",
    "lime": "LIME",
    "lime, other texts": "LIME, other texts",
    "shap": "KernelSHAP",
    "shap, other texts": "KernelSHAP, other texts",
}
PLACES = {
    "therapy": "weights",
    "considered": "considered",
    "by_reaction": "reactions",
    "vocabulary": "reactions, vocabulary",
    "lime_on_clean_texts": "LIME, clean reviews",
}


def therapy(name: str) -> str:
    """Returns how far explanations agree with one set's classifier."""
    ratings = read("therapy")[name]["explanations"]
    classes = list(ratings["therapy"]["classes"])
    head = ["explanation", *classes, "the first 20 right", "s"]
    rows = []
    for key, label in EXPLAINERS.items():
        own = ratings[key]["classes"]
        cells = [label]
        for one in classes:
            rank = own[one]["spearman"]["100"]
            cells.append(f"{_plain(rank['rho'])} [{_plain(rank['low'])}, {_plain(rank['high'])}]")
        cells += [", ".join(share(_first(own[one], 20)) for one in classes)]
        rows.append([*cells, fixed(ratings[key]["seconds"], 0)])
    return markdown(head, rows)


def _first(own: dict[str, Any], length: int) -> float:
    """Returns the share that is right of the first words."""
    return next(words["precision"] for words in own["words"] if words["length"] == length)


def _plain(value: float) -> str:
    return ("-" if value < 0 else "") + share(abs(value))


def therapy_moves(name: str) -> str:
    """Returns the share of texts whose class changes as words are put out and in."""
    ratings = read("therapy")[name]["explanations"]
    counts = ratings["therapy"]["moves"]["words"]
    shown = [count for count in counts if count in (1, 2, 4, 8)]
    head = ["words of", *(f"{count} out" for count in shown), *(f"{count} in" for count in shown)]
    labels = EXPLAINERS | {"glass box": "the classifier itself", "random words": "chance"}
    rows = []
    for key, label in labels.items():
        moves = ratings[key]["moves"]
        cells = [share(moves[how][counts.index(count)]) for how in ("put out", "put in")
                 for count in shown]  # fmt: skip
        rows.append([label, *cells])
    return markdown(head, rows)


def therapy_sizes() -> str:
    """Returns the rank correlation on 50, 100, 200 words and on the union, by explanation."""
    found = read("therapy")
    head = ["explanation", "data", "class", "50", "100", "200", "union of 100"]
    rows = []
    for name, own in found.items():
        if name == "settings":
            continue
        for key in ("therapy", "therapy, considered", "therapy, by reaction"):
            for one, rated in own["explanations"][key]["classes"].items():
                ranks = [_plain(rated["spearman"][size]["rho"])
                         for size in ("50", "100", "200", "union")]  # fmt: skip
                rows.append([EXPLAINERS[key], name, one, *ranks])
    return markdown(head, rows)


def therapy_examples() -> str:
    """Returns the first words of every class, and a text that was written for it."""
    rows = []
    for name, found in read("therapy").items():
        if name == "settings":
            continue
        for one, rated in found["explanations"]["therapy, by reaction"]["classes"].items():
            text = " ".join(found["examples"][one][0].split()).replace("|", "/")
            rows.append([name, one, ", ".join(rated["top"][:12]), f"{text[:160]} ..."])
    return markdown(["data", "class", "reactions", "a text that was written"], rows)


def therapy_planted() -> str:
    """Returns the place of every planted cue among the words of its class."""
    rows = []
    for cue in read("therapy_cases")["planted"]:
        places = [str(cue[key]) if cue[key] else "no" for key in PLACES]
        rows.append([cue["cue"], cue["class"], *places, str(cue["clean_texts_with_it"])])
    return markdown(["cue", "class", *PLACES.values(), "clean reviews with it"], rows)


def therapy_heads() -> str:
    """Returns the strongest words of packaged heads."""
    rows = []
    for name, found in read("therapy_cases")["heads"].items():
        for one, words in found["reactions"].items():
            accepted = share(found["fit"]["accepted"][one])
            rows.append([name, one, accepted, ", ".join(words[:10]),
                         ", ".join(found["considered"][one][:10])])  # fmt: skip
    return markdown(["head", "class", "accepted", "reactions", "considered"], rows)
