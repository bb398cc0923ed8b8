"""How the training itself went: loss, accuracy, schedules, gradients, held-out EER."""

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from spkver.errors import SpkverError
from spkver.experiment.snapshots import GRADIENT_EDGES
from spkver.pictures.run_data import RunData
from spkver.pictures.style import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, Picture, epoch_axis, legend_beside, picture

# Points of a smoothed line: so many steps are averaged that about this many remain.
_POINTS = 100
# A limit on the gradient norm that is so many times the highest one is out of the picture.
_FAR = 10
# Share of weights that a picture of gradients leaves out at either end.
_FEWEST = 0.002
# Share of clipped steps from which a picture says what that means.
_MOST_CLIPPED = 0.5
_IF_ALL_CLIPPED = {
    "adaptive": "clipping most steps is fine here: this\noptimizer's step hardly depends on the norm",
    "sgd": "most steps have the same length now:\nraise training.clip_norm, or lower the rate",
}


def training_records(run: RunData) -> Picture:
    """Loss, accuracy, learning rate, margin and gradient norm over the steps; held-out EER over the epochs.

    Dotted lines: where the margin starts to grow and where it is whole. Loss rises between them, for the margin
    makes the same embeddings cost more. That most steps are clipped is no fault: Adam's and Muon's steps hardly
    depend on the gradient's length, so a low limit only keeps single steps from weighing more than others. A norm
    that grows from epoch to epoch is one.

    In a good run loss and held-out EER fall and then stay. In a bad one the loss jumps or stays at ln(speakers), or the
    held-out EER rises while the loss goes on falling (learnt by heart).

    Source: the margin's schedule is WeSpeaker's, clipping that of R. Pascanu et al., ICML 2013.
    """
    steps, epochs = run.steps, run.epochs
    figure, axes = picture(2, 3, (4.2, 2.9))
    for axis, key, title, colour in (
        (axes[0, 0], "loss", "loss (cross-entropy)", BLUE),
        (axes[0, 1], "accuracy", "accuracy on training crops", GREEN),
    ):
        axis.plot(steps["position"], steps[key], color=colour, alpha=0.2, linewidth=0.6)
        axis.plot(*smoothed(steps["position"], steps[key]), color=colour)
        axis.set_title(title)
    axes[0, 1].set_ylim(-0.02, 1.02)

    if "held_out_eer" in epochs:
        best = int(np.nanargmin(epochs["held_out_eer"]))
        eer = 100 * epochs["held_out_eer"]
        axes[0, 2].plot(epochs["epoch"], eer, "o-", color=RED, markersize=4)
        axes[0, 2].set_title(f"held-out EER (%); best {eer[best]:.2f} in epoch {epochs['epoch'][best]:.0f}")
        axes[0, 2].set_ylim(bottom=0)
    else:
        _say(axes[0, 2], "no speakers were held out", "held-out EER")

    axes[1, 0].plot(steps["position"], steps["lr"], color=ORANGE)
    axes[1, 0].set_title("learning rate")
    axes[1, 0].ticklabel_format(axis="y", scilimits=(-2, 2))
    axes[1, 1].plot(steps["position"], steps["margin"], color=PURPLE)
    schedule = run.config.margin_schedule
    grows = schedule.end_epoch > schedule.start_epoch and schedule.start_epoch < steps["position"][-1]
    if grows:
        axes[1, 1].set_title(f"margin (radians), grows from epoch {schedule.start_epoch:g} to {schedule.end_epoch:g}")
    else:
        axes[1, 1].set_title("margin (radians)")
    axes[1, 1].set_ylim(bottom=-0.01)

    before = steps["grad_norm"]
    limit = run.config.training.clip_norm
    axes[1, 2].plot(*smoothed(steps["position"], before), color=GREY, label="before")
    axes[1, 2].plot(*smoothed(steps["position"], np.minimum(before, limit)), "--", color=BLUE, label="after")
    clipped = np.nanmean(steps["clipped"])
    axes[1, 2].set_title(f"gradient norm; {clipped:.0%} of steps clipped at {limit:g}")
    if clipped > _MOST_CLIPPED:
        what = _IF_ALL_CLIPPED["sgd" if run.config.optimizer.name == "sgd" else "adaptive"]
        axes[1, 2].text(0.98, 0.7, what, ha="right", va="top", transform=axes[1, 2].transAxes, fontsize=8, color=GREY)
    axes[1, 2].set_ylim(bottom=0)
    axes[1, 2].legend(frameon=False)
    for axis in axes.flat:
        epoch_axis(axis)
        for epoch in (schedule.start_epoch, schedule.end_epoch) if grows else ():
            axis.axvline(epoch, color=PURPLE, linewidth=0.9, linestyle=":", zorder=0.5)
    figure.suptitle(run.name)
    return figure


