"""How a margin works: angles, logits, decision boundaries and the loss, computed by the heads themselves.

Every curve is what the real head returns for an embedding put at an angle to its class's weight.
"""

import math
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import rc_context
from matplotlib.patches import Patch

from spkver.errors import SpkverError
from spkver.heads import ArcMarginProduct, ArcMarginProductIntertopkSubcenter, Head, NormFace, Softmax
from spkver.pictures.style import BLACK, BLUE, GREY, ORANGE, RED, STYLE, Picture, legend_below, line_style, picture

MARGINS = (0.2, 0.5)
SCALES = (32.0,)
_ANGLES = np.linspace(0.0, math.pi, 721)


def head_at(weights: Sequence[Sequence[float]], kind: Callable[..., Head] = ArcMarginProduct, **arguments) -> Head:
    """A head with the given class weights ``(n_classes, dim)``."""
    rows = torch.tensor(weights, dtype=torch.float32)
    head = kind(rows.shape[1], len(rows) // arguments.get("K", 1), **arguments)
    with torch.no_grad():
        head.weight.copy_(rows)
    return head


def target_logit(theta: np.ndarray, kind: Callable[..., Head] = ArcMarginProduct, **arguments) -> np.ndarray:
    """The target's logit when the embedding stands at ``theta`` radians from its class's weight.

    Args:
        theta: (n,) in [0, pi].
        kind: of head, made with ``arguments`` (margin, scale, easy_margin).

    Returns:
        (n,) from the head's own ``forward``.
    """
    head = head_at([[1.0, 0.0], [-1.0, 0.0]], kind, **arguments)
    with torch.inference_mode():
        return head(_unit(theta), torch.zeros(len(theta), dtype=torch.int64))[:, 0].numpy()


def raised_nontarget_logit(theta: np.ndarray, margin: float, scale: float) -> np.ndarray:
    """The logit of another speaker at ``theta``, raised by sub-center inter-topk's penalty.

    Returns:
        (n,) from ``ArcMarginProductIntertopkSubcenter`` with one sub-center and one penalised class.
    """
    # The target's weight stands upright on the plane in which the embedding turns, so it is never nearest.
    head = head_at(
        [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]],
        ArcMarginProductIntertopkSubcenter,
        margin=margin,
        scale=scale,
        K=1,
        k_top=1,
    )
    flat = F.pad(_unit(theta), (0, 1))
    with torch.inference_mode():
        return head(flat, torch.zeros(len(theta), dtype=torch.int64))[:, 1].numpy()


def shifted_angle(theta: np.ndarray, margin: float, easy_margin: bool = False) -> np.ndarray:
    """The angle, in radians, that the head treats ``theta`` as; beyond pi - margin NaN (there is none)."""
    cosine = target_logit(theta, margin=margin, scale=1.0, easy_margin=easy_margin)
    angle = np.arccos(np.clip(cosine, -1, 1))
    return angle if easy_margin else np.where(theta <= math.pi - margin, angle, np.nan)


def boundary_angle(theta_between: float, kind: Callable[..., Head] = ArcMarginProduct, **arguments) -> float:
    """Where, from the target's weight, target and other class get equal logits in training, in radians.

    Args:
        theta_between: angle between the two classes' weights.

    Returns:
        The angle towards the other class; without a margin half of ``theta_between``.
    """
    other = [math.cos(theta_between), math.sin(theta_between)]
    head = head_at([[1.0, 0.0], other], kind, **arguments)

    def advantage(theta: float) -> float:
        with torch.inference_mode():
            logits = head(_unit(np.array([theta])), torch.zeros(1, dtype=torch.int64))[0]
        return float(logits[0] - logits[1])

    low, high = 0.0, theta_between
    if advantage(low) <= 0:
        return 0.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if advantage(middle) > 0 else (low, middle)
    return low


