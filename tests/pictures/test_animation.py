"""Embeddings in motion: projections that follow each other, animations side by side, and files that hold all frames."""

import re
import shutil
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from sklearn.decomposition import PCA

from spkver.cli import main
from spkver.errors import SpkverError
from spkver.pictures import Run, animate, show_animations
from spkver.pictures.motion import Motion, Points
from spkver.pictures.projection import METHODS, Options, between, mphate, pca, smooth, tsne, turned_to, umap
from spkver.pictures.style import COLOURS


@pytest.fixture
def trajectory():
    """Three groups that drift apart over six snapshots, in 8 dimensions."""
    rng = np.random.default_rng(4)
    labels = np.repeat([0, 1, 2], 10)
    centres = rng.normal(size=(3, 8))[labels]
    noise = rng.normal(size=(30, 8))
    return np.stack([noise + time * centres for time in range(6)])


def nearest_have_the_same_label(points, labels):
    distances = np.linalg.norm(points[:, None] - points, axis=2) + 1e9 * np.eye(len(points))
    return (labels[distances.argmin(1)] == labels).mean()


def test_pca_is_one_plane_for_all_snapshots(trajectory):
    frames = pca(trajectory, 0)
    expected = PCA(2, svd_solver="full").fit_transform(trajectory.reshape(-1, 8)).reshape(6, 30, 2)
    np.testing.assert_allclose(np.abs(frames), np.abs(expected), atol=1e-9)


def test_turning_undoes_a_rotation_and_a_mirror(trajectory):
    points = trajectory[0, :, :2]
    angle = 1.1
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag([1, -1])
    np.testing.assert_allclose(turned_to((points - points.mean(0)) @ turn, points) + points.mean(0), points, atol=1e-9)


def test_windows_follow_the_frame_before_and_none_is_a_speck(trajectory):
    trajectory = trajectory * np.array([0.01, 0.1, 1, 1, 1, 1])[:, None, None]
    frames = pca(trajectory, 0, Options(fit_basis="window", window_size=3))
    assert frames.shape == (6, 30, 2)
    # Signs and order of components are free in a PCA; turned, a frame correlates with the one before.
    for before, after in pairwise(frames[2:]):
        assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.9
    np.testing.assert_allclose(np.linalg.norm(frames, axis=(1, 2)), np.linalg.norm(frames[0]))
    np.testing.assert_array_equal(frames, METHODS["pca-window"](trajectory, 0, Options(window_size=3)))


def test_a_window_as_long_as_the_run_has_the_plane_of_all(trajectory):
    last = pca(trajectory, 0, Options(fit_basis="window", window_size=12))[-1]
    expected = pca(trajectory, 0)[-1]
    np.testing.assert_allclose(turned_to(last, expected), expected - expected.mean(0), atol=1e-6)


def test_tsne_keeps_neighbours_and_its_frames_follow_each_other(trajectory):
    labels = np.repeat([0, 1, 2], 10)
    calm, hasty = (tsne(trajectory, 0, Options(tsne_update=update)) for update in (0.2, 1.0))
    assert calm.shape == (6, 30, 2)
    assert nearest_have_the_same_label(hasty[-1], labels) == 1
    assert np.corrcoef(calm[-2].ravel(), calm[-1].ravel())[0, 1] > 0.9
    moves = [np.linalg.norm(np.diff(frames, axis=0), axis=2).mean() for frames in (calm, hasty)]
    assert moves[0] < moves[1] / 2


def test_umap_keeps_neighbours_and_takes_its_options(trajectory, monkeypatch):
    package = pytest.importorskip("umap", reason="umap-learn is not installed")
    taken = []

    class Noted(package.UMAP):
        def __init__(self, **options):
            taken.append(options)
            super().__init__(n_epochs=60, **options)

    monkeypatch.setattr(package, "UMAP", Noted)
    chosen = trajectory[3:]
    frames = umap(chosen, 0, Options(n_neighbors=6, min_dist=0.5, metric="euclidean"))
    assert frames.shape == (3, 30, 2)
    assert nearest_have_the_same_label(frames[-1], np.repeat([0, 1, 2], 10)) > 0.9
    assert [{**options, "init": None} for options in taken] == 3 * [
        {"n_neighbors": 6, "min_dist": 0.5, "metric": "euclidean", "init": None, "random_state": 0}
    ]
    np.testing.assert_allclose(taken[2]["init"], frames[1], rtol=1e-5)


def test_mphate_brings_utterances_of_a_speaker_together(trajectory):
    pytest.importorskip("m_phate", reason="m-phate is not installed")
    frames = mphate(trajectory[:4], 0)
    assert frames.shape == (4, 30, 2)
    assert nearest_have_the_same_label(frames[-1], np.repeat([0, 1, 2], 10)) > 0.9


