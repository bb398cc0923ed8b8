"""What scores can tell apart: histograms of targets and nontargets, and DET curves."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm

from spkver.pictures.style import BLUE, ORANGE, RED, Picture, legend_beside, line_style, picture
from spkver.scoring.metrics import det_points, equal_error_rate, min_dcf

Systems = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Name of a system -> its scores and labels (1 target, 0 nontarget), each ``(n_trials,)``."""

# Error rates that get a tick on a DET's axes, in percent.
TICKS = (0.01, 0.1, 0.5, 1, 2, 5, 10, 20, 40, 60, 80)
# The part of a curve that matters: where neither rate is above this.
_HIGHEST = 0.6
# A curve has one point a score; of so many, spread evenly over the picture, more cannot be seen.
_MOST_POINTS = 1000
_PANELS_A_ROW = 3


def score_histograms(systems: Systems) -> Picture:
    """Scores of targets and nontargets, with the threshold at the EER, one panel a system."""
    columns = min(len(systems), _PANELS_A_ROW)
    figure, axes = picture(-(-len(systems) // columns), columns, (4.6, 3.6))
    for axis in axes.flat[len(systems) :]:
        axis.set_axis_off()
    for axis, (name, (scores, labels)) in zip(axes.flat, systems.items()):
        scores, is_target = np.asarray(scores), np.asarray(labels) == 1
        eer, threshold = equal_error_rate(scores, labels)
        bins = np.linspace(scores.min(), scores.max(), 80)
        axis.hist(scores[~is_target], bins, density=True, color=ORANGE, alpha=0.6, label="nontargets")
        axis.hist(scores[is_target], bins, density=True, color=BLUE, alpha=0.6, label="targets")
        axis.axvline(threshold, color=RED, linestyle="--", label=f"threshold {threshold:.3f}")
        axis.set(xlabel="score", ylabel="density", title=f"{name}\nEER {eer:.2%}", yticks=[])
    handles, names = axes[0, 0].get_legend_handles_labels()
    names[-1] = "threshold at the EER"
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)
    return figure


def det_curves(systems: Systems, p_targets: Sequence[float] = (0.01,)) -> Picture:
    """Detection error trade-off of several systems, with the points of the EER and of each minDCF.

    A. Martin et al., "The DET curve in assessment of detection task performance", Eurospeech 1997: on
    normal-deviate axes, Gaussian scores give straight lines.

    Args:
        systems: by name.
        p_targets: priors of the minDCF points.
    """
    # The legend stands beside the axes; 8 point letters are some 0.065 inches wide.
    figure, axes = picture(1, 1, (max(7.6, 6.2 + 0.066 * max(map(len, systems))), 5.0))
    axis = axes[0, 0]
    lowest = 0.05
    for index, (name, (scores, labels)) in enumerate(systems.items()):
        style = line_style(index)
        fpr, fnr = thinned(*det_points(scores, labels)[:2])
        shown = np.concatenate([fnr[(fpr <= _HIGHEST) & (fnr > 0)], fpr[(fnr <= _HIGHEST) & (fpr > 0)]])
        lowest = min(lowest, 0.7 * shown.min(initial=lowest))
        axis.plot(*on_axes(fpr, fnr, labels), label=name, **style)
        for marker, (what, fpr_there, fnr_there) in zip("o^vsD", operating_points(scores, labels, p_targets)):
            axis.plot(*on_axes(fpr_there, fnr_there, labels), marker, color=style["color"], label=what)
    axis.axline((0, 0), slope=1, color="grey", linewidth=0.8, linestyle=":")
    ticks = [tick for tick in TICKS if tick / 100 >= lowest]
    axis.set_xticks(norm.ppf(np.array(ticks) / 100), [f"{tick:g}" for tick in ticks], fontsize=8)
    axis.set_yticks(norm.ppf(np.array(ticks) / 100), [f"{tick:g}" for tick in ticks], fontsize=8)
    limits = norm.ppf([lowest, _HIGHEST])
    axis.set(xlim=limits, ylim=limits, aspect="equal", title="detection error trade-off")
    axis.set(xlabel="false alarms (% of nontargets)", ylabel="misses (% of targets)")
    legend_beside(axis, fontsize=8)
    return figure


def thinned(fpr: np.ndarray, fnr: np.ndarray, most: int = _MOST_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most about ``most`` points of a DET curve, evenly along its length on normal-deviate axes."""
    if len(fpr) <= most:
        return fpr, fnr
    x, y = norm.ppf(np.clip(fpr, 1e-6, 1 - 1e-6)), norm.ppf(np.clip(fnr, 1e-6, 1 - 1e-6))
    along = np.append(0, np.cumsum(np.hypot(np.diff(x), np.diff(y))))
    kept = np.unique(np.searchsorted(along, np.linspace(0, along[-1], most)).clip(max=len(fpr) - 1))
    return fpr[kept], fnr[kept]


def on_axes(fpr: ArrayLike, fnr: ArrayLike, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Error rates as normal deviates; a rate of 0 or 1, which has no place on such axes, is drawn at half a trial."""
    n_targets = np.count_nonzero(labels)
    half_target, half_nontarget = 0.5 / n_targets, 0.5 / (len(labels) - n_targets)
    x = norm.ppf(np.clip(fpr, half_nontarget, 1 - half_nontarget))
    return x, norm.ppf(np.clip(fnr, half_target, 1 - half_target))


def operating_points(
    scores: np.ndarray, labels: np.ndarray, p_targets: Sequence[float]
) -> list[tuple[str, float, float]]:
    """The EER and each minDCF: its figure in words, and the false positive and false negative rate there."""
    scores, is_target = np.asarray(scores), np.asarray(labels) == 1
    eer, _ = equal_error_rate(scores, labels)
    points = [(f"EER {eer:.2%}", eer, eer)]
    for p_target in p_targets:
        cost, threshold = min_dcf(scores, labels, p_target)
        accepted = scores >= threshold
        rates = accepted[~is_target].mean(), 1 - accepted[is_target].mean()
        points.append((f"minDCF({p_target:g}) {cost:.3f}", *rates))
    return points