def gradients(run: RunData) -> Picture:
    """Gradient norms of all steps, and the magnitudes of single weights' gradients, before and after clipping.

    In a good run norms lie within a power of ten, and clipping takes the upper tail, or all evenly. In a bad one there
    are norms ten times the others (single batches throw the weights about), or most weights' gradients are 0.

    Source: R. Pascanu et al., "On the difficulty of training recurrent neural networks", ICML 2013.
    """
    norms = run.steps["grad_norm"]
    norms = norms[np.isfinite(norms) & (norms > 0)]
    if not len(norms):
        raise SpkverError(f"{run.folder}: no step had a finite gradient, there is nothing to draw")
    limit = run.config.training.clip_norm
    snapshots = [snapshot for snapshot in _snapshots(run) if snapshot.gradients_before.sum()]
    figure, axes = picture(1, 2, (5.6, 3.6))
    left, right = axes[0]
    # A limit far above all norms clips nothing: an axis that reached it would show nothing else.
    reached = limit <= _FAR * norms.max()
    ends = (norms.min(), norms.max(), limit if reached else norms.max())
    bins = np.geomspace(min(ends) * 0.9, max(ends) * 1.1, 50)
    left.hist(norms, bins, color=GREY, alpha=0.5, label="before")
    left.hist(np.minimum(norms, limit), bins, histtype="step", color=BLUE, linewidth=1.6, label="after")
    if reached:
        left.axvline(limit, color=RED, linestyle=":", label=f"clipped at {limit:g}")
    left.set(xscale="log", xlabel="gradient norm of a step", ylabel="steps", title=f"{len(norms)} steps")
    left.legend(frameon=False)
    left.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.xaxis.set_major_formatter(FuncFormatter(lambda norm, _: f"{norm:g}"))
    left.xaxis.set_minor_formatter(NullFormatter())

    if not snapshots:
        _say(right, "no snapshots were kept", "single weights")
        return figure
    middle = (GRADIENT_EDGES[1:] + GRADIENT_EDGES[:-1]) / 2
    chosen = {index: snapshots[index] for index in (0, len(snapshots) // 2, len(snapshots) - 1)}
    for snapshot, colour in zip(chosen.values(), (ORANGE, GREEN, PURPLE)):
        for counts, dash, when in (
            (snapshot.gradients_before, "-", "before"),
            (snapshot.gradients_after, ":", "after"),
        ):
            right.plot(10**middle, counts / counts.sum(), dash, color=colour, label=f"epoch {snapshot.epoch}, {when}")
    # Single weights whose gradient is next to nothing would make three quarters of the picture empty.
    share = np.cumsum(sum(snapshot.gradients_before + snapshot.gradients_after for snapshot in chosen.values()))
    low, high = np.searchsorted(share, np.array([_FEWEST, 1 - _FEWEST]) * share[-1])
    right.set(xscale="log", xlim=(10 ** middle[low], 10 ** middle[high]), xlabel="|gradient| of a weight")
    right.set(ylabel="share of weights", title="last step of an epoch")
    legend_beside(right)
    figure.suptitle(run.name)
    return figure


def smoothed(position: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over groups of neighbouring steps, so that a long run stays readable; NaN is left out."""
    size = max(len(values) // _POINTS, 1)
    starts = np.arange(0, len(values), size)
    finite = np.isfinite(values)
    counts = np.add.reduceat(finite.astype(float), starts)
    with np.errstate(invalid="ignore"):
        means = np.add.reduceat(np.where(finite, values, 0.0), starts) / counts
    return np.add.reduceat(position, starts) / np.diff(np.append(starts, len(values))), means


def _snapshots(run: RunData) -> list:
    try:
        return run.snapshots
    except SpkverError:
        return []


def _say(axis, what: str, title: str) -> None:
    axis.text(0.5, 0.5, what, ha="center", va="center", transform=axis.transAxes, color=GREY)
    axis.set(xticks=[], yticks=[], title=title)
