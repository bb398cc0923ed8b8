"""The direction of imports: a room imports only from the rooms above it, and no two files import one another."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent / "spkver"

# From the top to the bottom; the map in CONTRIBUTING.md says what each holds.
ROOMS = [
    ["errors"],
    ["files"],
    ["config"],
    ["native"],  # kernels, which know nothing of the rest: whoever has one may call it
    ["features"],
    ["data"],  # whether a recording holds speech is seen in its filterbanks
    ["models"],
    ["heads"],
    ["experiment"],
    ["embedding"],
    ["scoring"],
    ["training", "verification"],
    ["corpora", "pictures", "export"],
    ["cli"],
]
PLACE = {room: place for place, rooms in enumerate(ROOMS) for room in rooms}


def modules() -> dict[str, Path]:
    """Name below ``spkver`` -> file."""
    named = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return named


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of the package that a file imports, anywhere in it and under any condition."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    below = {name.removeprefix("spkver").removeprefix(".") for name in found if name.split(".")[0] == "spkver"}
    return {name for name in below if name in known}


KNOWN = modules()
GRAPH = {name: imports(path, KNOWN) - {name} for name, path in KNOWN.items()}


def test_nothing_lies_loose():
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "__main__.py", "errors.py", "files.py"}
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} == set(PLACE) - {"errors", "files"}


@pytest.mark.parametrize("name", [name for name in KNOWN if name not in ("", "__main__")])
def test_a_file_imports_only_from_rooms_above_it(name):
    room = name.split(".")[0]
    others = {other for other in GRAPH[name] if other and other.split(".")[0] != room}
    below = {other for other in others if PLACE[other.split(".")[0]] >= PLACE[room]}
    assert not below, f"{name} imports {', '.join(sorted(below))}"


def test_of_the_package_itself_only_its_version_and_its_place_are_asked():
    # Its __init__ hands on what stands far below, so anything else would be a way around the order.
    for path in KNOWN.values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "spkver":
                asked = {alias.name for alias in node.names}
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "spkver":
                asked = {node.attr}
            else:
                continue
            assert asked <= {"__version__", "__file__", "native"}, f"{path}: {asked}"


def test_no_files_import_one_another_in_a_circle():
    # A package and its own files are one: its __init__ only hands their names on.
    graph = {
        name: {other for other in others if not name.startswith(f"{other}.") and not other.startswith(f"{name}.")}
        for name, others in GRAPH.items()
        if name
    }
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> None:
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name in done:
            return
        for other in sorted(graph.get(name, ())):
            visit(other, [*way, name])
        done.add(name)

    for name in graph:
        visit(name, [])


def test_no_two_files_of_different_rooms_have_one_name():
    names = [name.split(".")[-1] for name, path in KNOWN.items() if path.name not in ("__init__.py", "__main__.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []
