"""The configurations and recipes that come with spkver.

They are ``conf/`` and ``recipes/`` of the repository; an installed package holds them inside.
"""

import difflib
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def _place(name: str) -> Path:
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


CONFIGURATIONS = _place("conf")
RECIPES = _place("recipes")


def shipped(name: str | Path) -> Path | None:
    """The configuration of a name, as ``mini``, ``base.yaml`` or ``encoders/wavlm``; None where none has it."""
    bare = str(name).removesuffix(".yaml")
    return next((path for path in _files() if _name(path) == bare), None)


def nearest_shipped(name: str | Path) -> str | None:
    """The name of a configuration that somebody may have meant."""
    names = {path.stem: _name(path) for path in _files()}
    near = difflib.get_close_matches(Path(name).stem, names, 1)
    return names[near[0]] if near else None


def titles() -> dict[str, str]:
    """Every configuration's name and the first sentence of the comment at its head."""
    return {_name(path): _title(path) for path in _files()}


def _files() -> list[Path]:
    return [*sorted(CONFIGURATIONS.glob("*.yaml")), *sorted(CONFIGURATIONS.glob("*/*.yaml"))]


def _name(path: Path) -> str:
    return path.relative_to(CONFIGURATIONS).with_suffix("").as_posix()


def _title(path: Path) -> str:
    comment = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.lstrip("# "))
    return " ".join(comment).partition(". ")[0].rstrip(".")
