"""What the pages speak of, tiny: data files, the default model, a head, a judge and an oracle."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.tree_util import tree_flatten_with_path
from PIL import Image

from coopgen_jax.data.fingerprint import fingerprint, write_fingerprint
from coopgen_jax.discriminators.head import Head, HeadConfig
from coopgen_jax.models.efficientnet import EfficientNetConfig, Stage, efficientnet_shapes
from coopgen_jax.models.encoder import EncoderConfig, init_encoder
from coopgen_jax.models.pretrained.image_networks import efficientnet_sources
from coopgen_jax.models.pretrained.loaded_model import load
from coopgen_jax.models.pretrained.packaged import PACKAGED
from coopgen_jax.models.pretrained.saving import save_encoder, save_model
from coopgen_jax.models.transformer import init_decoder
from coopgen_jax.testing.toy import TINY_LLAMA
from coopgen_jax.tokenizer import Tokenizer
from coopgen_jax.training.card import save_head
from coopgen_jax.training.recipes.scratch import train_tokenizer
from tests.docs.pages import ROOT
from tests.tiny_encoder import make_encoder

CLASSES = ("negative", "positive")
NOUNS = ("film", "phone", "book", "song", "lamp", "boat", "chair", "coat")
WORDS = {"negative": "dull", "positive": "fine"}
# Folders that a page names and no command of its own makes: what they are, and for which model.
FOLDERS = {
    "how-to/compare_and_rate.md": {"guide": "model"},
    "how-to/combine_models.md": {"guide": "tuned"},
}
# Pages that name a Hugging Face classifier, and what they call its folder.
CLASSIFIERS = {"how-to/bring_your_classifier.md": "classifier"}
# Pages that name a CLIP.
CLIPS = {
    "how-to/evaluate_captions.md": "clip",
    "how-to/images.md": "clip",
    "how-to/out_of_context_pairs.md": "clip",
}
# Pages that name a vision-language model.
VISION_LANGUAGE = {"how-to/write_captions.md": "smolvlm"}
TINY_LITE = EfficientNetConfig(
    stem=4, stages=(Stage(1, 3, 2, 2, 4),), width=8, classes=2, image_size=8
)


def build(folder: Path) -> Path:
    """Writes everything that is the same for all pages."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer([f"This {noun} was great and dull" for noun in NOUNS], 300)
    for number, name in enumerate(("model", "tuned", "oracle")):
        write_model(folder / name, tokenizer, seed=number)
    write_fingerprint(folder / "oracle", fingerprint(["an oracle's own row"]))
    (folder / "oracle" / "card.json").write_text('{"kind": "language model"}')
    write_head(folder / "heads" / "sentiment", folder / "model", 0, "a head's own row")
    write_head(folder / "judge", folder / "model", 1, "a judge's own row")
    write_data(folder)
    write_backbone(folder / "backbone")
    write_encoder(folder / "encoder")
    write_pictures(folder / "pictures")
    write_news(folder / "news")
    return folder


def write_model(folder: Path, tokenizer: Tokenizer, seed: int) -> None:
    config = replace(
        TINY_LLAMA,
        vocab_size=tokenizer.vocab_size,
        layers=2,
        context=256,
        end_tokens=tokenizer.end_tokens,
    )
    params = init_decoder(jax.random.key(seed), config)
    save_model(folder, config, params, tokenizer, dtype="float32")


def write_head(folder: Path, base: Path, seed: int, *rows: str) -> None:
    """Writes a head of random weights on the states of a model."""
    model = load(base)
    config = HeadConfig(CLASSES, 2 * model.config.width, ())
    params = Head(config).init(jax.random.key(seed), jnp.zeros((1, config.inputs)))["params"]
    params["output"]["kernel"] = 5 * params["output"]["kernel"]
    card = {
        "kind": "shared-trunk",
        "name": folder.name,
        "classes": list(CLASSES),
        "hidden": [],
        "reads_prompt": False,
        "model": "smollm2-135m",
        "model_sha256": model.sha256,
        "taps": [2],
        "terms": "for tests",
        "licence": "Apache-2.0",
    }
    save_head(folder, params, card)
    write_fingerprint(folder, fingerprint(rows))


def write_backbone(folder: Path) -> None:
    """Writes a tiny network in place of the packaged one that sees images."""
    sources = efficientnet_sources(TINY_LITE)
    rng = np.random.default_rng(0)
    tensors = {}
    for path, leaf in tree_flatten_with_path(efficientnet_shapes(TINY_LITE))[0]:
        source = sources["/".join(entry.key for entry in path)]
        values = rng.normal(size=leaf.shape).astype(np.float32)
        # Where all states are below 0 or above 6, ReLU6 makes all pictures alike.
        if source.name.endswith("running_var"):
            values = 1 + np.abs(values)
        elif values.ndim == 1:
            values = 0.5 + 0.1 * values
        tensors[source.name] = torch.from_numpy(values.T if source.transposed else values)
    folder.mkdir()
    name = PACKAGED["efficientnet-lite0"].weights
    torch.save(tensors, folder / name, _use_new_zipfile_serialization=False)


