"""The tables of the page on watermarks."""

import math
from statistics import median

from cells import fixed, markdown, read, share

from coopgen_jax.evaluation.metrics import wilson_interval


def watermark_rates() -> str:
    """Returns how often unmarked texts were called marked; the tests that users get stand out."""
    rates = read("watermarks")["rates"]
    levels = list(next(iter(rates.values())))
    rows = []
    for name, row in rates.items():
        window, _, test = name.removeprefix("h ").partition(", ")
        ours = "exact, each pair once" in test
        label = test if "once" in test else f"{test}, repeats scored"
        cells = [f"{row[level]['rate']:.1e}".replace("e-0", "e-") for level in levels]
        cells = [window, label, *cells]
        rows.append([f"**{cell}**" for cell in cells] if ours else cells)
    return markdown(
        ["window", "test", *(f"{float(level):.0e}".replace("e-0", "e-") for level in levels)], rows
    )


def watermark_strength() -> str:
    """Returns how surely marked texts are found, as written and changed."""
    attacks = ("none", "substitution", "deletion", "in human text")
    head = ["texts", "similarity", "perplexity", "median log10 p", "as written", *attacks[1:]]
    rows = []
    for name, row in read("watermarks")["strength"].items():
        cells = [
            name.replace(" h ", ", window "),
            share(row["similarity"], 3),
            fixed(row["perplexity"], 1),
        ]
        if row["window"] is None:
            rows.append([*cells, *[""] * 5])
            continue
        p = sorted(row["none"])
        median = (p[(len(p) - 1) // 2] + p[len(p) // 2]) / 2
        found = [share(sum(value <= -6 for value in row[a]) / len(row[a])) for a in attacks]
        rows.append([*cells, fixed(median, 1), *found])
    return markdown(head, rows)


def watermark_cost() -> str:
    """Returns a token's time with a mark and without one."""
    cost = read("watermarks")["cost"]
    middle = {name: sorted(values)[len(values) // 2] for name, values in cost.items()}
    rows = []
    for name, seconds in middle.items():
        base = middle["unmarked, top 50" if "top 50" in name else "unmarked"]
        rows.append([name, fixed(1000 * seconds, 1), fixed(seconds / base, 3)])
    return markdown(["8 texts", "ms a token", "ratio"], rows)


def found_at(log10_p: list[float], rate: float) -> float:
    """Returns the share of texts that are found at a false-positive rate."""
    return sum(value <= math.log10(rate) for value in log10_p) / len(log10_p)


def watermark_squad() -> str:
    """Returns how surely marked continuations of passages are found."""
    rows = [
        [
            name.replace(" h ", ", window "),
            fixed(row["perplexity"], 1),
            fixed(median(row["log10_p"]), 1),
            *(share(found_at(row["log10_p"], rate)) for rate in (1e-5, 1e-6)),
        ]
        for name, row in read("watermarks")["squad"].items()
    ]
    return markdown(["texts", "perplexity", "median log10 p", "at 1e-5", "at 1e-6"], rows)


def watermark_paraphrase() -> str:
    """Returns how surely texts are found in front of a paraphrase and behind it."""
    rows = []
    for name, row in read("watermarks")["paraphrase"].items():
        cells = [name.replace(" h ", ", window "), share(row["similarity"])]
        for when in ("before", "behind"):
            cells += [fixed(median(row[when]), 1), share(found_at(row[when], 1e-5))]
        rows.append(cells)
    head = ["texts", "similarity", "median log10 p before", "at 1e-5", "median behind", "at 1e-5"]
    return markdown(head, rows)


def watermark_users() -> str:
    """Returns how often the right user is named among many."""
    users = read("watermarks")["users"]
    counts = list(dict.fromkeys(name.rpartition(", ")[2] for name in users))
    schemes = dict.fromkeys(name.partition(",")[0] for name in users)
    rows = [
        [scheme, rate, *(share(users[f"{scheme}, {count}"][rate]) for count in counts)]
        for scheme in schemes
        for rate in ("0.001", "1e-06")
    ]
    return markdown(["scheme", "rate", *(f"{int(count):,} users" for count in counts)], rows)


def watermark_tasks() -> str:
    """Returns the shares of right answers with their intervals of 95 %."""
    tasks = read("watermarks")["tasks"]
    rows = []
    for name in next(iter(tasks.values())):
        cells = [name.replace(" h ", ", window ")]
        for answers in tasks.values():
            low, high = wilson_interval(sum(answers[name]), len(answers[name]))
            right = share(sum(answers[name]) / len(answers[name]))
            cells.append(f"{right} [{share(low)}, {share(high)}]")
        rows.append(cells)
    return markdown(["answers", *tasks], rows)
