"""The tables of the pages of results, made of the JSON files that the experiments write."""

from collections.abc import Callable, Sequence
from typing import Any

from captioning_tables import (
    captioning,
    captioning_guided,
    captioning_heads,
    captioning_ratios,
)
from cells import fixed, interval, markdown, read, rounded, share
from explanation_tables import (
    therapy,
    therapy_examples,
    therapy_heads,
    therapy_moves,
    therapy_planted,
    therapy_sizes,
)
from value_tables import (
    packaged_guides,
    prefixes,
    teachers,
    value_for_time,
    value_for_time_parts,
)
from watermark_tables import (
    watermark_cost,
    watermark_paraphrase,
    watermark_rates,
    watermark_squad,
    watermark_strength,
    watermark_tasks,
    watermark_users,
)

METHODS = {
    "greedy": "greedy",
    "gedi": "GeDi",
    "pplm": "PPLM",
    "sample:top_p=0.9": "nucleus 0.9",
    "sample:control_code": "CC-LM, nucleus 0.9",
    "sample:expert": "DExperts, weight 2, nucleus 0.9",
    "rerank:of=20": "sampling-argmax, best of 20",
    "rerank:beams=10": "beam-argmax, 10 beams",
    "fudge": "FUDGE",
    "fudge:score=value": "RAD (`fudge` by value, strength 10)",
    "smc:samples=4": "SMC, 4 particles",
    "mcts:trunk": "MCTS, shared trunk (32 simulations)",
    "mcts:causal": "MCTS, causal (32)",
    "mcts:generative": "MCTS, generative (32)",
    "mcts:sentiment-minilm": "MCTS, bidirectional (MiniLM, 16)",
}


def method_label(method: str) -> str:
    """Returns what readers call a method of `coopgen compare`."""
    name, *options = method.split(":")
    settings = dict(option.split("=", 1) for option in options if "=" in option)
    if name == "mcts":
        guide = settings.get("discriminator", "trunk").rsplit("/", 1)[-1]
        return METHODS[f"mcts:{guide}"]
    for mark in ("control_code", "expert", "of", "beams", "score", "samples", "top_p"):
        exact = f"{name}:{mark}={settings.get(mark)}"
        for key in (exact, f"{name}:{mark}", f"{name}:{mark}={settings.get(mark, '')}"):
            if mark in settings and key in METHODS:
                return METHODS[key]
    return METHODS[f"{name}:score=value" if settings.get("score") == "value" else name]


def comparison(
    name: str, *, lengths: bool = False, decimals: Callable[[float], str] = rounded
) -> str:
    """Returns the table of a comparison of methods (`experiments/domain.py`)."""
    head = ["method", "on target", "oracle perplexity", "self-BLEU-5"]
    head += ["tokens"] * lengths + ["ms / token"]
    rows = []
    for row in read(name)["methods"]:
        seconds = 1000 * row["seconds_per_token"]["value"]
        rows.append(
            [
                method_label(row["method"]),
                interval(row["accuracy"]),
                decimals(row["perplexity"]["value"]),
                share(row["self_bleu_5"]["value"]),
                *([fixed(row["length"]["value"], 1)] if lengths else []),
                fixed(seconds, 1) if name == "polarity_fr" else fixed(seconds, 0),
            ]
        )
    return markdown(head, rows)


def which_discriminator() -> str:
    """Returns how well four kinds of discriminator guide, and how well they judge."""
    figures = read("which_discriminator")
    names = {
        "shared-trunk": "shared trunk",
        "causal": "causal",
        "generative": "generative",
        "bidirectional": "bidirectional (MiniLM)",
    }

    def judged(kind: str, data: str) -> str:
        cells = figures["accuracy"][kind][data]
        return f"{share(cells['whole']['accuracy'])} ({share(cells['8']['accuracy'])})"

    head = ["guide", "sst2, full text (after 8 tokens)", "reviews", "simulations", "on target"]
    head += ["oracle perplexity", "self-BLEU-5", "s / token"]
    rows, order = [], list(names)
    for row in sorted(figures["guides"], key=lambda row: order.index(row["method"].split(",")[0])):
        kind, simulations = row["method"].split(", ")
        first = not any(names[kind] == known[0] for known in rows)
        of_kind = [names[kind], judged(kind, "sst2"), judged(kind, "amazon_reviews")]
        rows.append(
            [
                *(of_kind if first else [""] * 3),
                simulations.split()[0],
                interval(row["all"], "share"),
                fixed(row["oracle_perplexity"], 1),
                share(row["self_bleu_5"], 3),
                fixed(row["seconds_per_token"], 2),
            ]
        )
    return markdown(head, rows)


