"""The margin explorer: curves of the heads for every margin, and the page with sliders for theta, m and s."""

from pathlib import Path

import numpy as np

from spkver.heads import NormFace
from spkver.pictures.margin import raised_nontarget_logit, target_logit
from spkver.pictures.page import packed, write_page

MARGINS = np.round(np.arange(0, 1.0001, 0.02), 2)
_DEGREES = np.arange(181)


def margin_tables(margin: float, scale: float) -> dict:
    """What the explorer draws: each head's logits at scale 1 over theta, one row a margin.

    A scale multiplies all logits, so the page can apply it; a margin does not.

    Args:
        margin: that the sliders start at, the nearest of ``MARGINS``.
        scale: likewise.
    """
    theta = np.radians(_DEGREES)
    rows = {
        "NormFace": [target_logit(theta, NormFace, scale=1.0)] * len(MARGINS),
        "ArcFace": [target_logit(theta, margin=m, scale=1.0) for m in MARGINS],
        "ArcFace, easy margin": [target_logit(theta, margin=m, scale=1.0, easy_margin=True) for m in MARGINS],
        "inter-topk: another speaker, raised": [raised_nontarget_logit(theta, m, 1.0) for m in MARGINS],
    }
    return {
        "degrees": _DEGREES.tolist(),
        "margins": MARGINS.tolist(),
        "curves": {name: packed(np.stack(curves), "f4") for name, curves in rows.items()},
        "start": {"margin": float(MARGINS[np.abs(MARGINS - margin).argmin()]), "scale": round(min(max(scale, 1), 64))},
    }


def write_margin_page(path: str | Path, margin: float, scale: float) -> Path:
    """Write the page with the explorer alone; returns the path."""
    data = {"margin": margin_tables(margin, scale)}
    return write_page(Path(path), "How a margin works", data, ["dom.js", "chart.js", "margin.js", "margin_page.js"])
