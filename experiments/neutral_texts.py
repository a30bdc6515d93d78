"""Texts without a class, for heads that are to know when a text says nothing.

News, passages and questions, web pages, captions, code, and made ones: headings, lists, dates,
tables, lines of one sign, and sentences of other languages. A search finds what a guide is sure of
by mistake, and those were among it.
"""

# ruff: noqa: RUF001
import csv
import json
import sysconfig
from pathlib import Path

import numpy as np

from coopgen_jax.data.cuts import Cutting, cut
from coopgen_jax.data.fingerprint import fingerprint
from coopgen_jax.data.labelled import half_of

SOURCES = {
    "ag_news": "AG's news topics (Zhang et al. 2015); non-commercial",
    "squad": "SQuAD, split by Du et al. 2017; CC BY-SA 4.0",
    "web pages": "pages of the open web; research only",
    "coco": "MS COCO captions as in Texygen; MIT",
    "code": "modules of Python's standard library from a to m; PSF licence",
    "made": "headings, lists, dates, tables and sentences of other languages, made for this",
}
THINGS = """
    harbour district, school board, cell biology, road works, wheat prices, solar panels, city
    council, trade union, human kidney, coastal erosion, steel production, data storage, language
    learning, winter timetable, public library, insurance claims, forest fires, patent law,
    infant formula, rural clinics, heart disease, diabetes, asthma, influenza, malaria, measles,
    arthritis, anaemia, bridge design, census results, user manual, file formats, rainfall
""".replace("\n", " ")
MADE = (
    "{a} and {b}", "{a}: an introduction", "{n}) {a}\n{m}) {b}", "* {a}\n* {b}\n* {c}",
    "The following diseases and conditions: {a}, {b}, {c}", "- {a};\n- {b};\n- {c}.",
    "**{a}**", "=== {a} ===", "{a} | {b} | {c}\n{n} | {m} | {n}", "{n},{m},{n},{m}",
    "{sign}{sign}{sign}{sign}{sign}{sign}{sign}{sign}", "{sign} {sign} {sign}\n{sign} {sign}",
    "{month} {n}, {year}", "{n} {month} {year} {m}:30", "{year}-{year}", "Updated: {n}/{m}/{year}",
    "Monday {m}:00 {a}\nTuesday {m}:00 {b}", "Posted on {month} {n}, {year} by admin",
    "What is {a}?", "How does {a} compare with {b}?", "See also: {a}, {b}", "Tags: {a}, {b}, {c}",
    "Page {n} of {m}", "{a}\n{b}\n{c}", "The {a} is in the {b}.", "There are {n} kinds of {a}.",
    "The report of {year} on {a} has {m} chapters.", "Write a short note on {a}.",
    "Answer: {n}", "x = {n}, y = {m}", "{n} + {m} = ?", "https://example.org/{n}/{m}",
    "In {year}, the {a} was moved to the {b}.", "I went to the {a} at {m} o'clock.",
    "He said that the {a} would open in {month}.", "Add {n} g of sugar and {m} g of salt.",
    "Whisk for {m} minutes, then fold in the cream.", "Total: {n}.{m} kg", "[{n}] {a}, p. {m}.",
)  # fmt: skip
SIGNS = ("#", "-", "*", "=", "_", ".", "~", ">", "|", "/", "+", "##", "1", "0", "the", "and")
MONTHS = ["January", "February", "May", "June", "August", "October", "December"]
SENTENCES = """
    Der Zug nach Kiel fährt von Gleis sechs. Die Bücherei schließt um achtzehn Uhr.
    Das Formular liegt im Rathaus aus. Der Fluss mündet in die Nordsee. Die Sitzung ist am Montag.
    Die Straße ist zwei Kilometer lang. El autobús sale a las ocho de la mañana.
    La oficina está en la segunda planta. El río nace en la sierra. La reunión es el martes.
    El formulario tiene tres páginas. La ciudad está al sur del lago.
    Il treno parte dal binario due. L'ufficio apre alle nove. Il fiume attraversa la pianura.
    La riunione è mercoledì alle tre. Il modulo va firmato. O comboio parte da linha quatro.
    A biblioteca abre às dez horas. O rio corre para o oeste. A reunião começa às duas.
    De trein vertrekt van spoor drie. Het kantoor is open tot vijf uur. De vergadering is dinsdag.
    De rivier stroomt naar het westen. Toget kjører fra spor to. Kontoret åpner klokken åtte.
    Møtet er på torsdag. Influmo kaj reto. Поїзд прибуває на першу колію.
    列车九点出发。 会议在三楼。 Το τρένο φεύγει στις εννέα.
    القطار يغادر في الساعة التاسعة. הרכבת יוצאת בשעה תשע.
"""


