"""500 texts without sentiment, of sources that no training saw: what guides and judges say of them.

A hundred each of headings, code, dates and tables, recipes, and other languages.
"""

import itertools
import sysconfig
from pathlib import Path

import numpy as np

SUBJECTS = """
    tidal locks, roof tiles, ferry timetables, beekeeping, glass fibre, land registers, tram lines,
    copper smelting, map projections, grain elevators, rail gauges, reed beds, loom weights,
    shift registers, kidney stones, bone density, thyroid function, sleep apnoea, hepatitis, gout,
    parish records, water meters, harvest dates, soil samples, bus stops, postal codes
""".replace("\n", " ")
HEADINGS = (
    "# {a}", "## {n}. {a}", "{n}.{m} {a} and {b}", "Chapter {n}. {a}", "Contents\n{a}\n{b}",
    "Appendix {n}: {a}", "{a}, {b}, {c} and other conditions", "Section {n}\n\n{a}",
    "Figure {n}: {a} by {b}", "Table {n}. {a}, {year}", "Notes on {a}", "- {a}\n- {b}\n- {c}",
    "Filed under: {a}", "Related pages: {a} | {b}", "Symptoms of {a}\n\nCauses\n\nTests",
    "####################", "----------------", "............", "* * * * * * *", "= = = =",
)  # fmt: skip
DATES = (
    "{year}-{month:02}-{n:02}", "{n:02}.{month:02}.{year}", "{month}/{n}/{year} {m}:{n:02}",
    "Week {m}, {year}", "{year}, {year2}, {year3}", "{a}\t{n}\t{m}\n{b}\t{m}\t{n}",
    "Arrives {m}:{n:02}, leaves {m}:45", "Opening hours: {m}:00 to {m}:45", "({year} to {year2})",
    "{a}: {n} of {m}", "No. {n}/{year}", "{n} {n} {m} {m}", "Line {n}: {m} stops", "{n} m by {m} m",
    "from {n} to {m} degrees", "{year} {a} {n}\n{year2} {b} {m}", "pp. {n}-{m}", "{n}%, {m}%, {n}%",
)  # fmt: skip
RECIPES = (
    "Boil {n} litres of water and add the {a}.", "{n} g {a}\n{m} g {b}\n1 pinch of {c}",
    "Cut the {a} into cubes and put them in a pan with the {b}.", "Ingredients: {a}, {b}, {c}",
    "Bake at {t} degrees for {n} minutes.", "Stir in the {a}, cover, and leave for {n} minutes.",
    "Step {m}: mix the {a} with the {b}.", "Peel the {a}. Grate the {b}.",
    "Preheat the oven to {t} degrees and line a tin.", "Serves {m}. Takes {n} minutes.",
)  # fmt: skip
FOODS = """
    flour, butter, lentils, carrots, rice, onions, leeks, barley, milk, oats, beetroot, yeast,
    potatoes, chickpeas, salt, parsley, noodles, cabbage, vinegar, peas
""".replace("\n", " ")
# Swedish, Danish, Finnish, Czech, Polish, Hungarian, Turkish, Indonesian, Romanian, Welsh.
LANGUAGES = """
    Bussen går från torget klockan sju. Biblioteket ligger vid kanalen. Mötet är på onsdag.
    Toget kører fra spor fem. Kontoret ligger på anden sal. Åen løber mod øst.
    Juna lähtee raiteelta kolme. Kokous on torstaina. Lomakkeessa on neljä sivua.
    Vlak odjíždí v osm hodin. Úřad je ve druhém patře. Řeka teče na sever.
    Pociąg odjeżdża o dziewiątej. Zebranie jest we wtorek. Formularz ma dwie strony.
    A vonat nyolckor indul. A hivatal a második emeleten van. Az értekezlet szerdán lesz.
    Tren saat yedide geliyor. Ofis ikinci katta. Nehir kuzeye akar.
    Kereta berangkat pukul enam. Kantor ada di lantai dua. Rapat diadakan hari Rabu.
    Trenul pleacă la ora opt. Biroul este la etajul doi. Râul curge spre sud.
    Mae'r trên yn gadael am wyth. Mae'r swyddfa ar yr ail lawr. Mae'r cyfarfod ddydd Mawrth.
""".replace("\n", " ")
EACH = 100


def neutral_test_texts(seed: int = 0) -> list[str]:
    """Returns 500 different texts, a hundred of each kind, in the order of the kinds."""
    rng = np.random.default_rng(seed)
    stops = [f"{one.strip()}." for one in LANGUAGES.split(".") if one.strip()]
    subjects, foods = _words(SUBJECTS), _words(FOODS)
    kinds = (
        (_filled(rng, HEADINGS, subjects) for _ in itertools.count()),
        iter(_code(rng)),
        (_filled(rng, DATES, subjects) for _ in itertools.count()),
        (_filled(rng, RECIPES, foods) for _ in itertools.count()),
        (_sentences(rng, stops) for _ in itertools.count()),
    )
    found: list[str] = []
    for kind in kinds:
        own: dict[str, None] = {}
        while len(own) < EACH:
            own[next(kind)] = None
        found += own
    return found


def _words(text: str) -> list[str]:
    return [word.strip() for word in " ".join(text.split()).split(",")]


def _filled(rng: np.random.Generator, patterns: tuple[str, ...], words: list[str]) -> str:
    a, b, c = rng.choice(words, 3, replace=False).tolist()
    n, m, month, t = (int(rng.integers(*ends)) for ends in ((1, 60), (1, 24), (1, 13), (12, 24)))
    year, year2, year3 = sorted(rng.integers(1500, 2060, 3).tolist())
    return str(rng.choice(patterns)).format(
        a=a, b=b, c=c, n=n, m=m, month=month, t=10 * t, year=year, year2=year2, year3=year3
    )


def _code(rng: np.random.Generator) -> list[str]:
    """Returns lines of modules of the standard library from n to z, in no order."""
    found = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("[n-z]*.py")):
        lines = path.read_text(encoding="utf-8").splitlines()
        for first in range(20, len(lines) - 6, 60):
            text = "\n".join(lines[first : first + int(rng.integers(1, 6))]).strip()
            found += [text] if len(text) > 10 else []
    return [found[number] for number in rng.permutation(len(found))]


def _sentences(rng: np.random.Generator, stops: list[str]) -> str:
    """Returns one or two sentences of one language."""
    first = 3 * int(rng.integers(len(stops) // 3))
    count = int(rng.integers(1, 4))
    return " ".join(stops[first + int(place)] for place in rng.permutation(3)[:count])
