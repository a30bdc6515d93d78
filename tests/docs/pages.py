"""The commands and Python blocks of the README and of the pages of the site."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
LANGUAGES = {"bash", "python", "text", "bibtex"}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """`words` as a shell splits them; `given` is what another command pipes in."""

    page: str
    line: int
    words: tuple[str, ...]
    given: str | None = None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {shlex.join(self.words)}"


def paths() -> list[Path]:
    return [
        ROOT / "README.md",
        ROOT / "experiments" / "README.md",
        ROOT / "benchmarks" / "README.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    ]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT)).removeprefix("docs/")


def blocks(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    return [
        Block(name_of(path), text.count("\n", 0, found.start()) + 1, found[1], found[2])
        for found in FENCE.finditer(text)
    ]


def commands(block: Block) -> list[Command]:
    """Splits a block for a shell into its commands; `echo TEXT | ...` becomes `given`."""
    assert block.language == "bash"
    joined = block.text.replace("\\\n", " ")
    found = []
    for line in joined.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
        lexer.whitespace_split = True
        words: list[list[str]] = [[]]
        given = None
        for word in lexer:
            if word == "&&":
                words.append([])
            elif word == "|":
                echo, *texts = words.pop()
                assert echo == "echo", f"{block.page}: only echo may stand in front of a pipe"
                given = " ".join(texts) + "\n"
                words.append([])
            else:
                words[-1].append(word)
        found += [Command(block.page, block.line, tuple(w), given) for w in words if w]
    return found


def inline_code(path: Path) -> list[str]:
    """Returns what stands in backticks inside a page's prose, on one line each."""
    prose = FENCE.sub("", path.read_text(encoding="utf-8"))
    return [" ".join(found[1].split()) for found in INLINE.finditer(prose)]