def budget() -> str:
    """Returns what one setting at a time does to the search."""
    head = ["changed", "value", "on target", "mean p", "perplexity", "s / token"]
    names = {"PUCT": "simulations, puct", "halving": "simulations, halving"}
    presets = {"wave": "halving", "c_puct": "puct", "alpha": "halving", "rollout": "puct"}
    rows = []
    for row in read("budget")["rows"]:
        setting, value = row["method"].split("=")
        rows.append(
            [
                names.get(setting) or f"{setting}, {presets[setting]}",
                value,
                interval(row["all"], "share"),
                share(row["all"]["mean_probability"]),
                fixed(row["perplexity"], 2),
                fixed(row["seconds_per_token"], 2),
            ]
        )
    return markdown(head, rows)


def budget_preset() -> str:
    """Returns the default preset beside fewer simulations, on all prompts."""
    head = ["simulations", "wave", "on target", "mood against", "mean p", "perplexity", "s / text"]
    names = {
        "halved-32-8": ["32", "8"],
        "halved-64-8": ["64", "8"],
        "default": ["128: the default preset", "16"],
    }
    rows = [
        [
            *names[row["method"]],
            interval(row["all"], "share"),
            interval(row["against"], "share"),
            share(row["all"]["mean_probability"]),
            fixed(row["perplexity"], 2),
            fixed(row["seconds_per_text"], 1),
        ]
        for row in read("budget_preset")["rows"]
    ]
    return markdown(head, rows)


def waves() -> str:
    """Returns waves of several sizes beside lock step."""
    head = ["search", "simulations", "wave", "on target", "perplexity", "deepest node", "s / token"]
    names = {"paper": "as published", "default": "halved: **the default preset**"}
    names |= {"lock-step": "lock step", "halving": "halved"}
    rows = []
    for row in read("waves"):
        kind, number = row["method"].rsplit("-", 1)
        wave = "1" if kind in ("paper", "lock-step") else number
        label = names.get(kind, kind)
        rows.append(
            [
                "spread: the preset puct" if row["method"] == "spread-4" else label,
                fixed(row["simulations_per_token"], 0),
                wave,
                interval(row["all"], "share"),
                fixed(row["perplexity"], 1),
                fixed(row["deepest"], 0),
                fixed(row["seconds_per_token"], 2),
            ]
        )
    return markdown(head, rows)


def sentiment() -> str:
    """Returns the default model, untuned, under five decoders."""
    head = ["method", "on target", "mood with", "neutral", "mood against", "perplexity"]
    head += ["3-gram repetition", "distinct-2", "self-BLEU-5", "s / text"]
    names = {
        "greedy": "greedy",
        "nucleus": "nucleus 0.9",
        "trunk": "**MCTS, shared trunk** (default preset)",
        "puct": "MCTS, shared trunk (`--preset puct`)",
        "bidirectional": "MCTS, bidirectional (20 simulations)",
        "sampled-visits": "MCTS, shared trunk (`--preset puct`), visits sampled",
    }
    found = {row["method"]: row for row in read("sentiment")}
    rows = [
        [
            label,
            *(interval(found[name][part], "share") for part in ("all", "with", "neutral")),
            interval(found[name]["against"], "share"),
            fixed(found[name]["perplexity"], 2),
            fixed(found[name]["repetition_3"], 4),
            fixed(found[name]["distinct_2"], 2),
            fixed(found[name]["self_bleu_5"], 2),
            fixed(found[name]["seconds_per_text"], 1),
        ]
        for name, label in names.items()
    ]
    return markdown(head, rows)


def detox() -> str:
    """Returns how toxic texts are under a classifier of one's own."""
    found = {row["method"]: row for row in read("detox")["methods"]}
    rows = []
    for name in ("greedy", "nucleus 0.9", "FUDGE", "MCTS, 32 simulations"):
        row = found[name]
        low, high = row["interval"]
        mean = f"{share(row['p_toxic'], 3)} [{share(low)}, {share(high)}]"
        rows.append([name, share(row["toxic"]), mean, fixed(row["perplexity"], 1)])
    return markdown(["", "judged toxic", "mean p(toxic)", "perplexity"], rows)


def _seeds(values: Sequence[float], decimals: int) -> str:
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{mean:.{decimals}f}".removeprefix("0")
    half = (max(values) - min(values)) / 2
    cells = [f"{value:.{decimals}f}" for value in (mean, half)]
    return f"{cells[0]} ± {cells[1]}"


