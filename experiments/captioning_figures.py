"""The figures, the table, the picture and the page of `experiments.captioning`."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from coopgen_jax.bulk.growing_file import rows_in
from coopgen_jax.evaluation.tables import render
from coopgen_jax.files import read_json, replacing, strict, write_json
from experiments.caption_methods import FORCED, GUIDED, METHODS
from experiments.caption_scene import Heads, caption_states
from experiments.captioning_measures import (
    Draws,
    Measured,
    difference,
    of_seed,
    pooled,
    row_of,
)

if TYPE_CHECKING:
    from experiments.captioning import World

# What is asked of the table: the first less the second.
PAIRS = (
    ("wtf", FORCED), ("rl", FORCED), ("wtf-rl", FORCED), ("wtf-rl", "rl"), ("rl", "rl-one-way"),
    ("rl", "rl-alone"), ("rl", "rl-strongest"), ("rl", "scst"), ("scst", "scst-grammar"),
    *((name, other) for name in GUIDED for other in (FORCED, "rl", "wtf-rl")),
)  # fmt: skip
HUMAN = "human"
LABELS = {
    FORCED: "teacher forcing", "wtf": "WTF", "rl": "RL", "wtf-rl": "WTF-RL",
    "rl-one-way": "RL, one way", "rl-alone": "RL, no regulariser",
    "rl-strongest": "RL, strongest baseline", "scst": "SCST, discriminator",
    "scst-grammar": "SCST, grammar", "rerank": "best beam", "fudge": "FUDGE", "mcts": "search",
    HUMAN: "a human caption",
}  # fmt: skip
SHOWN = 20
NOTICE = (
    "Made of Flickr8k (Hodosh, Young and Hockenmaier 2013). For research only: not to be passed on."
)


def report(world: "World") -> None:
    """Measures all captions that the work folder has, and writes figures, picture and page."""
    config, scene = world.config, world.scene
    written = captions_of(world)
    if not any(FORCED in found for found in written.values()):
        raise SystemExit(f"there are no captions of {FORCED}: run the stage captions")
    heads = {name: world.heads(name) for name in ("judge", "scorer")}
    gallery = scene.of("gallery")
    galleries = {"all": gallery, "guided": gallery[: config.guided]}
    result: dict[str, Any] = {
        "settings": settings_of(world),
        "seeds": list(written),
        "seconds": seconds_of(config.work),
        "heads": {name: _retrieval(config.work / "clip" / name) for name in ("scorer", "judge",
                                                                             "all")},
        "galleries": {},
    }  # fmt: skip
    for name, images in galleries.items():
        found = measured(world, heads, written, images)
        draws = Draws(len(images))
        rows = [
            row_of(method, own, draws, found[FORCED] if method != FORCED else None)
            for method, own in found.items()
            if method != HUMAN
        ]
        rows.append(row_of(HUMAN, found[HUMAN], draws, None))
        pairs = [
            {"pair": list(pair)} | difference(found[pair[0]], found[pair[1]], draws)
            for pair in PAIRS
            if pair[0] in found and pair[1] in found
        ]
        result["galleries"][name] = {"images": len(images), "methods": rows, "pairs": pairs}
        print(f"{len(images)} images", table(rows), sep="\n")
    write_json(config.out / "captioning.json", strict(result))
    draw(result["galleries"], config.out / "captioning.png")
    write_page(world, next(iter(written.values())), config.work / "twenty.html")


def captions_of(world: "World") -> dict[int, dict[str, list[str]]]:
    """Returns by seed and method the captions of the gallery, where all of them are written."""
    scene, config = world.scene, world.config
    gallery = [scene.names[image] for image in scene.of("gallery")]
    found: dict[int, dict[str, list[str]]] = {}
    for folder in sorted(config.work.glob("seed-*")):
        for name in METHODS:
            path = folder / "captions" / f"{name}.jsonl"
            wanted = gallery[: config.guided] if name in GUIDED else gallery
            rows = rows_in(path) if path.exists() else []
            if [row["image"] for row in rows] == wanted:
                own = found.setdefault(int(folder.name.partition("-")[2]), {})
                own[name] = [row["caption"] for row in rows]
    return found


def measured(
    world: "World",
    heads: dict[str, Heads],
    written: dict[int, dict[str, list[str]]],
    images: Sequence[int],
) -> dict[str, Measured]:
    """Returns the measures of every method that has captions of all these images, and of humans.

    As a human caption of an image one of those that people wrote counts, another place for another
    image.
    """
    scene = world.scene
    own = {name: one.images(scene.states[list(images)]) for name, one in heads.items()}

    def vectors(states: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return {name: (one.texts(states), own[name]) for name, one in heads.items()}

    references = [scene.captions[image] for image in images]
    chosen = [row % len(texts) for row, texts in enumerate(references)]
    human = [texts[place] for place, texts in zip(chosen, references, strict=True)]
    parts: dict[str, list[Measured]] = {}
    for seed in written.values():
        for name in METHODS:
            captions = seed.get(name, [])[: len(images)]
            if len(captions) == len(images):
                states = caption_states(world.encoder, captions, world.config.work)
                parts.setdefault(name, []).append(
                    of_seed(captions, vectors(states), references, human)
                )
    of_human = np.stack(
        [scene.caption_states[image][place] for image, place in zip(images, chosen, strict=True)]
    )
    parts[HUMAN] = [of_seed(human, vectors(of_human), None, None)]
    return {name: pooled(own) for name, own in parts.items()}


def settings_of(world: "World") -> dict[str, Any]:
    """Returns the settings that say how much was done, and the sizes of groups of images."""
    config = world.config
    names = ("clip_epochs", "vocabulary", "layers", "width", "prefix", "longest", "rows", "epochs",
             "learning_rate", "rounds", "round_images", "samples", "temperature",
             "reward_rate",
             "discriminator_rate", "offset", "beams", "new_tokens", "guided", "others",
             "candidates", "strength", "simulations", "alpha", "dtype")  # fmt: skip
    found = {name: getattr(config, name) for name in names}
    found["images"] = {name: len(own) for name, own in world.scene.groups.items()}
    found["scorer_temperature"] = world.heads("scorer").temperature
    return found


def seconds_of(work: Path) -> dict[str, dict[str, float]]:
    """Returns the seconds of every stage: those of all seeds, and those of each."""
    found = {}
    for folder in (work, *sorted(work.glob("seed-*"))):
        if (folder / "seconds.json").exists():
            found["shared" if folder == work else folder.name] = read_json(folder / "seconds.json")
    return found


def _retrieval(folder: Path) -> dict[str, Any]:
    card = read_json(folder / "card.json")
    return {"training_images": card["images"]} | card["retrieval"]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns methods as a table."""
    names = ("text_to_image_recall_1", "text_to_image_recall_5", "image_to_text_recall_1",
             "bleu_4", "rouge_l", "cider_d", "self_bleu_5", "human", "length")  # fmt: skip
    lines = [["method", *names]]
    for row in rows:
        cells = [LABELS[row["method"]]]
        for name in names:
            cell = row.get(name)
            if cell is None:
                cells.append("")
                continue
            ends = cell["interval"]
            around = "" if ends is None else " [{:.3f}, {:.3f}]".format(*ends)
            cells.append(f"{cell['value']:.3f}{around}")
        lines.append(cells)
    return render(lines, "text")