def neutral_texts(data: Path, name: str) -> tuple[str, ...]:
    """Returns half "A" or "B" of the texts without a class.

    They come out of a folder of data sets, and of what is made here. Half B has none that half A
    has, however their letters are written.
    """
    number = "AB".index(name)
    rng = np.random.default_rng(number)
    pieces = Cutting(1, shortest=6, longest=44, mid_word=0.0)
    with (data / "ag_news" / "train.csv").open(encoding="utf-8", newline="") as file:
        news = [row["text"] for row in csv.DictReader(file) if half_of(row["text"]) == name]
    found = [cut(rng, text, pieces) for text in _some(rng, news, 1800)]
    passages = _lines(data / "squad_questions" / "train.jsonl")
    for column, count in (("context", 700), ("question", 500)):
        own = [row[column] for row in passages if half_of(row[column]) == name]
        found += _some(rng, list(dict.fromkeys(own)), count)
    pages = [row["prompt"] for row in _lines(data / "web_prompts" / "prompts.jsonl")]
    found += [cut(rng, page, pieces) for page in pages if half_of(page) == name for _ in range(2)]
    captions = (data / "coco_sentences" / "train.txt").read_text(encoding="utf-8").splitlines()
    found += _some(rng, [line for line in captions if half_of(line) == name], 400)
    # The halves' pieces of a module begin at other lines.
    for texts, count in ((code(rng, 40 + 12 * number), 700), (made(rng, 4000), 1400)):
        found += _some(rng, [text for text in dict.fromkeys(texts) if half_of(text) == name], count)
    taken = set(fingerprint(neutral_texts(data, "A")).tolist()) if name == "B" else set()
    return tuple(text for text in found if fingerprint([text])[0] not in taken)


def made(rng: np.random.Generator, count: int) -> list[str]:
    """Returns made texts; every fourth is of another language than English."""
    things = [thing.strip() for thing in " ".join(THINGS.split()).split(",")]
    stops = SENTENCES.replace("。", "。 ").replace("\n", " ")
    sentences = [f"{one.strip()}." for one in stops.split(". ") if one.strip()]
    texts = []
    for number in range(count):
        if number % 4 == 3:
            first = int(rng.integers(len(sentences) - 1))
            text = " ".join(sentences[first : first + 2])
            texts.append(text[: int(rng.integers(len(text) // 3, len(text), endpoint=True))])
            continue
        a, b, c = rng.choice(things, 3, replace=False).tolist()
        n, m, year = (int(rng.integers(*ends)) for ends in ((1, 400), (1, 60), (1700, 2040)))
        sign, month = rng.choice(SIGNS), rng.choice(MONTHS)
        text = str(rng.choice(MADE)).format(
            a=a, b=b, c=c, n=n, m=m, year=year, sign=sign, month=month
        )
        texts.append(text.capitalize() if rng.random() < 0.5 else text)
    return texts


def code(rng: np.random.Generator, begin: int) -> list[str]:
    """Returns pieces of modules of the standard library from a to m, from a line on."""
    pieces = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("[a-m]*.py")):
        lines = path.read_text(encoding="utf-8").splitlines()
        for first in range(begin, max(begin + 1, len(lines) - 6), 25):
            pieces.append("\n".join(lines[first : first + int(rng.integers(1, 7))]).strip())
    return [piece for piece in pieces if len(piece) > 10]


def _lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _some(rng: np.random.Generator, texts: list[str], count: int) -> list[str]:
    numbers = rng.choice(len(texts), min(count, len(texts)), replace=False)
    return [texts[number] for number in numbers]