def write_encoder(folder: Path) -> None:
    """Writes a tiny network in place of the packaged one that reads captions."""
    config = EncoderConfig(vocab_size=6, layers=1, width=8, heads=2, ffn_width=8, context=64)
    params = init_encoder(jax.random.key(0), config)
    save_encoder(folder, config, params, make_encoder().tokenizer, dtype="float32")


def write_pictures(folder: Path) -> None:
    """Writes pictures of one colour each, with two captions each, some for validation."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows: dict[str, list[tuple[str, str]]] = {"train": [], "validation": []}
    for number, noun in enumerate(NOUNS):
        name = f"{noun}.jpg"
        colour = tuple(rng.integers(0, 256, 3).tolist())
        Image.new("RGB", (20, 16), colour).save(folder / "images" / name)
        own = rows["validation" if number > 5 else "train"]
        own += [(name, f"A {noun} in a garden ."), (name, f"There is a {noun} .")]
    for part, captions in rows.items():
        with (folder / f"{part}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("image", "caption"), *captions])


def write_news(folder: Path) -> None:
    """Writes pictures with two captions each; those of every second one name somebody."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(1)
    rows = [("image", "caption")]
    for number in range(24):
        colour = tuple(rng.integers(0, 256, 3).tolist())
        Image.new("RGB", (20, 16), colour).save(folder / "images" / f"{number}.png")
        what = f"{NOUNS[number % 8]} {number}"
        named = (f"Barack Obama with a {what} in Paris .", f"Angela Merkel sees the {what} .")
        plain = (f"A {what} in a garden .", f"There is a {what} .")
        rows += [(f"{number}.png", text) for text in (named if number % 2 else plain)]
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def labelled(start: int, count: int) -> list[tuple[str, str]]:
    return [
        (f"The {NOUNS[number % 8]} {number} was {WORDS[label]}", label)
        for number in range(start, start + count)
        for label in CLASSES
    ]


def write_data(folder: Path) -> None:
    for name, rows in (("train", labelled(0, 6)), ("dev", labelled(20, 4))):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "label"), *rows])
    for name, rows in (("reviews", labelled(40, 6)), ("reviews-dev", labelled(60, 4))):
        stars = {"negative": "1", "positive": "5"}
        jsonl(folder / name, [{"text": text, "stars": stars[label]} for text, label in rows])
    for name, start in (("pairs", 0), ("pairs-dev", 30)):
        numbers = range(start, start + 8)
        jsonl(
            folder / name,
            [{"context": f"It was {n}.", "question": f"Was it {n}?"} for n in numbers],
        )
    for number, name in enumerate(("corpus", "held-out", "captions", "dev")):
        lines = [f"A {noun} and {number} more" for noun in NOUNS]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    toxic = [{"text": f"{word} text", "toxicity": level} for word, level in
             [("good", 0.1), ("bad", 0.9)] * 3]  # fmt: skip
    jsonl(folder / "toxicity", [*toxic, {"text": "an odd text", "toxicity": None}])
    images = [(f"{noun}.jpg", f"A {noun} on a table") for noun in NOUNS]
    jsonl(folder / "captions", [{"image": image, "caption": text} for image, text in images])
    with (folder / "references.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [(image, f"{text} in a room") for image, text in images]
        csv.writer(file).writerows([("image", "caption"), *rows])
    (folder / "prompts.txt").write_text("This film was\nMy phone\n", encoding="utf-8")
    (folder / "tuning.txt").write_text("A lamp is\nThe boat was\n", encoding="utf-8")
    (folder / "report.txt").write_text("A report of a film\n" * 20, encoding="utf-8")
    page = (ROOT / "docs/how-to/guides_and_judges.md").read_text(encoding="utf-8")
    source = page.partition("```python\n")[2].partition("```")[0]
    (folder / "weather.py").write_text(source, encoding="utf-8")
    (folder / "words.txt").write_text("a\nb\n", encoding="utf-8")


def jsonl(path: Path, rows: list[dict]) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    path.with_name(f"{path.name}.jsonl").write_text(lines, encoding="utf-8")


def fill_sheet(sheet: Path, copy: Path, rating: int) -> None:
    """Writes a copy of a sheet as a rater returns it."""
    with sheet.open(newline="", encoding="utf-8") as file:
        head, *rows = list(csv.reader(file))
    filled = [
        [value or str(1 + (number + rating) % 5) for value in row]
        for number, row in enumerate(rows)
    ]
    with copy.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *filled])
