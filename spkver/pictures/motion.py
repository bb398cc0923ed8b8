"""Moving pictures side by side: their frames as GIF, MP4, PNG files or numbers, and under a slider in a notebook."""

import base64
import html
import io
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.animation import FFMpegWriter
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from PIL import Image

from spkver.errors import SpkverError
from spkver.files import atomic_write
from spkver.pictures.embeddings import draw_confusion, scatter
from spkver.pictures.style import COLOURS, Picture, legend_below, picture

# More names than this do not fit below a panel.
_MOST_IN_LEGEND = 10
# More points than this hide one another at their usual size.
_MANY_POINTS = 400
_FEW, _MANY = 22.0, 8.0
# Every colour is in the palette of a GIF in so many steps to white, for half-transparent points and their edges.
_STEPS_TO_WHITE = 9
_PIXELS_AN_INCH = 100


@dataclass(frozen=True)
class Points:
    """Points that move, in the plane or in three dimensions.

    Args:
        title: above them.
        places: (n_frames, n, 2 or 3).
        labels: (n,) the speaker of each.
        held_out: (n,) bool; these points are hollow.
        sphere: points of three dimensions are drawn by their direction, on a ball; otherwise with their lengths.
        reach: half the width of the axes around the origin; None: as far as the points go.
    """

    title: str
    places: np.ndarray
    labels: np.ndarray
    held_out: np.ndarray
    sphere: bool = False
    reach: float | None = None


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix that changes.

    Args:
        title: above it.
        counts: (n_frames, n_classes, n_classes); rows are the true speakers.
        names: of the classes.
        annotate: write the counts into the cells.
    """

    title: str
    counts: np.ndarray
    names: Sequence[str]
    annotate: bool = False


Panel = Points | Matrix


class Motion:
    """Moving panels in a grid. In a notebook it shows itself, with a slider and a button that plays it.

    Args:
        name: above the grid, before the epoch.
        panels: all with the same number of frames.
        epochs: (n_frames,) the time of each frame, in epochs.
        cols: panels in a row.
        figsize_per_plot: width and height of a panel in inches, of 100 pixels each.
        seconds: how long it runs.

    Raises:
        SpkverError: no panel, or a size or number of columns that cannot be drawn.
    """

    def __init__(
        self,
        name: str,
        panels: Sequence[Panel],
        epochs: np.ndarray,
        cols: int = 3,
        figsize_per_plot: tuple[float, float] = (5.0, 5.0),
        seconds: float = 6.0,
    ):
        if not panels or cols < 1 or not all(1 <= side <= 20 for side in figsize_per_plot):
            wide, high = figsize_per_plot
            raise SpkverError(
                f"an animation needs a panel, a column and sides of 1 to 20 inches; got {len(panels)} panels, "
                f"{cols} columns, {wide:g} x {high:g} inches"
            )
        self.name = name
        self.panels = list(panels)
        self.epochs = epochs
        self.seconds = seconds
        self.figure, self._update = self._draw(cols, figsize_per_plot)

    def __len__(self) -> int:
        return len(self.epochs)

    def __repr__(self) -> str:
        titles = ", ".join(panel.title for panel in self.panels)
        return f"<Motion of {self.name}: {titles}; {len(self)} frames>"

    def at(self, frame: int) -> Picture:
        """The figure brought to a frame; -1 is the last."""
        self._update(frame)
        return self.figure

    def frames(self) -> Iterator[Image.Image]:
        """Each frame as a picture."""
        canvas = FigureCanvasAgg(self.figure)
        for index in range(len(self)):
            self._update(index)
            canvas.draw()
            yield Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")

    def save(self, path: str | Path) -> Path:
        """Write a ``.gif``, an ``.mp4`` (where ffmpeg is installed) or the numbers as ``.npz``; returns the path.

        Raises:
            SpkverError: another ending, or no ffmpeg.
        """
        path = Path(path)
        save = {".gif": self._save_gif, ".mp4": self._save_mp4, ".npz": self._save_npz}.get(path.suffix)
        if save is None:
            raise SpkverError(f"{path}: an animation is kept as .gif, .mp4 or .npz")
        save(path)
        return path

    def save_frames(self, folder: str | Path) -> Path:
        """Write each frame as ``frame-0001.png``; returns the folder."""
        folder = Path(folder)
        for number, frame in enumerate(self.frames(), 1):
            with atomic_write(folder / f"frame-{number:04d}.png", "wb") as file:
                frame.save(file, "PNG")
        return folder

    def _save_gif(self, path: Path) -> None:
        indexed = in_one_palette(self.frames())
        each = round(1000 * self.seconds / len(indexed))
        durations = [each] * (len(indexed) - 1) + [max(each, 1500)]  # the end stands still for a moment
        with atomic_write(path, "wb") as file:
            indexed[0].save(
                file, "GIF", save_all=True, append_images=indexed[1:], duration=durations, loop=0, optimize=False
            )

    def _save_mp4(self, path: Path) -> None:
        if shutil.which("ffmpeg") is None:
            raise SpkverError(f"{path}: an MP4 needs ffmpeg, which is not installed; choose a .gif")
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.stem}.partial.mp4")
        FigureCanvasAgg(self.figure)
        writer = FFMpegWriter(fps=len(self) / self.seconds)  # type: ignore[arg-type]  # ffmpeg takes any number
        try:
            with writer.saving(self.figure, str(aside), dpi=self.figure.dpi):
                for index in range(len(self)):
                    self._update(index)
                    writer.grab_frame()
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)

    def _save_npz(self, path: Path) -> None:
        numbers: dict[str, np.ndarray] = {"epochs": self.epochs}
        for panel in self.panels:
            if isinstance(panel, Matrix):
                numbers[panel.title] = panel.counts
                continue
            numbers |= {panel.title: panel.places, "labels": panel.labels, "held_out": panel.held_out}
        with atomic_write(path, "wb") as file:
            np.savez_compressed(file, **numbers)  # type: ignore[arg-type]  # any may be allow_pickle

    def _repr_html_(self) -> str:
        return slider(in_one_palette(self.frames()), self.name, 1000 * self.seconds / len(self))

    def _draw(self, cols: int, figsize_per_plot: tuple[float, float]) -> tuple[Picture, Callable[[int], None]]:
        """The figure with its first frame, and a function that brings it to another."""
        n = len(self.panels)
        columns = min(cols, n)
        rows = -(-n // columns)
        figure, axes = picture(rows, columns, figsize_per_plot)
        figure.set_dpi(_PIXELS_AN_INCH)
        updates, with_names = [], []
        for place, panel in enumerate(self.panels):
            axis = axes.flat[place]
            if isinstance(panel, Matrix):
                updates.append(_draw_matrix(axis, panel))
                continue
            draw = _draw_points
            if panel.places.shape[2] == 3:
                axis.remove()
                axis = figure.add_subplot(rows, columns, place + 1, projection="3d")
                draw = _draw_space
            updates.append(draw(axis, panel))
            with_names.append((axis, panel))
        for axis in axes.flat[n:]:
            axis.set_axis_off()
        self._name_speakers(figure, with_names)
        title = figure.suptitle("")

        def update(index: int) -> None:
            for change in updates:
                change(index)
            epoch = self.epochs[index]
            title.set_text(f"{self.name}: " + ("before training" if epoch == 0 else f"epoch {epoch:.1f}"))

        update(0)
        # Laid out once; a layout for each frame would take longer than the frame.
        FigureCanvasAgg(figure).draw()
        figure.set_layout_engine("none")
        return figure, update

    def _name_speakers(self, figure: Picture, drawn: list[tuple[Axes, Points]]) -> None:
        """A legend, where all panels show the same few speakers."""
        speakers = {tuple(dict.fromkeys(panel.labels.tolist())) for _, panel in drawn}
        if len(speakers) == 1 and len(next(iter(speakers))) <= _MOST_IN_LEGEND:
            inches = max(len(name) for name in next(iter(speakers))) * 0.09 + 0.45
            most = max(int(figure.get_figwidth() / inches), 1)
            legend_below(figure, drawn[0][0], most, fontsize=9, markerscale=1.3, handletextpad=0.2, columnspacing=1.0)


def in_one_palette(frames: Iterable[Image.Image]) -> list[Image.Image]:
    """Frames in one palette, which holds the very colours that are drawn: none flickers, none merges with another."""
    palette = Image.new("P", (1, 1))
    palette.putpalette(_palette())
    return [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]


def slider(frames: Sequence[Image.Image], name: str, milliseconds: float, first: int | None = None) -> str:
    """HTML that shows one of the frames, with a slider over all of them and a button that plays them.

    It needs nothing but itself, so that it also works in a notebook that was made a web page.

    Args:
        frames: of one size.
        name: what the picture shows, for those who cannot see it.
        milliseconds: that a frame is shown for when it is played.
        first: the frame that is shown at first; None: the last.
    """
    first = len(frames) - 1 if first is None else first
    name = html.escape(name, quote=True)
    shown = "".join(
        f'<img alt="{name}, frame {index + 1} of {len(frames)}" style="max-width:100%" src="data:image/png;base64,'
        f'{base64.b64encode(_png(frame)).decode()}"{"" if index == first else " hidden"}>'
        for index, frame in enumerate(frames)
    )
    show = "[...this.closest('figure').querySelectorAll('img')].forEach((f,i)=>f.hidden=i!=this.value)"
    play = (
        "const s=this.nextElementSibling,next=()=>{s.value=s.value==s.max?0:+s.value+1;s.oninput()};"
        "if(this.timer){clearInterval(this.timer);this.timer=0}"
        f"else{{this.timer=setInterval(next,{max(milliseconds, 40):.0f})}}"
        "this.textContent=this.timer?'Pause':'Play'"
    )
    return (
        f'<figure style="margin:0">{shown}<div><button type="button" onclick="{play}">Play</button> '
        f'<input type="range" style="width:min(24em,70%)" min="0" max="{len(frames) - 1}" value="{first}" '
        f'aria-label="{name}, frame" oninput="{show}"></div></figure>'
    )


def _png(frame: Image.Image) -> bytes:
    buffer = io.BytesIO()
    frame.save(buffer, "PNG")
    return buffer.getvalue()


def _palette() -> list[int]:
    """Of a GIF: greys, every colour of a speaker in steps to white, those of a confusion matrix; at most 256."""
    toward = np.linspace(1, 0, _STEPS_TO_WHITE, endpoint=False)[:, None]
    colours = [np.repeat(np.linspace(0, 1, 32)[:, None], 3, axis=1)]
    colours += [toward * to_rgb(colour) + (1 - toward) for colour in COLOURS]
    colours.append(colormaps["viridis"](np.linspace(0, 1, 64))[:, :3])
    return np.round(255 * np.concatenate(colours)).astype(int).ravel().tolist()


def _draw_points(axis: Axes, panel: Points) -> Callable[[int], None]:
    groups = _scattered(axis, panel, panel.places[0])
    low, high = panel.places.min((0, 1)), panel.places.max((0, 1))
    # Equal axes: a distance is the same to the right as upwards.
    middle, half = (np.zeros(2), panel.reach) if panel.reach else ((low + high) / 2, 0.53 * (high - low).max() + 1e-6)
    axis.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half), title=panel.title)
    axis.set_box_aspect(1)

    def update(index: int) -> None:
        for artist, members in groups:
            artist.set_offsets(panel.places[index, members])

    return update


def _draw_space(axis, panel: Points) -> Callable[[int], None]:
    """Three dimensions, seen from a place that goes around them."""
    places = panel.places
    if panel.sphere:
        around, up = np.meshgrid(np.linspace(0, 2 * np.pi, 25), np.linspace(0, np.pi, 13))
        ball = np.cos(around) * np.sin(up), np.sin(around) * np.sin(up), np.cos(up)
        axis.plot_wireframe(*ball, color="grey", alpha=0.2, linewidth=0.5)
        places = places / np.maximum(np.linalg.norm(places, axis=2, keepdims=True), np.finfo(float).tiny)
    groups = _scattered(axis, panel, places[0])
    reach = 1.0 if panel.sphere else panel.reach or float(np.abs(places).max())
    limits = (-reach, reach)
    axis.set(title=panel.title, xlim=limits, ylim=limits, zlim=limits)
    # Without its box, which says nothing that the lines through the origin do not say, there is room to be larger.
    axis.set_axis_off()
    axis.set_box_aspect((1, 1, 1), zoom=1.35)
    if not panel.sphere:
        for line in np.eye(3):
            axis.plot(*np.stack([-reach * line, reach * line], 1), color="grey", alpha=0.5, linewidth=0.6)

    def update(index: int) -> None:
        for artist, members in groups:
            artist._offsets3d = tuple(places[index, members].T)
        axis.view_init(20, 30 + 60 * index / len(places))

    return update


def _scattered(axis, panel: Points, places: np.ndarray) -> list[tuple]:
    """Draw the points; returns each speaker's artist and rows."""
    before = len(axis.collections)
    size = _MANY if len(panel.labels) > _MANY_POINTS else _FEW
    scatter(axis, places, panel.labels, panel.held_out, size)
    rows = [np.flatnonzero(panel.labels == speaker) for speaker in dict.fromkeys(panel.labels.tolist())]
    return list(zip(axis.collections[before:], rows))


def _draw_matrix(axis: Axes, panel: Matrix) -> Callable[[int], None]:
    drawn = -1

    def update(index: int) -> None:
        # Most frames show the matrix of the frame before.
        nonlocal drawn
        if drawn >= 0 and np.array_equal(panel.counts[index], panel.counts[drawn]):
            return
        axis.clear()
        draw_confusion(axis, panel.counts[index], panel.names, panel.annotate)
        axis.set(xlabel="speaker that the head answers", ylabel="true speaker")
        axis.set_title(f"{panel.title}: {np.trace(panel.counts[index]) / max(panel.counts[index].sum(), 1):.0%} right")
        drawn = index

    return update
