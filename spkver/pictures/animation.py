"""Embeddings in motion: frames of a run's snapshots as GIF, MP4, PNG files or numbers."""

import base64
import io
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.animation import FFMpegWriter
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from spkver.errors import SpkverError
from spkver.files import atomic_write
from spkver.pictures.embeddings import confusions, scatter
from spkver.pictures.projection import METHODS, between, smooth
from spkver.pictures.run import Run
from spkver.pictures.style import Picture, legend_below, picture

# More names than this do not fit below a panel.
_MOST_IN_LEGEND = 10
_NEAR_WHITE = 245


@dataclass(frozen=True)
class Panel:
    """One moving picture of a grid: points ``(n_frames, n, 2 or 3)``, or an image ``(n_frames, rows, columns)``."""

    title: str
    values: np.ndarray
    is_image: bool = False


class Motion:
    """Moving panels side by side. In a notebook it shows itself.

    Args:
        name: of the run.
        panels: all with the same number of frames.
        epochs: (n_frames,) the time of each frame, in epochs.
        labels: (n,) the speaker of each point.
        held_out: (n,) bool.
        pixels: width and height of a panel.
        seconds: how long it runs.
    """

    def __init__(
        self,
        name: str,
        panels: Sequence[Panel],
        epochs: np.ndarray,
        labels: np.ndarray,
        held_out: np.ndarray,
        pixels: int = 500,
        seconds: float = 6.0,
    ):
        self.name = name
        self.panels = list(panels)
        self.epochs = epochs
        self.labels = labels
        self.held_out = held_out
        self.pixels = pixels
        self.seconds = seconds
        self.figure, self._update = self._draw()

    def __len__(self) -> int:
        return len(self.epochs)

    def at(self, frame: int) -> Picture:
        """The figure brought to a frame."""
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
        with atomic_write(path, "wb") as file:
            file.write(self._gif())

    def _gif(self) -> bytes:
        frames = list(self.frames())
        # One palette for all frames, so that colours do not flicker, taken from frames over the whole time.
        sample = Image.new("RGB", (frames[0].width, 3 * frames[0].height))
        for place, index in enumerate((0, len(frames) // 2, len(frames) - 1)):
            sample.paste(frames[index], (0, place * frames[0].height))
        palette = sample.quantize(64, dither=Image.Dither.NONE)
        palette.putpalette(_with_white(palette.getpalette() or []))
        indexed = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
        each = round(1000 * self.seconds / len(frames))
        durations = [each] * (len(frames) - 1) + [max(each, 1500)]  # the end stands still for a moment
        buffer = io.BytesIO()
        indexed[0].save(
            buffer, "GIF", save_all=True, append_images=indexed[1:], duration=durations, loop=0, optimize=False
        )
        return buffer.getvalue()

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
        numbers = {panel.title: panel.values for panel in self.panels}
        with atomic_write(path, "wb") as file:
            own = {"epochs": self.epochs, "labels": self.labels, "held_out": self.held_out}
            np.savez_compressed(file, **own, **numbers)  # type: ignore[arg-type]  # any may be allow_pickle

    def _repr_html_(self) -> str:
        return f'<img alt="{self.name}" src="data:image/gif;base64,{base64.b64encode(self._gif()).decode()}">'

    def _draw(self):
        """The figure with its first frame, and a function that brings it to another."""
        n = len(self.panels)
        columns = n if n <= 3 else int(np.ceil(np.sqrt(n)))
        rows = int(np.ceil(n / columns))
        side = self.pixels / 100
        figure, axes = picture(rows, columns, (side, side))
        figure.set_dpi(100)
        updates, panel_axes = [], []
        for place, panel in enumerate(self.panels):
            axis = axes.flat[place]
            if panel.is_image:
                updates.append(_draw_image(axis, panel))
                continue
            draw = _draw_points
            if panel.values.shape[2] == 3:
                axis.remove()
                axis = figure.add_subplot(rows, columns, place + 1, projection="3d")
                draw = _draw_sphere
            updates.append(draw(axis, panel, self.labels, self.held_out))
            panel_axes.append(axis)
        for axis in axes.flat[n:]:
            axis.set_axis_off()
        if panel_axes and len(set(self.labels.tolist())) <= _MOST_IN_LEGEND:
            legend_below(figure, panel_axes[0], _MOST_IN_LEGEND, fontsize=8)
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


def _with_white(palette: list[int]) -> list[int]:
    """A palette whose near-whites are white: the background is mixed with the edges of lines otherwise."""
    colours = np.array(palette).reshape(-1, 3)
    colours[colours.min(1) >= _NEAR_WHITE] = 255
    return colours.ravel().tolist()


def animate(
    run: Run,
    methods: Sequence[str] = ("pca",),
    confusion: bool = False,
    n_frames: int = 60,
    smoothing: int = 1,
    pixels: int = 500,
    speakers: str = "all",
) -> Motion:
    """A run's embeddings in motion.

    Args:
        run: with snapshots of two epochs or more.
        methods: of ``projection.METHODS``, one panel each; or ``"sphere"`` for embeddings of 3 dimensions.
        confusion: add the confusion matrix beside them.
        n_frames: frames, interpolated between the snapshots.
        smoothing: running mean over so many snapshots, an odd number; 1: none.
        pixels: width and height of a panel.
        speakers: ``"train"``, ``"held_out"`` or ``"all"``.

    Raises:
        SpkverError: an unknown method, one whose package is missing, too few snapshots.
    """
    if n_frames < 2 or smoothing < 1 or smoothing % 2 == 0 or pixels < 100:
        raise SpkverError(
            f"an animation needs 2 frames, an odd smoothing and 100 pixels; got {n_frames}, {smoothing}, {pixels}"
        )
    trajectory, labels = run.trajectory(speakers, at_least=2)
    held_out = run.subset.held_out[run.chosen(speakers)]
    panels = []
    for method in methods:
        places = smooth(_places(trajectory, method, run.config.seed), smoothing)
        panels.append(Panel(method, between(places, n_frames)))
    if confusion:
        matrices, _ = confusions(run)
        shares = np.stack([matrix / np.maximum(matrix.sum(1, keepdims=True), 1) for matrix in matrices])
        panels.append(Panel("confusion", between(shares, n_frames), is_image=True))
    epochs = np.interp(np.linspace(0, len(trajectory) - 1, n_frames), np.arange(len(trajectory)), run.snapshot_epochs)
    return Motion(run.name, panels, epochs, labels, held_out, pixels)


def _places(trajectory: np.ndarray, method: str, seed: int) -> np.ndarray:
    if method == "sphere":
        if trajectory.shape[2] != 3:
            raise SpkverError(f"--method sphere is for embeddings of 3 dimensions, these have {trajectory.shape[2]}")
        return trajectory
    if method not in METHODS:
        raise SpkverError(f"--method {method}: choose among {', '.join(METHODS)}, sphere")
    return METHODS[method](trajectory, seed)


def _draw_points(axis, panel: Panel, labels: np.ndarray, held_out: np.ndarray):
    scatter(axis, panel.values[0], labels, held_out)
    low, high = panel.values.min((0, 1)), panel.values.max((0, 1))
    space = 0.06 * np.maximum(high - low, 1e-6)
    axis.set(xlim=(low[0] - space[0], high[0] + space[0]), ylim=(low[1] - space[1], high[1] + space[1]))
    axis.set_title(panel.title)
    groups = [np.flatnonzero(labels == speaker) for speaker in dict.fromkeys(labels.tolist())]

    def update(index: int) -> None:
        for artist, members in zip(axis.collections, groups):
            artist.set_offsets(panel.values[index, members])

    return update


def _draw_sphere(axis, panel: Panel, labels: np.ndarray, held_out: np.ndarray):
    around, up = np.meshgrid(np.linspace(0, 2 * np.pi, 25), np.linspace(0, np.pi, 13))
    ball = np.cos(around) * np.sin(up), np.sin(around) * np.sin(up), np.cos(up)
    axis.plot_wireframe(*ball, color="grey", alpha=0.2, linewidth=0.5)
    unit = panel.values / np.linalg.norm(panel.values, axis=2, keepdims=True)
    groups = [np.flatnonzero(labels == speaker) for speaker in dict.fromkeys(labels.tolist())]
    before = len(axis.collections)
    scatter(axis, unit[0], labels, held_out)
    artists = axis.collections[before:]
    axis.set(title=panel.title, zticks=[], box_aspect=(1, 1, 1))

    def update(index: int) -> None:
        for artist, members in zip(artists, groups):
            artist._offsets3d = tuple(unit[index, members].T)
        axis.view_init(20, 30 + 60 * index / len(unit))

    return update


def _draw_image(axis, panel: Panel):
    image = axis.imshow(panel.values[0], vmin=0, vmax=1, cmap="viridis")
    axis.set(xticks=[], yticks=[], xlabel="speaker that the head answers", ylabel="true speaker")
    axis.grid(False)

    def update(index: int) -> None:
        image.set_data(panel.values[index])
        matrix = panel.values[index]
        axis.set_title(f"confusion: {np.trace(matrix) / max(matrix.sum(), 1e-9):.0%} right")

    return update
