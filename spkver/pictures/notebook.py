"""Sliders for notebooks: theta, m and s of a margin."""

from collections.abc import Callable

import numpy as np

from spkver.errors import SpkverError
from spkver.pictures.margin import raised_nontarget_logit, target_logit
from spkver.pictures.style import BLUE, GREY, ORANGE, PURPLE, RED, Picture, legend_beside, picture


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