def angles(margins: Sequence[float] = MARGINS) -> Picture:
    """theta -> theta + m as a polar picture: the angle that training sees instead of the real one."""
    figure, axes = picture(1, len(margins), (4.2, 2.7), subplot_kw={"projection": "polar"})
    for axis, margin in zip(axes[0], margins):
        theta = _ANGLES[~np.isnan(shifted_angle(_ANGLES, margin))]
        axis.plot(theta, np.full_like(theta, 1.0), color=BLUE, linewidth=2, label="theta, the embedding's angle")
        axis.plot(shifted_angle(theta, margin), np.full_like(theta, 0.8), "--", color=ORANGE, label="theta + m")
        for start in np.linspace(0.15, math.pi - margin, 7):
            end = float(shifted_angle(np.array([start]), margin)[0])
            axis.annotate("", (end, 0.8), (start, 1.0), arrowprops={"arrowstyle": "->", "color": GREY})
        axis.plot(
            np.linspace(math.pi - margin, math.pi), np.ones(50), color=RED, linewidth=4, label="beyond pi - m: fallback"
        )
        axis.set_thetalim(0, math.pi)
        axis.set_rlim(0, 1.1)
        axis.set_yticks([])
        axis.set_title(f"m = {margin:g} rad ({math.degrees(margin):.0f}°)", y=0.92)
    legend_below(figure, axes[0, 0], most=3)
    return figure


def logit_curves(margins: Sequence[float] = MARGINS, scales: Sequence[float] = SCALES) -> Picture:
    """The target's logit over theta for every head, and another speaker's logit as inter-topk raises it.

    A row of panels for each scale, a column for each margin.
    """
    figure, axes = picture(len(scales), len(margins), (5.2, 4.2), sharey="row")
    for axis, (scale, margin) in zip(axes.flat, product(scales, margins)):
        curves = {
            "softmax (|x| = |w| = sqrt(s))": target_logit(_ANGLES, _scaled_softmax(scale)),
            "NormFace: s cos(theta)": target_logit(_ANGLES, NormFace, scale=scale),
            "ArcFace: s cos(theta + m)": target_logit(_ANGLES, margin=margin, scale=scale),
            "ArcFace, easy margin": target_logit(_ANGLES, margin=margin, scale=scale, easy_margin=True),
            "inter-topk: another speaker, raised": raised_nontarget_logit(_ANGLES, margin, scale),
        }
        for index, (name, logit) in enumerate(curves.items()):
            axis.plot(
                np.degrees(_ANGLES),
                logit,
                label=name,
                linewidth=4 if index == 0 else 1.8,
                **line_style(index),
                alpha=0.4 if index == 0 else 1,
            )
        turn = math.degrees(math.pi - margin)
        axis.axvspan(turn, 180, color=RED, alpha=0.08)
        axis.annotate(
            "fallback\nbeyond\npi - m",
            (turn, 0.55 * scale),
            ha="right",
            color=RED,
            fontsize=9,
            xytext=(-4, 0),
            textcoords="offset points",
        )
        axis.set(title=f"m = {margin:g} rad, s = {scale:g}", xlabel="theta, angle to the weight (degrees)")
        axis.set_xticks(range(0, 181, 30))
    for axis in axes[:, 0]:
        axis.set_ylabel("logit")
    legend_below(figure, axes[0, 0], most=3)
    return figure


