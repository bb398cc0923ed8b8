"""What scores can tell apart: histograms of targets and nontargets, and DET curves."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike
from scipy.stats import norm

from spkver.pictures.style import BLUE, COLOURS, DASHES, GREY, ORANGE, RED, Picture, picture
from spkver.scoring.metrics import det_points, equal_error_rate, min_dcf

Systems = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Name of a system -> its scores and labels (1 target, 0 nontarget), each ``(n_trials,)``."""

# Error rates that get a tick on a DET's axes, in percent.
TICKS = (0.001, 0.01, 0.1, 0.5, 1, 2, 5, 10, 20, 40, 60, 80)
# The highest error rate on a DET's axes.
_HIGHEST = 0.6
# A curve has one point a score; of so many, spread evenly over the picture, more cannot be seen.
_MOST_POINTS = 1000
_PANELS_A_ROW = 3
_SCORE_AXES = {
    **dict.fromkeys(("cosine", "untrained", "onnx", "onnx_int8"), "cosine"),
    "asnorm": "AS-norm score",
    "snorm": "S-norm score",
    "znorm": "Z-norm score",
    "tnorm": "T-norm score",
    **dict.fromkeys(("plda", "plda_adapted"), "PLDA log-likelihood ratio, not calibrated"),
    **dict.fromkeys(("calibration", "fusion"), "log-likelihood ratio"),
}
# The points of the EER and of each minDCF.
_POINT_MARKERS = "o^vsD"


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
        axis.set(xlabel=score_axis(name), ylabel="density", title=f"{name}\nEER {eer:.2%}", yticks=[])
    handles, names = axes[0, 0].get_legend_handles_labels()
    names[-1] = "threshold at the EER"
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)
    return figure


def det_curves(runs: Mapping[str, Systems], p_targets: Sequence[float] = (0.01,)) -> Picture:
    """Detection error trade-off of the systems of several runs, with the points of the EER and of each minDCF.

    A run has a colour and a system a dash; untrained encoders are grey. Of one run alone, systems have colours.
    Where no curve has a whole error the picture is shaded: what is drawn there is the line's way to zero.

    A. Martin et al., "The DET curve in assessment of detection task performance", Eurospeech 1997: on
    normal-deviate axes, Gaussian scores give straight lines.

    Args:
        runs: name of a run -> its systems.
        p_targets: priors of the minDCF points.
    """
    curves = [(run, name, *both) for run, systems in runs.items() for name, both in systems.items()]
    names = list(dict.fromkeys(name for _, name, _, _ in curves))
    figure, axes = picture(1, 1, (6.2, 4.1))
    axis = axes[0, 0]
    least = [0.5 / max(np.count_nonzero(labels == kind) for *_, labels in curves) for kind in (0, 1)]
    for run, name, scores, labels in curves:
        style = _curve_style(list(runs).index(run), names.index(name), name, alone=len(runs) == 1)
        points = operating_points(scores, labels, p_targets)
        fpr, fnr = thinned(*det_points(scores, labels)[:2])
        axis.plot(*on_axes(fpr, fnr, labels), label=f"{run}, {name}: {points[0][0]}", **style)
        for marker, (_, fpr_there, fnr_there) in zip(_POINT_MARKERS, points):
            axis.plot(*on_axes(fpr_there, fnr_there, labels), marker, color=style["color"], markersize=5)
    for marker, what in zip(_POINT_MARKERS, ["the EER", *(f"minDCF({p_target:g})" for p_target in p_targets)]):
        axis.plot([], [], marker, color=GREY, label=f"at {what}")
    _percent_axes(axis, [0.9 * value for value in least])
    one_error = norm.ppf([2 * value for value in least])
    axis.axvspan(axis.get_xlim()[0], one_error[0], color=GREY, alpha=0.15, linewidth=0, label="less than one error")
    axis.axhspan(axis.get_ylim()[0], one_error[1], color=GREY, alpha=0.15, linewidth=0)
    axis.axline((0, 0), slope=1, color=GREY, linewidth=0.8, linestyle=":")
    axis.set(aspect="equal", title="detection error trade-off")
    # Beside the axes, which keep their size: the picture grows with what the legend says.
    handles, said = axis.get_legend_handles_labels()
    figure.set_layout_engine("compressed")
    figure.legend(handles, said, loc="outside right center", frameon=False, handlelength=2.6)
    figure.set_size_inches(5.2 + 0.083 * max(map(len, said)), max(4.1, 0.22 * len(said) + 0.6))
    return figure


def _curve_style(run: int, system: int, name: str, alone: bool) -> dict:
    """Colour of the run and dash of the system; of one run alone, a colour for each system."""
    if name.split(", ")[-1] == "untrained":
        return {"color": GREY, "linestyle": DASHES[run % len(DASHES)], "linewidth": 1.2}
    colour = COLOURS[(system if alone else run) % len(COLOURS)]
    return {"color": colour, "linestyle": DASHES[system % len(DASHES)], "linewidth": 1.6}


def _percent_axes(axis: Axes, lowest: Sequence[float]) -> None:
    """Normal-deviate axes labelled in percent, from the lowest false alarm and miss rate up to 60 %."""
    for which, low, name in zip("xy", lowest, ("false alarms (% of nontargets)", "misses (% of targets)")):
        ticks = [tick for tick in TICKS if low <= tick / 100 <= _HIGHEST]
        places = norm.ppf(np.array(ticks) / 100)
        axis.set(**{f"{which}ticks": places, f"{which}ticklabels": [f"{tick:g}" for tick in ticks]})
        axis.set(**{f"{which}lim": norm.ppf([low, _HIGHEST]), f"{which}label": name})


def score_axis(system: str) -> str:
    """What the scores of a system are, by its name: ``"cosine+asnorm"`` -> ``"AS-norm score"``."""
    *_, last = system.split(", ")[-1].split("+")
    return _SCORE_AXES.get(last, "score")


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
