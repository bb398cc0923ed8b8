"""How all pictures look, and how they are kept.

Figures are made without pyplot: nothing global changes, nothing needs a display, and a figure can be
drawn in any thread. Colours are those of Okabe and Ito, which the colour-blind can tell apart; lines
that share axes also differ in dash or marker.
"""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from spkver.errors import SpkverError
from spkver.files import atomic_write

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, BLACK = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#F0E442",
    "#000000",
)
# Three more, each at least as far from all others as Okabe and Ito's are from one another, also for the colour-blind
# (in CIELAB, with the simulation of Machado et al., 2009).
INDIGO, MAGENTA, BROWN = "#332288", "#AA3377", "#7F3C00"
# Yellow is too light for lines.
COLOURS = [BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK, INDIGO, MAGENTA, BROWN]
DASHES = ["-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2))]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]
GREY = "#666666"
# Of a legend, in heights of its letters: how wide a letter is, and what stands beside a name.
_LETTER = 0.58
_BESIDE_A_NAME = {"handlelength": 2.0, "handletextpad": 0.8, "columnspacing": 2.0}

STYLE: dict[Any, object] = {  # by matplotlib's names, of which its stubs have a closed list
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


class Picture(Figure):
    """A matplotlib figure that also shows itself in a notebook."""

    def _repr_png_(self) -> bytes:
        # Drawn once: `savefig` does so twice.
        canvas = FigureCanvasAgg(self)
        canvas.draw()
        buffer = io.BytesIO()
        Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").save(buffer, "PNG")
        return buffer.getvalue()

    def save(self, path: str | Path, dpi: float = 110) -> Path:
        """Write the figure, in the format of the name's ending; returns the path.

        Raises:
            SpkverError: ``dpi``, dots an inch, is not in 20 to 1200.
        """
        path = Path(path)
        if not 20 <= dpi <= 1200:
            raise SpkverError(f"--dpi {dpi:g}: give 20 to 1200 dots an inch")
        with atomic_write(path, "wb") as file:
            self.savefig(file, format=path.suffix[1:] or "png", dpi=dpi)
        return path


def picture(
    rows: int = 1, columns: int = 1, size: tuple[float, float] = (5.0, 3.6), **subplots
) -> tuple[Picture, np.ndarray]:
    """A figure and its axes ``(rows, columns)``; ``size`` is of one of them, in inches."""
    with rc_context(STYLE):
        figure = Picture(figsize=(size[0] * columns, size[1] * rows), layout="constrained", dpi=110)
        axes = figure.subplots(rows, columns, squeeze=False, **subplots)
    return figure, axes


def line_style(index: int) -> dict:
    """Colour and dash of the ``index``-th line."""
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[(index // len(COLOURS) + index) % len(DASHES)]}


def ordered_colours(n: int) -> list[tuple[float, ...]]:
    """n colours from dark to light for lines that have an order; they stay apart in grey, too."""
    return [colormaps["viridis"](place) for place in np.linspace(0, 0.92, n)]


def speaker_styles(n: int) -> list[tuple[str, str]]:
    """Colour and marker of each of n speakers; ten have ten colours, and no two are the same up to 80."""
    # Counting both on comes back to the first pair after 40: from there on the markers are one ahead.
    again = math.lcm(len(COLOURS), len(MARKERS))
    return [(COLOURS[i % len(COLOURS)], MARKERS[(i + i // again) % len(MARKERS)]) for i in range(n)]


def legend_beside(axes: Axes, **options) -> None:
    """A legend to the right of the axes, where it covers no data."""
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), borderaxespad=0.0, frameon=False, **options)


def legend_below(figure: Figure, axes: Axes, most: int = 6, **options) -> None:
    """The legend of one axes below the whole figure, at most ``most`` entries a row and no more than fit."""
    handles, labels = axes.get_legend_handles_labels()
    beside = sum(options.get(name, usual) for name, usual in _BESIDE_A_NAME.items())
    room = 72 * figure.get_figwidth() / options.get("fontsize", 10)

    def width(columns: int) -> float:
        return sum(_LETTER * max(map(len, names)) + beside for names in np.array_split(np.array(labels), columns))

    columns = next((n for n in range(min(len(labels), most), 1, -1) if width(n) <= room), 1)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, **options)


def epoch_axis(axes: Axes) -> None:
    """An x axis that counts epochs: whole numbers only."""
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
