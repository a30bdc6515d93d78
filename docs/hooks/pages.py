"""What mkdocs makes while it builds the site: the front page, tables, pictures and references."""

import re
from pathlib import Path
from typing import Any

import cells
import commands
import reference
import tables
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
MARKER = re.compile(r"^<!-- table: (\w+) -->$", re.MULTILINE)
# What the README links to from the project's root, as it is called inside the site.
LINKS = {
    "](docs/": "](",
    "](experiments/results/": "](results/",
    "](LICENSE)": "](https://www.apache.org/licenses/LICENSE-2.0)",
    "](CONTRIBUTING.md)": "](contribute/house_rules.md)",
}


def on_files(files: Files, *, config: Any) -> Files:
    """Adds the pages and pictures that are not in the folder of the site."""
    made = {
        "index.md": front_page(),
        "reference/command_line.md": commands.command_line(),
        "reference/python.md": reference.python(),
    }
    for path, content in made.items():
        files.append(File.generated(config, path, content=content))
    for picture in sorted(cells.RESULTS.glob("*.png")):
        path = f"results/{picture.name}"
        files.append(File.generated(config, path, abs_src_path=str(picture)))
    return files


def front_page() -> str:
    """Returns the README with links that hold inside the site."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for outside, inside in LINKS.items():
        text = text.replace(outside, inside)
    return text


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Puts the tables where a page names them."""
    return MARKER.sub(lambda found: tables.TABLES[found[1]](), markdown)
