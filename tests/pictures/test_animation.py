"""Embeddings in motion: projections that follow each other, and files that hold all frames."""

import shutil
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from sklearn.decomposition import PCA

from spkver.cli import main
from spkver.errors import SpkverError
from spkver.pictures import Run
from spkver.pictures.animation import Motion, Panel, animate
from spkver.pictures.projection import METHODS, between, pca, pca_window, smooth, tsne, turned_to


@pytest.fixture
def trajectory():
    """Three groups that drift apart over six snapshots, in 8 dimensions."""
    rng = np.random.default_rng(4)
    labels = np.repeat([0, 1, 2], 10)
    centres = rng.normal(size=(3, 8))[labels]
    noise = rng.normal(size=(30, 8))
    return np.stack([noise + time * centres for time in range(6)])


def test_pca_is_one_plane_for_all_snapshots(trajectory):
    frames = pca(trajectory, 0)
    expected = PCA(2, svd_solver="full").fit_transform(trajectory.reshape(-1, 8)).reshape(6, 30, 2)
    np.testing.assert_allclose(np.abs(frames), np.abs(expected), atol=1e-9)


def test_turning_undoes_a_rotation_and_a_mirror(trajectory):
    points = trajectory[0, :, :2]
    angle = 1.1
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag([1, -1])
    np.testing.assert_allclose(turned_to((points - points.mean(0)) @ turn, points) + points.mean(0), points, atol=1e-9)


def test_every_frame_of_pca_window_has_the_same_spread():
    trajectory = np.random.default_rng(0).normal(size=(4, 30, 8)) * np.array([0.001, 0.1, 1, 5])[:, None, None]
    frames = pca_window(trajectory, 0)
    spread = np.sqrt(np.square(frames - frames.mean(1, keepdims=True)).sum(2).mean(1))
    np.testing.assert_allclose(spread, 1, rtol=1e-9)


def test_a_window_follows_the_frame_before(trajectory):
    frames = pca_window(trajectory, 0)
    assert frames.shape == (6, 30, 2)
    # Signs and order of components are free in a PCA; turned, a frame correlates with the one before.
    for before, after in pairwise(frames[1:]):
        assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.9


def test_tsne_keeps_neighbours_and_its_frames_follow_each_other(trajectory):
    frames = tsne(trajectory, 0)
    assert frames.shape == (6, 30, 2)
    labels = np.repeat([0, 1, 2], 10)
    last = frames[-1]
    distances = np.linalg.norm(last[:, None] - last, axis=2) + 1e9 * np.eye(30)
    assert (labels[distances.argmin(1)] == labels).mean() == 1
    assert np.corrcoef(frames[-2].ravel(), frames[-1].ravel())[0, 1] > 0.9


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


def test_a_gif_has_all_frames_at_the_size_asked_for(scored, tmp_path):
    motion = animate(Run(scored), ["pca"], n_frames=60)
    with Image.open(motion.save(tmp_path / "a.gif")) as image:
        assert image.size == (500, 500)
        assert image.n_frames == 60
        assert image.convert("RGB").getpixel((2, 2)) == (255, 255, 255)
    assert (tmp_path / "a.gif").stat().st_size < 1_500_000


def test_the_command_writes_gif_numbers_and_frames(scored, tmp_path, capsys):
    out = tmp_path / "grid.gif"
    command = ["animate", str(scored), "--method", "pca", "pca-window", "--confusion", "--npz", "--png"]
    assert main([*command, "--frames", "5", "--pixels", "200", "--out", str(out)]) == 0
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


def test_frames_of_different_epochs_differ(scored):
    frames = [np.asarray(frame) for frame in animate(Run(scored), ["pca"], n_frames=3, pixels=200).frames()]
    assert (frames[0] != frames[1]).any()
    assert (frames[1] != frames[2]).any()


@pytest.mark.parametrize("speakers", ["train", "held_out", "all"])
def test_the_speakers_asked_for_are_animated(scored, speakers):
    run = Run(scored)
    motion = animate(run, ["pca"], n_frames=2, pixels=150, speakers=speakers)
    assert set(motion.held_out) == {"train": {False}, "held_out": {True}, "all": {False, True}}[speakers]
    assert motion.labels.tolist() == run.subset.speakers[run.chosen(speakers)].tolist()


def test_three_dimensional_embeddings_move_on_the_sphere(tmp_path):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(4, 12, 3))
    labels = np.repeat(["a", "b", "c"], 4)
    motion = Motion("ball", [Panel("sphere", points)], np.arange(4.0), labels, np.zeros(12, bool), 200)
    with Image.open(motion.save(tmp_path / "ball.gif")) as image:
        assert image.n_frames == 4


def test_a_notebook_gets_the_moving_picture_itself(scored):
    html = animate(Run(scored), ["pca"], n_frames=2, pixels=150)._repr_html_()
    assert html.startswith('<img alt="tiny" src="data:image/gif;base64,R0lGOD')


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "pcaa"], "--method pcaa: choose among pca, pca-window"),
        (["--method", "sphere"], "--method sphere is for embeddings of 3 dimensions"),
        (["--frames", "1"], "needs 2 frames"),
        (["--smooth", "2"], "an odd smoothing"),
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
        animate(Run(scored), ["pca"], n_frames=2, pixels=150).save(tmp_path / "a.mp4")


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_mp4_is_written_with_ffmpeg(scored, tmp_path):
    path = animate(Run(scored), ["pca"], n_frames=4, pixels=200).save(tmp_path / "a.mp4")
    assert b"ftyp" in path.read_bytes()[:32]
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize(("method", "module"), [("umap", "umap"), ("mphate", "m_phate")])
def test_optional_methods_work_or_say_what_to_install(method, module, trajectory, monkeypatch):
    try:
        frames = METHODS[method](trajectory, 0)
    except SpkverError as error:
        assert f"pip install 'spkver[{method}]'" in str(error)
    else:
        assert frames.shape == (6, 30, 2)
        assert np.isfinite(frames).all()
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(SpkverError, match="cannot be used here"):
        METHODS[method](trajectory, 0)
