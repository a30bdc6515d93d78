"""A WordNet of two nouns that are synonyms, in the format of Princeton's files."""

from pathlib import Path

SUFFIXES = ("adj", "adv", "noun", "verb")
# Bytes from the start of the file to a synset: its name there.
HEAD = "  1 A tiny WordNet for tests\n"


def write_wordnet(data: Path) -> None:
    """Writes the corpus into a folder of NLTK data: a cab is a taxi."""
    folder = data / "corpora" / "wordnet"
    folder.mkdir(parents=True)
    offset = f"{len(HEAD):08d}"
    words = ("cab", "taxi")
    files = {
        "lexnames": "00\tadj.all\t3\n",
        "cntlist.rev": "",
        "index.sense": "".join(f"{word}%1:00:00:: {offset} 1 0\n" for word in words),
    }
    for suffix in SUFFIXES:
        files |= {f"index.{suffix}": HEAD, f"data.{suffix}": HEAD, f"{suffix}.exc": ""}
    members = " ".join(f"{word} 0" for word in words)
    files["data.noun"] += f"{offset} 00 n {len(words):02x} {members} 000 | it has four wheels\n"
    files["index.noun"] += "".join(f"{word} n 1 0 1 0 {offset}\n" for word in words)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
