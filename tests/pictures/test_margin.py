"""How a margin works: the curves are those of the heads, and the worked examples hold."""

import math

import numpy as np
import pytest
from scipy.special import softmax

from spkver.cli import main
from spkver.errors import SpkverError
from spkver.heads import NormFace
from spkver.pictures import margin

THETA = np.linspace(0.01, math.pi - 0.01, 200)


def test_the_worked_example_of_an_angle_with_a_margin():
    # cos(theta) = 0.59 is theta = 0.940; with a margin of 0.5 the head sees cos(1.440) = 0.131, that is
    # 0.59 cos(0.5) - 0.807 sin(0.5) = 0.518 - 0.387. The first part alone, 0.52, would be no angle with a margin.
    theta = np.arccos([0.59])
    assert theta[0] == pytest.approx(0.940, abs=5e-4)
    assert margin.target_logit(theta, NormFace, scale=1.0)[0] == pytest.approx(0.59, abs=1e-6)
    assert margin.target_logit(theta, margin=0.5, scale=1.0)[0] == pytest.approx(0.131, abs=5e-4)


def test_the_worked_example_of_softmax():
    # The largest logit of five takes all but 4e-5 of the probability.
    assert softmax([18.30, -13.03, 8.16, 6.22, -10.52])[0] == pytest.approx(1.0, abs=5e-5)


def test_without_the_fallback_the_worst_angle_would_be_rewarded():
    # cos(pi + 0.5) = -0.88: more than cos(pi - 0.5 + 0.5) = -1. The head falls on instead.
    assert math.cos(math.pi + 0.5) == pytest.approx(-0.88, abs=0.003)
    at_pi, at_turn = margin.target_logit(np.array([math.pi, math.pi - 0.5]), margin=0.5, scale=1.0)
    assert at_turn == pytest.approx(-1, abs=1e-3)
    assert at_pi < at_turn - 0.1


@pytest.mark.parametrize("m", [0.1, 0.2, 0.5])
def test_angles_are_shifted_by_the_margin_up_to_the_fallback(m):
    shifted = margin.shifted_angle(THETA, m)
    inside = math.pi - m - 0.01 > THETA
    np.testing.assert_allclose(shifted[inside], THETA[inside] + m, atol=2e-3)
    assert np.isnan(shifted[math.pi - m < THETA]).all()


@pytest.mark.parametrize("m", [0.2, 0.5])
def test_inter_topk_raises_another_speaker_by_its_share_of_the_margin(m):
    expected = 32 * np.cos(THETA - 0.06 * m / 0.2)
    np.testing.assert_allclose(margin.raised_nontarget_logit(THETA, m, 32.0), expected, atol=0.02)


@pytest.mark.parametrize("m", [0.0, 0.2, 0.5])
def test_the_gap_between_two_classes_is_the_margin(m):
    for between in (1.2, math.pi / 2, 2.0):
        assert between - 2 * margin.boundary_angle(between, margin=m) == pytest.approx(m, abs=2e-3)


def test_easy_margin_leaves_angles_beyond_a_right_angle_alone():
    shifted = margin.shifted_angle(THETA, 0.3, easy_margin=True)
    beyond = math.pi / 2 < THETA
    np.testing.assert_allclose(shifted[beyond], THETA[beyond], atol=1e-3)
    np.testing.assert_allclose(shifted[~beyond], THETA[~beyond] + 0.3, atol=1e-3)


def test_drawn_logits_are_the_heads(tmp_path):
    axis = margin.logit_curves([0.5], scales=[16.0]).axes[0]
    drawn = {line.get_label(): line.get_xydata() for line in axis.lines}
    x, y = drawn["ArcFace: s cos(theta + m)"].T
    theta = np.radians(x)
    inside = theta < math.pi - 0.5
    np.testing.assert_allclose(y[inside], 16 * np.cos(theta[inside] + 0.5), atol=0.01)
    softmax_logit = drawn["softmax (|x| = |w| = sqrt(s))"][:, 1]
    np.testing.assert_allclose(softmax_logit, 16 * np.cos(theta), atol=1e-4)


def test_plot_margin_writes_each_picture(tmp_path, capsys):
    assert main(["plot", "margin", "--margin", "0", "0.3", "--scale", "20", "8", "--out", str(tmp_path)]) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"margin_{name}.png" for name in margin.PICTURES}
    assert capsys.readouterr().out.split() == [str(tmp_path / f"margin_{name}.png") for name in margin.PICTURES]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--margin", "2"], "--margin 2: it must be in"),
        (["--margin", "-0.1"], "--margin -0.1: it must be in"),
        (["--margin", ".1", ".2", ".3", ".4", ".5"], "--margin has 5 values"),
        (["--scale", "0"], "--scale 0: it must be above 0"),
        (["--scale", "1", "2", "3", "4", "5"], "--scale has 5 values"),
    ],
)
def test_impossible_margins_are_refused_in_one_line(arguments, message, tmp_path, capsys):
    assert main(["plot", "margin", *arguments, "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_check_margins_names_the_option():
    with pytest.raises(SpkverError, match="--margin nan"):
        margin.check_margins([math.nan], [32.0])


def test_several_scales_are_rows_of_panels():
    figure = margin.logit_curves([0.2, 0.5], scales=[8.0, 16.0, 32.0])
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == [f"m = {m:g} rad, s = {s:g}" for s in (8, 16, 32) for m in (0.2, 0.5)]
    highest = [max(line.get_ydata().max() for line in axis.lines) for axis in figure.axes]
    assert highest == pytest.approx([8, 8, 16, 16, 32, 32], rel=0.01)


def test_landscapes_share_heights_and_colours_and_the_lines_are_their_loss():
    figure = margin.loss_landscape([0.2, 0.5], scales=[16.0])
    *spaces, left, right = figure.axes
    assert [axis.get_title() for axis in spaces] == [
        f"{m}, s = 16" for m in ("no margin", "m = 0.2 rad", "m = 0.5 rad")
    ]
    assert len({axis.get_zlim() for axis in spaces}) == 1
    assert len({axis.collections[0].get_clim() for axis in spaces}) == 1
    # Three weights 120 degrees apart: the cross-entropy by its own formula.
    theta, drawn = left.lines[2].get_xydata().T
    theta = np.radians(theta)
    inside = theta < math.pi - 0.5
    logits = 16 * np.cos(np.stack([theta + 0.5, theta - 2 * math.pi / 3, theta + 2 * math.pi / 3]))[:, inside]
    expected = np.log(np.exp(logits).sum(0)) - logits[0]
    np.testing.assert_allclose(drawn[inside], expected, atol=5e-3)
    plain, added = left.lines[0].get_ydata(), right.lines[2].get_ydata()
    np.testing.assert_allclose(added, drawn - plain)
    assert added.max() > 5


@pytest.mark.parametrize("draw", [margin.angles, margin.logit_curves, margin.boundaries])
@pytest.mark.parametrize("margins", [[0.5], [0.2, 0.5]])
def test_titles_and_legends_lie_within_the_figure(draw, margins):
    figure = draw(margins)
    figure.draw_without_rendering()
    for part in (*(axis.title for axis in figure.axes), *figure.legends):
        box = part.get_window_extent()
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
