"""Pages that open from disk: one HTML file with its data, its script and plotly's inside."""

import base64
import html
import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from spkver.errors import SpkverError
from spkver.files import atomic_write


def write_page(path: Path, title: str, data: dict[str, Any], scripts: list[str]) -> Path:
    """Write a page of ``data`` that the named scripts of ``web/`` draw; returns the path.

    Raises:
        SpkverError: plotly, whose script goes into the page, is not installed.
    """
    # Nothing in the data may end the script element that it stands in.
    text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    parts = {
        "title": html.escape(title),
        "style": _web("style.css"),
        "plotly": _plotly(),
        "data": text,
        "scripts": "\n".join(_web(name) for name in scripts),
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


def _web(name: str) -> str:
    return resources.files("spkver.pictures").joinpath("web").joinpath(name).read_text(encoding="utf-8")


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise SpkverError(f"this page needs plotly, which cannot be used here ({error}); pip install plotly") from None
    return get_plotlyjs()