def draw(galleries: dict[str, Any], path: Path) -> None:
    """Draws retrieval against writing, once among all images and once among the guided ones."""
    figure = Figure(figsize=(12, 5.4), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, gallery in zip(axes, galleries.values(), strict=True):
        for row in gallery["methods"]:
            if "cider_d" not in row:
                continue
            guided = row["method"] in GUIDED
            color = "C1" if guided else "k" if row["method"] == FORCED else "C0"
            x, y = row["cider_d"], row["text_to_image_recall_1"]
            errors = [
                [[cell["value"] - cell["interval"][0]], [cell["interval"][1] - cell["value"]]]
                for cell in (x, y)
            ]
            axis.errorbar(
                x["value"], y["value"], yerr=errors[1], xerr=errors[0], fmt="o", color=color,
                ecolor=(0.6, 0.6, 0.6, 0.4),
            )  # fmt: skip
            axis.annotate(LABELS[row["method"]], (x["value"], y["value"]), (5, 5),
                          textcoords="offset points", fontsize=8)  # fmt: skip
        axis.set(
            xlabel="CIDEr-D against human captions (higher is better)",
            ylabel="captions that find their image first, by the judge",
            title=f"{gallery['images']} images",
        )
        axis.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def write_page(world: "World", captions: dict[str, list[str]], path: Path) -> None:
    """Writes a page of images, which it names by their path, with the captions of every method."""
    scene, config = world.scene, world.config
    guided = scene.of("gallery")[: config.guided]
    places = np.unique(np.linspace(0, len(guided) - 1, SHOWN).astype(int))
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>Captions</title>",
        "<style>body{font:15px sans-serif;max-width:60em;margin:auto}section{display:flex;gap:1em;"
        "margin:1em 0}img{width:224px;height:224px}td{padding:0 .6em .2em 0}</style>",
        f"<p><b>{html.escape(NOTICE)}</b></p>",
    ]
    for place in places:
        image = guided[place]
        source = html.escape((config.data / "images" / scene.names[image]).resolve().as_uri())
        rows = [(LABELS[HUMAN], scene.captions[image][place % len(scene.captions[image])])]
        rows += [(LABELS[name], own[place]) for name, own in captions.items()]
        cells = "".join(
            f"<tr><td>{html.escape(label)}</td><td>{html.escape(text)}</td></tr>"
            for label, text in rows
        )
        parts.append(f'<section><img src="{source}" alt=""><table>{cells}</table></section>')
    with replacing(path) as (unfinished,):
        unfinished.write_text("\n".join(parts) + "\n", encoding="utf-8")