def _captions_row(label: str, runs: list[dict[str, Any]], at: str = "1.0") -> list[str]:
    measured = [run["measured"][at] for run in runs]
    last = [run["last"] for run in runs if "last" in run]
    several = len(runs) > 1 and at == "1.0"

    def figure(key: str) -> str:
        values = [cell[key] for cell in measured]
        if key == "perplexity":
            mean = fixed(sum(values) / len(values), 0)
            return f"{mean} ± {(max(values) - min(values)) / 2:.0f}" if several else mean
        text = _seeds(values, 3) if several else fixed(sum(values) / len(values), 3)
        return text.replace("0.", ".") if several or at != "1.0" else share(values[0])

    shares = [
        [line["effective_share"] for line in run["rounds"] if "effective_share" in line]
        for run in runs
        if "rounds" in run
    ]
    means = [sum(line) / len(line) for line in shares if line]
    effective = share(sum(means) / len(means)) if means and "SelfGAN" not in label else ""
    if label.startswith("maximum likelihood"):
        loss, divergence = _seeds([run["start"]["loss"] for run in runs], 2), "0"
    elif last:
        loss = _seeds([run["loss"] for run in last], 2)
        kl = [run["kl_to_start"] for run in last]
        divergence = f"{sum(kl) / len(kl):.{1 if sum(kl) / len(kl) > 5 else 2}f}"
    else:
        loss = divergence = ""
    cells = [loss.replace("± 0.", "± ."), divergence]
    return [label, *cells, figure("bleu"), figure("self_bleu"), figure("perplexity"), effective]


def captions() -> str:
    """Returns what cooperative training does to a generator of captions, over three seeds."""
    results = read("gcn_unconditional")["results"]
    head = ["", "held-out nats per token", "KL to start", "BLEU-4", "self-BLEU-4", "perplexity"]
    start = [{"start": run["start"]} for run in results["more maximum likelihood"]]
    begun = [run | first for run, first in zip(results["maximum likelihood"], start, strict=True)]
    rows = [
        _captions_row("human captions", results["people"]),
        _captions_row("maximum likelihood, the start", begun),
        _captions_row("the same at temperature 0.85", results["maximum likelihood"], "0.85"),
    ]
    for name, runs in results.items():
        if name not in ("people", "maximum likelihood"):
            label = name.replace("GAN, division by Z", "GAN, division by Z (GCN, the generator)")
            label = name if name.endswith("SGD") else label
            rows.append(_captions_row(label, runs))
    return markdown([*head, "effective"], rows)


def questions() -> str:
    """Returns questions about a sentence, before and after cooperative training, in percent."""
    figures = read("gcn_questions")["figures"]
    head = ["", "", "BLEU-4", "ROUGE-1", "ROUGE-L", "words", "Base", "Base+"]
    names = {"beam": "beam search", "DAS local": "DAS, local", "DAS global": "DAS, global"}

    def percent(cell: dict[str, Any]) -> str:
        value, (low, high) = cell["value"], cell["interval"]
        return f"{100 * value:.0f} [{100 * low:.0f}, {100 * high:.0f}]"

    rows = []
    for model, decoders in figures.items():
        label = {"people": "human questions", "gcn": "GCN"}.get(model, model)
        for number, (decoder, row) in enumerate(decoders.items()):
            plain = [
                fixed(100 * row[key], 1) for key in ("bleu_4", "rouge_1", "rouge_l") if key in row
            ]
            words = [fixed(row["words"], 1)] if "words" in row else []
            rows.append(
                [
                    "" if number else label,
                    "" if model == "people" else names.get(decoder, decoder),
                    *((plain + words) or [""] * 4),
                    percent(row["base"]),
                    percent(row["base_plus"]),
                ]
            )
    return markdown(head, rows)


TABLES: dict[str, Callable[[], str]] = {
    "polarity": lambda: comparison("polarity"),
    "polarity_fr": lambda: comparison("polarity_fr"),
    "emotion": lambda: comparison("emotion", lengths=True),
    "topic": lambda: comparison("topic"),
    "which_discriminator": which_discriminator,
    "budget": budget,
    "budget_preset": budget_preset,
    "waves": waves,
    "sentiment": sentiment,
    "detox": detox,
    "captions": captions,
    "captioning": captioning,
    "captioning_guided": captioning_guided,
    "captioning_heads": captioning_heads,
    "captioning_ratios": captioning_ratios,
    "questions": questions,
    "value_for_time": value_for_time,
    "value_for_time_parts": value_for_time_parts,
    "teachers": teachers,
    "packaged_guides": packaged_guides,
    "prefixes": prefixes,
    "therapy": lambda: therapy("amazon_reviews"),
    "therapy_news": lambda: therapy("ag_news"),
    "therapy_moves": lambda: therapy_moves("amazon_reviews"),
    "therapy_news_moves": lambda: therapy_moves("ag_news"),
    "therapy_sizes": therapy_sizes,
    "therapy_examples": therapy_examples,
    "therapy_planted": therapy_planted,
    "therapy_heads": therapy_heads,
    "watermark_rates": watermark_rates,
    "watermark_strength": watermark_strength,
    "watermark_squad": watermark_squad,
    "watermark_paraphrase": watermark_paraphrase,
    "watermark_users": watermark_users,
    "watermark_tasks": watermark_tasks,
    "watermark_cost": watermark_cost,
}
