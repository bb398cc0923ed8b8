"""Pages that open from disk: one HTML file with its data and its script inside."""

import base64
import hashlib
import html
import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from spkver.files import atomic_write


def write_page(path: Path, title: str, data: dict[str, Any], scripts: list[str]) -> Path:
    """Write a page of ``data`` that the named scripts of ``web/`` draw; returns the path.

    Charts are drawn by these scripts alone, in SVG: a library for them was nine tenths of the page, sent charts to its
    maker's cloud at a click, and followed neither the reader's colours nor the keyboard.
    """
    # Nothing in the data may end the script element that it stands in.
    text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    style, script = _web("style.css"), "\n".join(_web(name) for name in scripts)
    parts = {
        # The browser runs this script alone and loads nothing, whatever the data hold.
        "script hash": _hash(script),
        "style hash": _hash(style),
        "title": html.escape(title),
        "style": style,
        "data": text,
        "script": script,
    }
    page = _web("page.html")
    pieces = []
    for name, value in parts.items():
        before, page = page.split("{{" + name + "}}")
        pieces += [before, value]
    with atomic_write(path) as file:
        file.write("".join(pieces) + page)
    return path


def packed(values: np.ndarray, dtype: str) -> str:
    """Numbers as base64 of little-endian ``dtype``, which the page unpacks: a fifth of their size as text."""
    return base64.b64encode(np.ascontiguousarray(values, np.dtype(dtype).newbyteorder("<")).tobytes()).decode()


def numbers(values: ArrayLike) -> list[float | None]:
    """Five digits, which a page cannot show more of; what is not finite becomes null."""
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in np.asarray(values, float).tolist()]


def _web(name: str) -> str:
    return resources.files("spkver.pictures").joinpath("web").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """As a content security policy names an inline script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
