"""House rules that a reader relies on: names, sizes, and which way imports flow."""

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "coopgen_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

# From the ground up. A room may import from its own floor and from those below it.
FLOORS = (
    ("errors",),
    ("files", "tokenizer"),
    ("parallel", "search"),
    ("models",),
    ("discriminators",),
    ("data",),
    ("decoding",),
    ("text_generation",),
    ("evaluation",),
    ("training",),
    ("bulk",),
    ("comparison", "explanation", "augmentation", "watermark"),
    ("tools",),
    ("testing",),
    ("cli",),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

LONGEST_FILE, LONGEST_FUNCTION = 400, 80


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path) for path in FILES}


def imports_of(path: Path) -> Iterator[str]:
    """Yields the modules that a file imports, those of a function's own imports too."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES or _is_test(inner) else str(node.module)


def _is_test(module: str) -> bool:
    return module.startswith("tests.") and any(
        part.startswith("test_") for part in module.split(".")
    )


def test_no_test_imports_from_another():
    taken = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in TESTS
        for name in imports_of(path)
        if _is_test(name)
    }
    assert taken == set()


def test_no_two_files_share_a_name():
    names = Counter(path.name for path in FILES)
    shared = {name for name, count in names.items() if count > 1}
    assert shared <= {"__init__.py", "__main__.py"}


def test_no_file_is_too_long():
    lengths = {str(path): path.read_text(encoding="utf-8").count("\n") for path in FILES}
    assert {path: length for path, length in lengths.items() if length > LONGEST_FILE} == {}


def test_no_function_is_too_long():
    found = {
        f"{path.relative_to(PACKAGE)}: {node.name}"
        for path in FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno >= LONGEST_FUNCTION
    }
    assert found == set(), "these functions have more than 80 lines"


def test_imports_never_flow_up():
    rising = []
    for path in FILES:
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room == "__init__":  # which offers what all rooms have
            continue
        for name in imports_of(path):
            package, *inside = name.split(".")
            if package == PACKAGE.name and inside and FLOOR_OF[inside[0]] > FLOOR_OF[room]:
                rising.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert rising == []


def test_imports_make_no_circle():
    graph = {
        module_of(path): {name for name in imports_of(path) if name in MODULES} for path in FILES
    }
    graph.pop("coopgen_jax")
    for before in graph.values():
        before.discard("coopgen_jax")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"imports go round: {' -> '.join(reversed(error.args[1]))}")