def boundaries(margins: Sequence[float] = MARGINS, theta_between: float = math.pi / 2) -> Picture:
    """Two classes in two dimensions: where each must be to win against the margin, and the gap between."""
    margins = [0.0, *margins]
    figure, axes = picture(1, len(margins), (3.3, 3.7))
    figure.set_layout_engine("compressed")  # made for axes of a fixed shape: the usual one cuts their titles off
    around = np.linspace(0, 2 * math.pi, 1441)
    weights = [[1.0, 0.0], [math.cos(theta_between), math.sin(theta_between)]]
    for axis, margin in zip(axes[0], margins):
        head = head_at(weights, margin=margin)
        axis.plot(np.cos(around), np.sin(around), color=GREY, linewidth=0.8)
        for index, colour in enumerate((BLUE, ORANGE)):
            with torch.inference_mode():
                logits = head(_unit(around), torch.full((len(around),), index))
            wins = (logits.argmax(1) == index).numpy()
            for arc in _arcs(around, wins):
                axis.fill(np.r_[0, np.cos(arc)], np.r_[0, np.sin(arc)], color=colour, alpha=0.25)
            axis.annotate(
                f"w{index + 1}",
                (0, 0),
                1.15 * np.array(weights[index]),
                color=colour,
                ha="center",
                va="center",
                arrowprops={"arrowstyle": "<|-", "color": colour, "linewidth": 2},
            )
        gap = theta_between - 2 * boundary_angle(theta_between, margin=margin)
        axis.set_title("no margin" if margin == 0 else f"m = {margin:g} rad: a gap of {math.degrees(gap):.0f}°", pad=10)
        axis.set(xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), aspect="equal")
        axis.set_axis_off()
    patches = [
        Patch(color=colour, alpha=0.3, label=f"class {n} wins in training") for n, colour in ((1, BLUE), (2, ORANGE))
    ]
    patches.append(Patch(facecolor="white", edgecolor=GREY, label="the gap: neither does"))
    figure.legend(handles=patches, loc="outside lower center", ncols=3, frameon=False)
    return figure


def loss_landscape(margins: Sequence[float] = MARGINS, scales: Sequence[float] = SCALES, n_classes: int = 3) -> Picture:
    """The loss of class 1 over a two-dimensional embedding, with the classes' weights on the unit circle.

    For each scale a row of landscapes without and with each margin, in the same colours and heights, and below them
    what the margin changes: the loss over the angle to the class's own weight, and the difference to no margin. A
    head that normalises sees the angle alone, so that the lines say all that the landscape holds.
    """
    margins = [0.0, *margins]
    n = len(margins)
    with rc_context(STYLE):
        figure = Picture(figsize=(3.7 * n, 6.6 * len(scales)), layout="constrained", dpi=110)
    grid = figure.add_gridspec(2 * len(scales), 2 * n, height_ratios=[1.25, 1] * len(scales))
    around = np.linspace(0, 2 * math.pi, n_classes, endpoint=False)
    weights = np.stack([np.cos(around), np.sin(around)], 1)
    theta = np.linspace(-math.pi, math.pi, 181)
    # Polar, since the loss of a normalising head depends on the angle alone: no grid point at the origin.
    radius, angle = np.meshgrid(np.linspace(0.15, 1.2, 12), theta)
    for row, scale in enumerate(scales):
        losses = [_loss(head_at(weights.tolist(), margin=margin, scale=scale), theta) for margin in margins]
        highest = max(loss.max() for loss in losses)
        for column, (margin, loss) in enumerate(zip(margins, losses)):
            with rc_context(STYLE):
                axis = figure.add_subplot(grid[2 * row, 2 * column : 2 * column + 2], projection="3d")
            height = np.repeat(loss[:, None], radius.shape[1], axis=1)
            axis.plot_surface(
                *(radius * np.cos(angle), radius * np.sin(angle), height),
                cmap="viridis",
                vmin=0,
                vmax=highest,
                linewidth=0,
                alpha=0.9,
                rcount=91,
                ccount=12,
            )
            for index, (wx, wy) in enumerate(weights):
                there = np.interp(np.angle(wx + 1j * wy), theta, loss)
                axis.plot([wx, wx], [wy, wy], [0, there], color=BLACK, linewidth=1)
                box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
                axis.text(1.5 * wx, 1.5 * wy, there, f"w{index + 1}", color=BLACK, bbox=box, ha="center")
            axis.set(title=f"{_margin_name(margin)}, s = {scale:g}", zlim=(0, highest), xticklabels=[], yticklabels=[])
            axis.view_init(28, 40)
        with rc_context(STYLE):
            left, right = figure.add_subplot(grid[2 * row + 1, :n]), figure.add_subplot(grid[2 * row + 1, n:])
        towards = theta >= 0
        for index, (margin, loss) in enumerate(zip(margins, losses)):
            style = line_style(index) | {"label": _margin_name(margin)}
            left.plot(np.degrees(theta[towards]), loss[towards], **style)
            right.plot(np.degrees(theta[towards]), (loss - losses[0])[towards], **style)
        left.set(yscale="log", ylim=(1e-6, 2 * highest), ylabel="loss", title="loss over the angle")
        right.set(ylabel="loss more than without", title="what the margin adds")
        for axis in (left, right):
            axis.set(xlabel="theta, angle to w1 (degrees)", xlim=(0, 180), xticks=range(0, 181, 30))
            axis.axvline(math.degrees(around[1]), color=GREY, linewidth=0.8, linestyle=":")
            axis.text(math.degrees(around[1]) + 2, 0.06, "w2", transform=axis.get_xaxis_transform(), color=GREY)
        left.legend(frameon=False)
    return figure


