"""The tables of what a second buys and of guides, made of the experiments' JSON files."""

from typing import Any

from cells import fixed, interval, markdown, read, rounded, share

FAMILIES = {
    "sample:top_p=0.9": "sampling, nucleus .9",
    "rerank:of=8": "best of 8, tuned",
    "rerank:of=16": "best of 16, tuned",
    "fudge:candidates=20": "FUDGE, 20 candidates, tuned",
    "fudge:candidates=20:look_ahead=true:greedy=true:no_repeat_ngram=3": (
        "FUDGE with a distilled look-ahead head, greedy, tuned"
    ),
}


def _method(name: str) -> str:
    if name in FAMILIES:
        return FAMILIES[name]
    options = dict(part.split("=", 1) for part in name.split(":")[1:])
    root = {"default": "", "puct": " (PUCT)"}[options["preset"]]
    return f"search, {options['simulations']} simulations, wave {options['wave']}{root}"


def _signed(cell: dict[str, Any]) -> str:
    def one(value: float) -> str:
        return ("-" if value < 0 else "+") + share(abs(value))

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
