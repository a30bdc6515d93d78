"""500 texts without sentiment, made from sources that no packaged head was trained on.

Headings, code of the standard library's modules from n to z, dates, recipes, and sentences of
languages other than English: a hundred each.
"""

# ruff: noqa: RUF001
import sysconfig
from pathlib import Path

import numpy as np

SUBJECTS = """
    irrigation, municipal archives, tide tables, copper pipes, parish registers, soil samples,
    bus routes, tax forms, river basins, postal codes, voter rolls, cargo manifests, bird migration,
    concrete mixing, railway gauges, time zones, mineral rights, water meters, road signs, grain
    storage
"""
HEADINGS = (
    "## {n}. Overview of {a}", "Appendix {n}: {a} and {b}", "Chapter {n} - {a}", "Table {n}. {a}",
    "{a}: section {n} of 12", "# {a}\n## {b}\n### {a} and {b}", "Figure {n}: {a} by region",
    "Contents\n1. {a}\n2. {b}\n3. References", "{a} ({b}), part {n}", "Annex {n}\n{a}",
)  # fmt: skip
DATES = (
    "{day} {month} {year}, {hour}:{minute:02d}", "{month} {day}, {year} - {month} {later}, {year}",
    "Date: {year}-{number:02d}-{day:02d} {hour:02d}:{minute:02d}:00", "Q{quarter} {year}",
    "from {month} {year} until {month} {next}", "The meeting is on {day} {month} at {hour}:00.",
    "{day}.{number}.{year}\n{later}.{number}.{year}", "born {day} {month} {year}",
    "Opening hours: {month} to December, {hour}:00 - 18:00", "Week {day} of {year}",
)  # fmt: skip
MONTHS = ["January", "March", "April", "June", "July", "August", "September", "October", "November"]
FOOD = [
    "flour",
    "rice",
    "lentils",
    "butter",
    "milk",
    "oats",
    "chickpeas",
    "barley",
    "onions",
    "potatoes",
]
STEPS = (
    "Mix {a} and {b} in a bowl, then add {n} ml of water.",
    "Ingredients: {n} g {a}, {m} g {b}, 1 teaspoon salt.",
    "Boil the {a} for {m} minutes and drain.", "Serves {m}. Preparation time: {n} minutes.",
    "Step {m}: stir the {b} into the {a} and cover the pan.",
    "Bake at {n} degrees for {m} minutes on the middle shelf.",
    "Place the {a} on a tray and let it cool for {m} minutes.",
    "- {n} g {a}\n- {m} cups {b}\n- a pinch of salt", "Chop the {b}. Heat the oil. Add the {a}.",
    "Store the {a} in a jar for up to {m} weeks.",
)  # fmt: skip
LANGUAGES = """
    Le train de neuf heures part du quai numéro quatre.
    La mairie se trouve en face de la gare.
    Le fleuve traverse trois départements avant la mer.
    Le formulaire doit être rempli en deux exemplaires.
    La réunion commence à quatorze heures trente.
    Pociąg do Krakowa odjeżdża z peronu trzeciego.
    Biblioteka jest otwarta od poniedziałku do piątku.
    Wisła wypływa z gór i wpada do morza.
    Wniosek należy złożyć w dwóch egzemplarzach.
    Zebranie odbędzie się w sali numer siedem.
    Tåget till Uppsala går från spår fem.
    Biblioteket är öppet från måndag till fredag.
    Sjön ligger norr om staden.
    Blanketten ska fyllas i på båda sidor.
    Mötet börjar klockan halv tre.
    Tren saat dokuzda üçüncü perondan kalkıyor.
    Kütüphane pazartesiden cumaya kadar açıktır.
    Nehir kentin kuzeyinden geçer.
    Form iki nüsha olarak doldurulmalıdır.
    Toplantı saat iki buçukta başlayacak.
    Juna lähtee raiteelta viisi kello yhdeksän.
    Kirjasto on avoinna maanantaista perjantaihin.
    Järvi sijaitsee kaupungin pohjoispuolella.
    Lomake täytetään kahtena kappaleena.
    Kokous alkaa kello puoli kolme.
    Vlak do Brna odjíždí z druhého nástupiště.
    Knihovna je otevřena od pondělí do pátku.
    Řeka pramení v horách na severu.
    Formulář se vyplňuje ve dvou kopiích.
    Schůze začíná ve čtrnáct hodin.
    A vonat a harmadik vágányról indul.
    A könyvtár hétfőtől péntekig tart nyitva.
    A folyó a hegyekben ered.
    Az űrlapot két példányban kell kitölteni.
    Az értekezlet fél háromkor kezdődik.
    Trenul spre Cluj pleacă de la linia patru.
    Biblioteca este deschisă de luni până vineri.
    Râul izvorăște din munți.
    Formularul se completează în două exemplare.
    Ședința începe la ora două și jumătate.
    Поезд отправляется с третьего пути.
    Библиотека открыта с понедельника по пятницу.
    Река берёт начало в горах.
    Анкету нужно заполнить в двух экземплярах.
    Собрание начинается в четырнадцать часов.
    電車は三番線から出発します。
    図書館は月曜日から金曜日まで開いています。
    川は山から流れています。
    用紙は二部記入してください。
    会議は二時半に始まります。
"""


def texts_without_sentiment() -> dict[str, list[str]]:
    """Returns a hundred texts of every kind."""
    rng = np.random.default_rng(0)
    subjects = [subject.strip() for subject in " ".join(SUBJECTS.split()).split(",")]

    def two(names):
        one, other = rng.choice(len(names), 2, replace=False)
        return {"a": names[one], "b": names[other]}

    numbers = lambda low, high: int(rng.integers(low, high))  # noqa: E731
    headings = [
        HEADINGS[at % 10].format(n=numbers(1, 20), **two(subjects)).capitalize()
        for at in range(100)
    ]
    dates = []
    for at in range(100):
        number, day, year = numbers(1, 13), numbers(1, 25), numbers(1850, 2030)
        dates.append(
            DATES[at % 10].format(
                day=day, later=day + 3, month=MONTHS[number % 9], number=number, year=year,
                next=year + 1, hour=numbers(8, 18), minute=numbers(0, 60), quarter=numbers(1, 5),
            )
        )  # fmt: skip
    recipes = [
        STEPS[at % 10].format(n=10 * numbers(5, 40), m=numbers(2, 30), **two(FOOD))
        for at in range(100)
    ]
    sentences = [line.strip() for line in LANGUAGES.strip().splitlines()]
    halves = [line[: max(6, len(line) // 2)].strip() for line in sentences]
    return {
        "headings": headings, "code": code(rng, "n", "z", 100), "dates": dates,
        "recipes": recipes, "languages": [*sentences, *halves],
    }  # fmt: skip


def code(rng: np.random.Generator, first: str, last: str, count: int) -> list[str]:
    """Returns pieces of a few lines of the standard library's modules with these first letters."""
    pieces = []
    folder = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(folder.glob("*.py")):
        if not first <= path.name[0] <= last:
            continue
        lines = path.read_text(encoding="utf-8").splitlines()
        # Behind the first docstring, which is prose.
        starts = range(60, max(61, len(lines) - 4), 40)
        pieces += ["\n".join(lines[start : start + 4]).strip() for start in starts]
    pieces = [piece for piece in pieces if len(piece) > 30 and '"""' not in piece]
    return [pieces[at] for at in rng.choice(len(pieces), count, replace=False)]