def _loss(head: Head, theta: np.ndarray) -> np.ndarray:
    """Cross-entropy (n,) of unit embeddings of class 1 at ``theta`` (n,) in radians."""
    label = torch.zeros(len(theta), dtype=torch.int64)
    with torch.inference_mode():
        return F.cross_entropy(head(_unit(theta), label).double(), label, reduction="none").numpy()


def _margin_name(margin: float) -> str:
    return "no margin" if margin == 0 else f"m = {margin:g} rad"


PICTURES = {"angles": angles, "logits": logit_curves, "boundaries": boundaries, "landscape": loss_landscape}


def check_margins(margins: Sequence[float], scales: Sequence[float]) -> None:
    """Refuse what no picture can be drawn of.

    Raises:
        SpkverError: a margin outside [0, pi/2], a scale that is not above 0, or more than four of either.
    """
    for option, values, example in (("--margin", margins, "0.2 0.5"), ("--scale", scales, "16 32")):
        if not 1 <= len(values) <= 4:
            raise SpkverError(f"{option} has {len(values)} values: give one to four, such as {option} {example}")
    for margin in margins:
        if not 0 <= margin <= math.pi / 2:
            raise SpkverError(f"--margin {margin:g}: it must be in [0, pi/2] radians, usually 0.2 to 0.5")
    for scale in scales:
        if not 0 < scale < math.inf:
            raise SpkverError(f"--scale {scale:g}: it must be above 0, usually 16 to 64")


def _unit(theta: np.ndarray) -> torch.Tensor:
    """(n, 2) unit vectors at ``theta`` from the first axis."""
    return torch.tensor(np.stack([np.cos(theta), np.sin(theta)], 1), dtype=torch.float32)


def _arcs(around: np.ndarray, wins: np.ndarray) -> list[np.ndarray]:
    """The angles of each unbroken run of ``wins`` on a circle."""
    turned = np.flatnonzero(~wins)
    start = int(turned[0]) if len(turned) else 0
    order = np.roll(np.arange(len(around) - 1), -start)
    runs = np.split(order, np.flatnonzero(np.diff(wins[order].astype(int))) + 1)
    return [np.unwrap(around[run]) for run in runs if wins[run[0]]]


def _scaled_softmax(scale: float) -> Callable[[int, int], Head]:
    """Plain softmax has no scale: its logit is |x| |w| cos(theta), here with |x| |w| = scale."""

    def make(in_features: int, out_features: int) -> Softmax:
        head = Softmax(in_features, out_features)
        head.register_forward_hook(lambda module, inputs, logits: scale * logits)
        return head

    return make
