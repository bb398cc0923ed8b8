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
    """The configuration of a bare name, as ``mini`` or ``base.yaml``; None where none has that name."""
    if Path(name).name != str(name):
        return None
    path = CONFIGURATIONS / str(name)
    path = path if path.suffix == ".yaml" else path.with_name(f"{path.name}.yaml")
    return path if path.is_file() else None


def nearest_shipped(name: str | Path) -> str | None:
    """The name of a configuration that somebody may have meant."""
    near = difflib.get_close_matches(Path(name).stem, [path.stem for path in CONFIGURATIONS.glob("*.yaml")], 1)
    return near[0] if near else None


def titles() -> dict[str, str]:
    """Every configuration's name and the first sentence of the comment at its head."""
    return {path.stem: _title(path) for path in sorted(CONFIGURATIONS.glob("*.yaml"))}


def _title(path: Path) -> str:
    comment = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.lstrip("# "))
    return " ".join(comment).partition(". ")[0].rstrip(".")