@pytest.mark.parametrize(("method", "module"), [("umap", "umap"), ("mphate", "m_phate")])
def test_a_method_whose_package_is_missing_says_what_to_install(method, module, trajectory, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(SpkverError, match=f"cannot be used here.*pip install 'spkver\\[{method}\\]'"):
        METHODS[method](trajectory, 0)


def test_interpolation_passes_through_the_snapshots_and_never_beyond_them():
    values = np.array([0.0, 1.0, 1.0, 5.0])[:, None]
    frames = between(values, 31)
    np.testing.assert_allclose(frames[[0, 10, 20, 30]], values, atol=1e-12)
    assert frames.min() == 0
    assert frames.max() == 5
    np.testing.assert_allclose(frames[10:21], 1)
    assert between(values[:1], 5).shape == (5, 1)


def test_smoothing_is_a_running_mean():
    values = np.arange(5.0)[:, None]
    np.testing.assert_allclose(smooth(values, 3)[:, 0], [0.5, 1, 2, 3, 3.5])
    np.testing.assert_array_equal(smooth(values, 1), values)


def test_an_animation_has_a_frame_a_snapshot_and_is_interpolated_and_denoised(scored):
    run = Run(scored)
    animation = animate(run)
    np.testing.assert_allclose(animation.places, pca(run.trajectory()[0], 1))
    assert animation.epochs.tolist() == [0, 1, 2, 3]
    longer = animation.interpolate(steps_per_transition=3)
    np.testing.assert_allclose(longer.epochs, np.arange(10) / 3)
    np.testing.assert_allclose(longer.places[::3], animation.places, atol=1e-12)
    calm = animation.denoise()
    np.testing.assert_allclose(calm.places[1], animation.places[:3].mean(0))
    assert repr(animation) == "<Animation of tiny by pca: 4 frames of 60 utterances>"


def test_a_gif_has_all_frames_at_the_size_asked_for(scored, tmp_path):
    motion = show_animations([animate(Run(scored)).in_frames(20)], figsize_per_plot=(4, 4))
    with Image.open(motion.save(tmp_path / "a.gif")) as image:
        assert image.size == (400, 400)
        assert image.n_frames == 20
        assert image.convert("RGB").getpixel((2, 2)) == (255, 255, 255)
    assert (tmp_path / "a.gif").stat().st_size < 1_000_000


def test_a_gif_keeps_ten_colours_apart_and_names_all_ten(tmp_path):
    angles = np.arange(10) * np.pi / 5
    ring = np.stack([np.cos(angles), np.sin(angles)], 1)
    panel = Points("ring", np.stack([ring, ring]), np.arange(10).astype(str), np.zeros(10, bool))
    motion = Motion("ten", [panel], np.arange(2.0), figsize_per_plot=(4, 4))
    assert [text.get_text() for text in motion.figure.legends[0].get_texts()] == [str(n) for n in range(10)]
    for text in motion.figure.legends[0].get_texts():
        box = text.get_window_extent()
        assert 0 <= box.x0 < box.x1 <= 400
    with Image.open(motion.save(tmp_path / "ten.gif")) as image:
        found = {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}
    for colour in COLOURS:
        drawn = np.round(255 * (0.85 * np.array(to_rgb(colour)) + 0.15))
        assert min(np.abs(np.array(other) - drawn).max() for other in found) <= 16, colour


def test_runs_and_methods_stand_side_by_side_at_the_same_epoch(scored, tmp_path):
    shutil.copytree(scored, tmp_path / "short")
    (tmp_path / "short" / "snapshots" / "epoch-003.npz").unlink()
    whole, short = animate(Run(scored)), animate(Run(tmp_path / "short"))
    motion = show_animations(
        [whole, short],
        custom_titles=["good", "cut"],
        cols=1,
        figsize_per_plot=(3, 2),
        shared_axes=True,
        add_confusion_matrix=True,
        annotate_confusion_matrix=True,
    )
    assert [panel.title for panel in motion.panels] == ["good", "cut", "confusion, tiny", "confusion, short"]
    assert motion.figure.get_size_inches().tolist() == [3, 8]
    assert motion.epochs.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(motion.panels[1].places[[2, 3]], short.places[[2, 2]])
    limits = [axis.get_xlim() for axis in motion.figure.axes[:2]]
    assert limits[0] == limits[1]
    matrix = motion.at(3).axes[2]
    numbers = {(*text.get_position(), int(text.get_text())) for text in matrix.texts}
    last = motion.panels[2].counts[3]
    assert numbers == {(column, row, last[row, column]) for row, column in np.argwhere(last)}
    with pytest.raises(SpkverError, match="2 animations need as many titles, not 1"):
        show_animations([whole, short], custom_titles=["good"])


def test_the_command_writes_gif_numbers_and_frames(scored, tmp_path, capsys):
    out = tmp_path / "grid.gif"
    command = ["animate", str(scored), "--method", "pca", "pca-window", "--confusion", "--npz", "--png"]
    assert main([*command, "--frames", "5", "--figsize-per-plot", "2", "2", "--out", str(out)]) == 0
    assert capsys.readouterr().out.split() == [str(out), str(tmp_path / "grid.npz"), str(tmp_path / "grid")]
    assert len(list((tmp_path / "grid").glob("frame-*.png"))) == 5
    with Image.open(out) as image:
        assert image.size == (600, 200)
    run = Run(scored)
    with np.load(tmp_path / "grid.npz", allow_pickle=False) as numbers:
        np.testing.assert_allclose(numbers["epochs"], [0, 0.75, 1.5, 2.25, 3])
        assert numbers["labels"].tolist() == run.subset.speakers.tolist()
        np.testing.assert_allclose(numbers["pca"][[0, -1]], pca(run.trajectory()[0], 1)[[0, -1]], atol=1e-6)
        assert numbers["confusion"].shape[0] == 5


def test_the_command_takes_the_options_of_animate(scored, tmp_path):
    options = "--fit-basis window --window-size 3 --denoise --steps-per-transition 2 --speakers train --cols 1"
    command = ["animate", str(scored), *options.split(), "--titles", "w", "--npz", "--out", str(tmp_path / "a.gif")]
    assert main([*command, "--figsize-per-plot", "1.5", "1.5"]) == 0
    expected = animate(Run(scored), "pca", 3, "window", speakers="train").denoise().interpolate(2)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as numbers:
        np.testing.assert_allclose(numbers["w"], expected.places)


@pytest.mark.parametrize("speakers", ["train", "held_out", "all"])
def test_the_speakers_asked_for_are_animated(scored, speakers):
    run = Run(scored)
    animation = animate(run, speakers=speakers)
    assert set(animation.held_out) == {"train": {False}, "held_out": {True}, "all": {False, True}}[speakers]
    assert animation.labels.tolist() == run.subset.speakers[run.chosen(speakers)].tolist()


@pytest.mark.parametrize("sphere", [True, False])
def test_three_dimensional_embeddings_move_on_the_sphere_or_with_their_lengths(tmp_path, sphere):
    rng = np.random.default_rng(0)
    points = 5 * rng.normal(size=(2, 12, 3))
    panel = Points("ball", points, np.repeat(["a", "b", "c"], 4), np.zeros(12, bool), sphere)
    motion = Motion("ball", [panel], np.arange(2.0), figsize_per_plot=(2, 2))
    axis = motion.at(1).axes[0]
    drawn = np.concatenate([np.stack(artist._offsets3d, 1) for artist in axis.collections[-3:]])
    expected = points[1] / np.linalg.norm(points[1], axis=1, keepdims=True) if sphere else points[1]
    np.testing.assert_allclose(drawn, expected)
    assert axis.get_xlim()[1] >= np.abs(expected).max()


def test_a_notebook_gets_all_frames_under_a_slider(scored):
    html = animate(Run(scored)).interpolate(1)._repr_html_()
    assert html.count('src="data:image/png;base64,') == 4
    assert html.count(" hidden>") == 3
    assert re.search('<input type="range".* min="0" max="3" value="3" aria-label="tiny, frame"', html)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "pcaa"], "--method pcaa: choose among pca, pca-window"),
        (["--method", "sphere"], "--method sphere is for embeddings of 3 dimensions"),
        (["--frames", "1"], "needs 2 frames"),
        (["--steps-per-transition", "-1"], "1 step from an epoch to the next"),
        (["--denoise", "2"], "an odd number of frames"),
        (["--window-size", "0"], "window_size is 0: it must be 1 or more"),
        (["--tsne-update", "0"], "tsne_update is 0.0: it must be above 0"),
        (["--n-neighbors", "1"], "n_neighbors is 1"),
        (["--min-dist", "2"], "min_dist is 2.0: it must be 0 to 1"),
        (["--cols", "0"], "0 columns"),
        (["--titles", "a", "b"], "1 animations need as many titles, not 2"),
        (["--out", "x.avi"], "is kept as .gif, .mp4 or .npz"),
    ],
)
def test_what_cannot_be_animated_is_one_line(scored, arguments, message, capsys):
    assert main(["animate", str(scored), *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.skipif(shutil.which("ffmpeg") is not None, reason="ffmpeg is installed")
def test_mp4_without_ffmpeg_says_so(scored, tmp_path):
    with pytest.raises(SpkverError, match="needs ffmpeg"):
        animate(Run(scored)).save(tmp_path / "a.mp4")


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_mp4_is_written_with_ffmpeg(scored, tmp_path):
    path = animate(Run(scored)).save(tmp_path / "a.mp4")
    assert b"ftyp" in path.read_bytes()[:32]
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]
