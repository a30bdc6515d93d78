"""The tables of what a second buys and of guides, made of the experiments' JSON files."""

from typing import Any

from cells import fixed, interval, markdown, read, rounded, share

FAMILIES = {
    "sample:top_p=0.9": "sampling, nucleus .9",
    "rerank:of=8": "best of 8, tuned",
    "rerank:of=16": "best of 16, tuned",
    "fudge:candidates=20": "FUDGE, 20 candidates, tuned",
    "fudge:score=value:candidates=20": "RAD, 20 candidates, tuned",
    "fudge:candidates=20:look_ahead=true:greedy=true:no_repeat_ngram=3": (
        "FUDGE with a distilled look-ahead head, greedy, tuned"
    ),
}

HUMAN = {"sst2": "sst2, 24 tokens", "amazon_reviews": "reviews, 24 tokens"}
JUDGES = {"sentiment-judge": "packaged judge", "judge-words": "judge of words"}
DEFAULT = "mcts:preset=default:simulations=128:wave=16"


def _method(name: str) -> str:
    if name in FAMILIES:
        return FAMILIES[name]
    options = dict(part.split("=", 1) for part in name.split(":")[1:])
    if name.startswith("smc"):
        return f"SMC, {options['samples']} particles, tuned"
    if name == DEFAULT:
        return "**search, the default preset** (128 simulations, wave 16)"
    root = {"default": "", "puct": " (PUCT)"}[options["preset"]]
    return f"search, {options['simulations']} simulations, wave {options['wave']}{root}"


def _signed(cell: dict[str, Any], decimals: int = 2) -> str:
    def one(value: float) -> str:
        return ("-" if value < 0 else "+") + share(abs(value), decimals)

    low, high = cell["interval"]
    return f"{one(cell['value'])} [{one(low)}, {one(high)}]"


def value_for_time() -> str:
    """Returns every method: seconds, three parts under two judges, perplexity, differences."""
    found = read("value_for_time")
    judges = found["settings"]["judges"]
    head = ["method", "s / text"]
    head += [f"{part}{', ' + judge if judge != judges[0] else ''}" for judge in judges
             for part in ("on target", "neither", "against")]  # fmt: skip
    head += ["perplexity", "less best of 8", "less best of 16"]
    rows = []
    for row in sorted(found["methods"], key=lambda row: row["seconds_per_text"]["value"]):
        cells = [_method(row["method"]), fixed(row["seconds_per_text"]["value"], 2)]
        for judge in judges:
            parts = row["judges"][judge]
            cells += [interval(parts["on_target"]), share(parts["neither"]["value"]),
                      share(parts["against"]["value"])]  # fmt: skip
        cells.append(rounded(row["perplexity"]["value"]))
        for base in ("rerank:of=8", "rerank:of=16"):
            against = row["against"].get(base)
            cells.append("" if against is None else _signed(against[judges[0]]))
        rows.append(cells)
    return markdown(head, rows)


def value_for_time_parts() -> str:
    """Returns what the guide and two judges say of every method's texts, and of human ones."""
    found = read("value_for_time_parts")
    judges = found["settings"]["judges"]
    head = ["texts", "perplexity", "guide"]
    head += [f"{part}, {JUDGES[judge]}" if part == "on target" else part for judge in judges
             for part in ("on target", "neither", "against", "gap")]  # fmt: skip
    rows = []
    for data, label in HUMAN.items():
        cells = [f"human texts, {label}", "", ""]
        for judge in judges:
            cells += [*_parts(found["human"][judge][data]), ""]
        rows.append(cells)
    for row in sorted(found["methods"], key=lambda row: row["perplexity"]["value"]):
        cells = [_method(row["method"]), rounded(row["perplexity"]["value"])]
        cells.append(share(row["guide"]["value"]))
        for judge in judges:
            own = row["judges"][judge]
            cells += [*_parts(own), _signed(own["gap"])]
        rows.append(cells)
    return markdown(head, rows)


def _parts(own: dict[str, Any]) -> list[str]:
    others = (share(own[part]["value"]) for part in ("neither", "against"))
    return [interval(own["on_target"]), *others]


def teachers() -> str:
    """Returns how often readers and the means of several are right, and how far ahead."""
    found = read("teachers")
    names = {
        found["guide"]: f"`{found['guide']}`: the guide",
        "sentiment-minilm": "`sentiment-minilm`",
    }
    rows = []
    for name, sets in found["readers"].items():
        several = name.split(" + ")
        cells = [names.get(name, name) if len(several) == 1 else f"mean of {' and '.join(several)}"]
        for cell in sets.values():
            cells.append(f"{share(cell['value'], 3)}")
            cells.append(_signed(cell["ahead"], 3) if "ahead" in cell else "")
        rows.append(cells)
    head = ["reader"]
    for data in found["texts"]:
        head += [HUMAN[data].split(",")[0], "ahead of the guide"]
    return markdown(head, rows)


def packaged_guides() -> str:
    """Returns how often the default model follows the packaged heads of several classes."""
    names = {
        "sample": "sampling, nucleus .9",
        "rerank": "best of 8, temperature .7, nucleus .9",
        "fudge": "FUDGE, 20 candidates, strength 4",
        "mcts:preset=values": "search, preset `values`",
        "mcts:preset=default": "search, default preset, 32 simulations",
    }
    files = {"packaged_guides": "openings", "packaged_guides_web": "web text"}
    rows = []
    for file, prompts in files.items():
        for guide, found in read(file)["guides"].items():
            for row in found["methods"]:
                judged = [interval(one["on_target"]) for one in row["judges"].values()]
                perplexity = rounded(row["perplexity"]["value"])
                rows.append([prompts, f"`{guide}`", names[row["method"]], *judged, perplexity])
    head = ["prompts", "head", "method", "on target, words", "on target, MiniLM", "perplexity"]
    return markdown(head, rows)


def prefixes() -> str:
    """Returns how well classifiers of full texts judge prefixes, beside guides."""
    found = read("prefixes")["guides"]
    names = {
        "tf-idf": "full texts: logistic regression on tf-idf",
        "MiniLM": "full texts: logistic regression on MiniLM's states",
        "sentiment-minilm": "prefixes: `sentiment-minilm`",
        "sentiment": "prefixes: `sentiment`",
    }
    lengths = list(found["sentiment"])
    rows = [
        [label]
        + [
            f"{share(row['accuracy'])} ({share(row['calibration_error'])})"
            for row in (found[name][length] for length in lengths)
        ]
        for name, label in names.items()
    ]
    counts = [str(found["sentiment"][length]["texts"]) for length in lengths]
    return markdown(["trained on", *lengths], [*rows, ["sentences", *counts]])
