"""For notebooks: sliders for theta, m and s of a margin and for a threshold, and pictures side by side."""

import base64
import html
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from spkver.errors import SpkverError
from spkver.pictures.margin import raised_nontarget_logit, target_logit
from spkver.pictures.motion import in_one_palette, slider
from spkver.pictures.style import BLUE, GREY, ORANGE, PURPLE, RED, Picture, legend_beside, picture
from spkver.scoring.metrics import equal_error_rate


def margin_at(theta: float, margin: float, scale: float) -> Picture:
    """Logit curves of one margin with a point at one angle.

    Args:
        theta: in degrees, 0 to 180.
        margin: in radians.
        scale: of the cosines.
    """
    degrees = np.linspace(0, 180, 361)
    radians, here = np.radians(degrees), np.radians([theta])
    curves = (
        ("no margin: s cos(theta)", 0.0, ORANGE, "--"),
        ("ArcFace: s cos(theta + m)", margin, BLUE, "-"),
    )
    figure, axes = picture(1, 1, (6.4, 3.6))
    axis = axes[0, 0]
    for name, m, colour, dash in curves:
        axis.plot(degrees, target_logit(radians, margin=m, scale=scale), dash, color=colour, label=name)
        axis.plot(theta, target_logit(here, margin=m, scale=scale), "o", color=colour)
    if margin > 0:
        raised = raised_nontarget_logit(radians, margin, scale)
        axis.plot(degrees, raised, ":", color=PURPLE, label="inter-topk: another speaker, raised")
    axis.axvspan(180 - np.degrees(margin), 180, color=RED, alpha=0.08, label="fallback")
    axis.axvline(theta, color=GREY, linewidth=0.8)
    axis.set(xlabel="theta (degrees)", ylabel="logit", xticks=range(0, 181, 30), xlim=(0, 180))
    axis.set_title(f"theta = {theta:g}°, m = {margin:g} rad, s = {scale:g}")
    legend_beside(axis)
    return figure


def margin_sliders():
    """``margin_at`` with sliders for theta, m and s.

    Raises:
        SpkverError: ipywidgets is not installed.
    """
    widgets = _ipywidgets()
    return widgets.interactive(
        _shown(margin_at),
        theta=widgets.IntSlider(40, 0, 180, description="theta (°)"),
        margin=widgets.FloatSlider(0.2, min=0.0, max=1.0, step=0.02, description="m (rad)"),
        scale=widgets.IntSlider(32, 1, 64, description="s"),
    )


@dataclass(frozen=True)
class Shown:
    """What a notebook shows as HTML, also in the web page made of it.

    Args:
        html: the fragment.
    """

    html: str

    def _repr_html_(self) -> str:
        return self.html


def threshold_slider(scores: np.ndarray, labels: np.ndarray, n_places: int = 15) -> Shown:
    """Two histograms, of targets and nontargets, and a threshold to move over them: what it refuses and accepts.

    Args:
        scores: (n,) of trials.
        labels: (n,) 1 for targets.
        n_places: of the threshold, from the lowest target to the highest nontarget and half as far again on both sides;
            the slider begins at the one of the equal error rate.
    """
    labels = np.asarray(labels, bool)
    targets, others = scores[labels], scores[~labels]
    _, threshold = equal_error_rate(scores, labels)
    lowest, highest = sorted((float(targets.min()), float(others.max())))
    width = max(highest - lowest, 1e-3) / 2
    places = np.linspace(lowest - width, highest + width, n_places)
    # The slider begins where both rates are equal, so that one of its places is exactly there.
    first = int(np.abs(places - threshold).argmin())
    places[first] = threshold
    figure, axes = picture(1, 1, (6.4, 3.4))
    axis = axes[0, 0]
    bins = np.linspace(scores.min(), scores.max(), 60)
    for values, colour, name in ((others, ORANGE, "different speakers"), (targets, BLUE, "same speaker")):
        shares = np.full(len(values), 1 / len(values))
        axis.hist(values, bins, weights=shares, histtype="stepfilled", color=colour, alpha=0.6, label=name)
    line = axis.axvline(places[0], color=RED)
    axis.set(xlabel="score", ylabel="share of the trials")
    axis.legend(frameon=False)
    title = axis.set_title(" \n ")
    canvas = FigureCanvasAgg(figure)
    # Laid out once; a layout for each frame would take longer than the frame.
    canvas.draw()
    figure.set_layout_engine("none")
    frames = []
    for place in places:
        refused, accepted = float((targets < place).mean()), float((others >= place).mean())
        line.set_xdata([place, place])
        title.set_text(
            f"threshold {place:.3f}: of 1,000 trials of the same speaker {1000 * refused:.0f} are refused,\n"
            f"of 1,000 of different speakers {1000 * accepted:.0f} are accepted"
        )
        canvas.draw()
        frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))
    return Shown(slider(in_one_palette(frames), "scores and a threshold", 400, first))


def beside(good: Picture, bad: Picture, what: str) -> Shown:
    """A good run's picture above a bad run's.

    Args:
        good, bad: of the same kind.
        what: is wrong in the bad run.
    """
    rows = "".join(
        f'<figcaption style="margin:.6em 0 .2em;font-weight:600">{html.escape(words)}</figcaption>'
        f'<img alt="{html.escape(words, quote=True)}" style="max-width:100%" '
        f'src="data:image/png;base64,{base64.b64encode(shown._repr_png_()).decode()}">'
        for shown, words in ((good, "A good run"), (bad, f"A bad run: {what}"))
    )
    return Shown(f'<figure style="margin:0">{rows}</figure>')


def _shown(draw: Callable) -> Callable:
    """``interactive`` throws away what a function returns unless it is displayed."""

    def show(**values):
        from IPython.display import display

        display(draw(**values))

    return show


def _ipywidgets():
    try:
        import ipywidgets
    except ImportError as error:
        raise SpkverError(f"sliders need ipywidgets ({error}): pip install 'spkver[notebook]'") from None
    return ipywidgets
