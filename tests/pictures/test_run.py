"""Pictures of runs: what is drawn equals what was logged, and what is missing is said."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from scipy.stats import norm

from spkver.cli import main
from spkver.errors import SpkverError
from spkver.pictures import Run, analysis
from spkver.pictures.detection import det_curves, score_histograms, thinned
from spkver.pictures.embeddings import confusion_development, confusions
from spkver.pictures.records import smoothed
from spkver.pictures.style import GREY, speaker_styles
from spkver.scoring.metrics import det_points, equal_error_rate


@pytest.fixture
def copy(scored, tmp_path):
    """A copy of the run to take things from."""
    shutil.copytree(scored, tmp_path / "copy")
    return tmp_path / "copy"


def lines_of(axis):
    return {line.get_label(): line.get_xydata() for line in axis.lines}


def test_plot_run_writes_every_picture(scored, tmp_path, capsys):
    assert main(["plot", "run", str(scored), "--out", str(tmp_path)]) == 0
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {f"{name}.png" for name in Run.PICTURES}
    assert capsys.readouterr().err == ""


def test_records_show_the_logged_values(scored):
    run = Run(scored)
    axes = run.plot_training_records().axes
    logged = [json.loads(line) for line in (scored / "log.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in logged if record["kind"] == "step"]
    np.testing.assert_allclose(axes[0].lines[0].get_ydata(), losses)
    eers = [100 * record["held_out_eer"] for record in logged if record["kind"] == "epoch"]
    np.testing.assert_allclose(axes[2].lines[0].get_ydata(), eers)
    # 14 steps an epoch: the first ends at 1/14 of the first epoch, the last at its end.
    position = run.steps["position"]
    assert position[0] == pytest.approx(1 / 14)
    assert position[13] == pytest.approx(1)
    assert position[-1] == pytest.approx(3)
    after = lines_of(axes[5])["after"][:, 1]
    assert after.max() <= run.config.training.clip_norm + 1e-9


def test_records_mark_where_the_margin_grows(scored):
    run = Run(scored)
    schedule = run.config.margin_schedule
    for axis in run.plot_training_records().axes:
        marked = [
            line.get_xdata()[0] for line in axis.lines if len(line.get_xdata()) == 2 and line.get_linestyle() == ":"
        ]
        assert marked == [schedule.start_epoch, schedule.end_epoch]
    beyond = schedule.model_copy(update={"start_epoch": 9.0, "end_epoch": 9.0})
    run.config = run.config.model_copy(update={"margin_schedule": beyond})
    assert not [line for line in run.plot_training_records().axes[0].lines if line.get_linestyle() == ":"]


def test_records_say_whether_clipping_most_steps_is_well(scored):
    run = Run(scored)
    run.steps["clipped"][:] = 1
    said = {}
    for name in ("muon", "sgd"):
        optimizer = run.config.optimizer.model_copy(update={"name": name})
        run.config = run.config.model_copy(update={"optimizer": optimizer})
        axis = run.plot_training_records().axes[5]
        assert axis.get_title() == f"gradient norm; 100% of steps clipped at {run.config.training.clip_norm:g}"
        said[name] = axis.texts[0].get_text()
    assert "is fine" in said["muon"]
    assert "raise training.clip_norm" in said["sgd"]
    run.steps["clipped"][:] = 0.1
    assert not run.plot_training_records().axes[5].texts


def test_confusion_has_names_and_the_numbers_of_utterances(scored):
    run = Run(scored)
    matrices, names = confusions(run)
    axis = confusion_development(run).axes[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == names
    written = np.zeros_like(matrices[0])
    for text in axis.texts:
        column, row = text.get_position()
        written[row, column] = int(text.get_text())
    np.testing.assert_array_equal(written, matrices[0])


def test_the_spectrum_has_a_colour_of_its_own_for_each_eigenvalue(scored):
    lines = [line for line in Run(scored).eigenvalues().axes[0].lines if line.get_label().isdigit()]
    assert len(lines) == 10
    assert len({line.get_color() for line in lines}) == 10


def test_drift_and_cka_show_the_analysis_of_the_snapshots(scored):
    run = Run(scored)
    trajectory, _ = run.trajectory()
    picture, series = run.plot_embedding_drifts()
    assert sorted(series) == [1, 2]
    drawn = lines_of(picture.axes[0])["2"]
    np.testing.assert_allclose(drawn[:, 1], series[2])
    np.testing.assert_allclose(drawn[:, 0], [2, 3])
    expected = np.linalg.norm(trajectory[2:].astype(float) - trajectory[:-2], axis=2).mean(1)
    np.testing.assert_allclose(drawn[:, 1], expected, rtol=1e-6)
    axis = run.plot_cka_similarities(y_lim=0.3).axes[0]
    assert axis.get_ylim() == (0, 0.3)
    cka = lines_of(axis)["1"][:, 1]
    np.testing.assert_allclose(cka[0], 1 - analysis.linear_cka(trajectory[0], trajectory[1]))


def test_a_limit_that_clips_nothing_does_not_stretch_the_picture_of_gradients(copy):
    norms = Run(copy).steps["grad_norm"]
    text = (copy / "config.yaml").read_text()
    for limit, drawn in ((norms.max(), True), (1e9, False)):
        (copy / "config.yaml").write_text(re.sub("clip_norm: .*", f"clip_norm: {limit:.1f}", text))
        axis = Run(copy).gradients().axes[0]
        assert axis.get_xlim()[1] < 2 * norms.max()
        assert any("clipped at" in line.get_label() for line in axis.lines) == drawn


def test_eigenvalues_are_those_asked_for_in_colours_of_their_own(scored):
    run = Run(scored)
    trajectory, _ = run.trajectory()
    lines = run.eigenvalues(n=10).axes[0].lines
    expected = np.stack([np.sort(np.linalg.eigvalsh(np.cov(embeddings.T)))[::-1][:10] for embeddings in trajectory])
    np.testing.assert_allclose(np.stack([line.get_ydata() for line in lines], 1), expected, rtol=1e-4, atol=1e-9)
    assert len({line.get_color() for line in lines}) == 10
    with pytest.raises(SpkverError, match="n is 0"):
        run.eigenvalues(n=0)


def test_the_space_has_one_basis_and_equal_axes(scored):
    run = Run(scored)
    trajectory, _ = run.trajectory()
    axes = run.space().axes
    places = [np.concatenate([artist.get_offsets() for artist in axis.collections]) for axis in axes]
    last = trajectory[3].astype(float) - trajectory[3].mean(0)
    plane = np.linalg.svd(last)[2][:2]
    for points, embeddings in zip(places, trajectory[[0, 2, 3]]):
        expected = (embeddings - embeddings.mean(0)) @ plane.T
        np.testing.assert_allclose(np.linalg.norm(points, axis=0), np.linalg.norm(expected, axis=0), rtol=1e-4)
    limits = {(*axis.get_xlim(), *axis.get_ylim()) for axis in axes}
    assert len(limits) == 1
    (low, high, bottom, top) = limits.pop()
    assert (high - low, axes[0].get_box_aspect()) == (top - bottom, 1)


def test_a_run_says_what_it_is_also_where_parts_are_missing(scored, copy):
    run = Run(scored)
    n_held_out = len(set(run.subset.speakers[run.subset.held_out]))
    assert repr(run) == (
        f"<Run {scored}: speech_encoder_v3, arc_margin, 3 of 3 epochs, "
        f"best held-out EER {run.epochs['held_out_eer'].min():.2%}, "
        f"4 snapshots of 60 utterances by {10 - n_held_out} training and {n_held_out} held-out speakers>"
    )
    shutil.rmtree(copy / "snapshots")
    (copy / "log.jsonl").write_text("")
    assert repr(Run(copy)) == f"<Run {copy}: speech_encoder_v3, arc_margin>"


def test_confusion_matrices_of_all_epochs_are_under_a_slider_with_numbers(scored):
    run = Run(scored)
    motion = run.confusion_matrix(annotate=True)
    assert len(motion) == 4
    matrices, names = confusions(run)
    axis = motion.at(2).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == names
    assert sum(int(text.get_text()) for text in axis.texts) == matrices[2].sum()
    assert motion._repr_html_().count("<img ") == 4
    assert not run.confusion_matrix().at(2).axes[0].texts


def test_the_architecture_of_a_run_is_that_of_its_model(scored, copy):
    assert "parameters" in Run(scored).architecture().axes[0].get_title()
    shutil.rmtree(copy / "model", ignore_errors=True)
    shutil.rmtree(copy / "untrained", ignore_errors=True)
    with pytest.raises(SpkverError):
        Run(copy).architecture()


def test_every_picture_says_what_a_good_and_a_bad_run_look_like():
    methods = "plot_training_records gradients confusion_matrix plot_embedding_drifts plot_cka_similarities eigenvalues"
    for name in (*methods.split(), "curvature", "clusters", "space", "tsne", "architecture", "score_histograms", "det"):
        words = getattr(Run, name).__doc__.lower()
        assert "good" in words and ("bad" in words or "two cross" in words), name


def test_confusions_count_every_training_utterance_once_in_the_same_order(scored):
    run = Run(scored)
    matrices, names = confusions(run)
    assert len(matrices) == 4
    assert names == run.subset.train_speakers
    for matrix, snapshot in zip(matrices, run.snapshots):
        assert matrix.sum() == (~run.subset.held_out).sum()
        truth = np.array([names.index(s) for s in run.subset.speakers[~run.subset.held_out]])
        assert np.trace(matrix) == (snapshot.predicted[~run.subset.held_out] == truth).sum()


def test_det_points_are_drawn_on_normal_deviate_axes():
    rng = np.random.default_rng(0)
    labels = np.r_[np.ones(4000), np.zeros(40000)]
    scores = np.r_[rng.normal(3, 1, 4000), rng.normal(0, 1, 40000)]
    axis = det_curves({"exp": {"gauss": (scores, labels)}}, [0.01]).axes[0]
    eer, _ = equal_error_rate(scores, labels)
    x, y = lines_of(axis)[f"exp, gauss: EER {eer:.2%}"].T
    middle = (x > -2.5) & (x < 0) & (y > -2.5)
    # Two Gaussians of equal width are a line of slope -1 on these axes, 3 below the origin in the sum.
    np.testing.assert_allclose(x[middle] + y[middle], -3, atol=0.2)
    # Beside the curve the point of the EER, on both axes at its deviate.
    (point,) = [line for line in axis.lines if line.get_marker() == "o" and len(line.get_xdata()) == 1]
    np.testing.assert_allclose(point.get_xydata(), norm.ppf([[eer, eer]]))


def test_thinning_keeps_the_ends_and_the_shape_of_a_curve():
    rng = np.random.default_rng(1)
    labels = rng.random(200_000) < 0.2
    scores = rng.normal(size=200_000) + 2 * labels
    fpr, fnr, _ = det_points(scores, labels)
    few_fpr, few_fnr = thinned(fpr, fnr, 500)
    assert len(few_fpr) <= 500
    assert (few_fpr[0], few_fnr[-1]) == (0, 0)
    assert (few_fpr[-1], few_fnr[0]) == (1, 1)
    np.testing.assert_allclose(np.interp(fpr, few_fpr, few_fnr), fnr, atol=0.01)


def test_histograms_show_the_threshold_at_the_eer():
    rng = np.random.default_rng(2)
    scores, labels = rng.normal(size=500), np.arange(500) % 2
    axis = score_histograms({"a": (scores, labels)}).axes[0]
    _, threshold = equal_error_rate(scores, labels)
    assert axis.lines[0].get_xdata()[0] == pytest.approx(threshold)


def test_smoothing_keeps_the_mean_and_leaves_nan_out():
    position, values = np.arange(1000.0), np.arange(1000.0)
    values[5] = np.nan
    x, y = smoothed(position, values)
    assert len(x) == 100
    assert x[0] == 4.5
    assert y[0] == pytest.approx((45 - 5) / 9)
    assert y[1:].mean() == pytest.approx(np.arange(10.0, 1000).mean())


def test_a_run_without_snapshots_says_so_and_draws_the_rest(copy, tmp_path, capsys):
    shutil.rmtree(copy / "snapshots")
    assert main(["plot", "run", str(copy), "--out", str(tmp_path / "out")]) == 0
    error = capsys.readouterr().err
    assert "no drift:" in error
    assert "snapshots.speakers" in error
    assert {"records.png", "gradients.png", "det.png"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_a_run_of_one_snapshot_says_what_it_lacks(copy):
    for epoch in (1, 2, 3):
        (copy / "snapshots" / f"epoch-00{epoch}.npz").unlink()
    run = Run(copy)
    with pytest.raises(SpkverError, match="1 snapshots, this picture needs 2"):
        run.plot_embedding_drifts()
    with pytest.raises(SpkverError, match="needs 3"):
        run.curvature()
    assert len(run.space().axes) == 1


def test_a_run_without_scores_says_so(copy):
    shutil.rmtree(copy / "scores")
    with pytest.raises(SpkverError, match="run `spkver score`"):
        Run(copy).det()


def test_a_run_without_a_finished_epoch_says_so(copy):
    (copy / "log.jsonl").write_text("")
    with pytest.raises(SpkverError, match="no finished step yet"):
        Run(copy).plot_training_records()


def test_a_folder_without_a_run_is_refused(tmp_path, capsys):
    assert main(["plot", "run", str(tmp_path)]) == 1
    assert "holds no run" in capsys.readouterr().err


def test_an_unknown_picture_is_refused_with_the_choices(scored, capsys):
    assert main(["plot", "run", str(scored), "--only", "dett"]) == 1
    assert "--only dett: choose among records" in capsys.readouterr().err


def test_snapshots_of_another_subset_are_refused(copy):
    path = copy / "snapshots" / "utterances"
    path.write_text("\n".join(path.read_text().splitlines()[1:]) + "\n")
    with pytest.raises(SpkverError, match="it is of another run"):
        Run(copy).snapshots  # noqa: B018


def test_snapshots_of_other_training_speakers_are_refused(copy):
    path = copy / "snapshots" / "utterances"
    path.write_text(path.read_text().replace(" held_out\n", " train\n", 1))
    with pytest.raises(SpkverError, match="is of other training speakers than"):
        Run(copy).confusion_matrix()


def test_two_speakers_are_enough_for_every_picture(tiny_config, voices, tmp_path, capsys):
    overrides = ["snapshots.speakers=2", "training.epochs=1", "data.held_out_speakers=0"]
    train = ["train", str(tiny_config), "--data", str(voices), "--exp", str(tmp_path / "two"), *overrides]
    assert main(train) == 0
    assert main(["plot", "run", str(tmp_path / "two")]) == 0
    error = capsys.readouterr().err
    missing = [line.split(":")[0] for line in error.splitlines() if line.startswith("no ")]
    assert missing == ["no curvature", "no score_histograms", "no det"]


def test_every_list_that_was_scored_is_drawn_and_nothing_unfinished(copy, scored):
    folder = next((copy / "scores").iterdir())
    (list_of_all,) = {path.name.rpartition("-")[0] for path in folder.iterdir() if "-" in path.name}
    whole = (folder / f"{list_of_all}-cosine").read_text()
    (folder / f".{list_of_all}-plda.unfinished").write_text(whole[:1000])
    (folder / "same-cosine").write_text("".join(line for line in whole.splitlines(True) if " nontarget" not in line))
    assert list(Run(copy).scores()) == list(Run(scored).scores()) == ["cosine", "untrained"]
    (folder / "short-cosine").write_text(whole[: whole.index("\n", len(whole) // 2) + 1])
    names = [
        f"{folder.name}/{name}" for name in ("short, cosine", f"{list_of_all}, cosine", f"{list_of_all}, untrained")
    ]
    assert sorted(Run(copy).scores()) == sorted(names)
    labels = [line.get_label().split(": EER")[0] for line in Run(copy).det().axes[0].lines]
    assert all(f"copy, {name}" in labels for name in names)


def test_det_compares_several_runs(scored, copy, tmp_path, capsys):
    assert main(["plot", "det", str(scored), str(copy), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "det.png").stat().st_size > 10_000
    run, other = Run(scored), Run(copy)
    assert (run.name, other.name) == ("tiny", "copy")


def test_pictures_show_themselves_in_a_notebook(scored):
    assert Run(scored).plot_cka_similarities()._repr_png_().startswith(b"\x89PNG")


def test_speakers_have_styles_of_their_own():
    assert len(set(speaker_styles(80))) == 80
    assert len({colour for colour, _ in speaker_styles(10)}) == 10


def many_runs(n_runs, n_systems, n_trials=400):
    rng = np.random.default_rng(0)
    labels = np.arange(n_trials) % 2
    names = ["untrained", *(f"cosine+asnorm+calibration {n}" for n in range(n_systems - 1))]
    return {
        f"speechocean762_lmf{run}": {name: (rng.normal(size=n_trials) + 3 * labels, labels) for name in names}
        for run in range(n_runs)
    }


@pytest.mark.parametrize(("n_runs", "n_systems"), [(1, 1), (2, 5), (4, 7)])
def test_det_curves_of_many_runs_leave_axes_and_legend_whole(n_runs, n_systems):
    figure = det_curves(many_runs(n_runs, n_systems), [0.01, 0.05])
    figure.draw_without_rendering()
    axis, (legend,) = figure.axes[0], figure.legends
    box, beside, whole = axis.get_tightbbox(), legend.get_window_extent(), figure.bbox
    assert beside.x0 > box.x1
    assert min(box.x0, box.y0, beside.y0) >= 0
    assert max(box.x1, beside.x1) <= whole.x1
    assert max(box.y1, beside.y1) <= whole.y1
    assert min(axis.get_window_extent().width, axis.get_window_extent().height) > 350


def test_a_run_has_a_colour_a_system_a_dash_and_the_untrained_are_grey():
    axis = det_curves(many_runs(2, 3)).axes[0]
    drawn = [line for line in axis.lines if line.get_label().startswith("speech")]
    of = {line.get_label().split(": ")[0]: (line.get_color(), line.get_linestyle()) for line in drawn}
    first, second = "speechocean762_lmf0, cosine+asnorm+calibration ", "speechocean762_lmf1, cosine+asnorm+calibration "
    assert of[first + "0"][0] == of[first + "1"][0] != of[second + "0"][0]
    assert of[first + "0"][1] == of[second + "0"][1] != of[first + "1"][1]
    assert {of[f"speechocean762_lmf{run}, untrained"][0] for run in (0, 1)} == {GREY}


def test_a_det_is_shaded_where_there_is_less_than_one_error():
    axis = det_curves(many_runs(1, 2)).axes[0]
    down, left = axis.patches
    assert down.get_label() == "less than one error"
    assert down.get_extents().transformed(axis.transData.inverted()).x1 == pytest.approx(norm.ppf(1 / 200))
    assert left.get_extents().transformed(axis.transData.inverted()).y1 == pytest.approx(norm.ppf(1 / 200))


def test_pictures_of_runs_need_no_torch(scored, tmp_path):
    verbs = [
        ["plot", "run", str(scored), "--only", "records", "confusion", "--out", str(tmp_path)],
        ["plot", "det", str(scored), "--out", str(tmp_path)],
        ["animate", str(scored), "--frames", "2", "--figsize-per-plot", "1", "1", "--out", str(tmp_path / "m.gif")],
    ]
    program = f"import sys; from spkver.cli import main; print([main(v) for v in {verbs}], 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[0, 0, 0] False", done.stderr


@pytest.mark.parametrize(("form", "head"), [("svg", b"<?xml"), ("pdf", b"%PDF"), ("png", b"\x89PNG")])
def test_the_format_and_the_dots_an_inch_are_chosen(form, head, scored, tmp_path):
    words = ["plot", "run", str(scored), "--only", "cka", "--format", form, "--out", str(tmp_path)]
    for dpi in ("40", "80"):
        assert main([*words, "--dpi", dpi]) == 0
        assert (tmp_path / f"cka.{form}").read_bytes().startswith(head)
        if form == "png":
            assert Image.open(tmp_path / "cka.png").width == round(5.6 * int(dpi))


def test_impossible_dots_an_inch_are_refused(scored, tmp_path, capsys):
    words = ["plot", "det", str(scored), "--out", str(tmp_path)]
    assert main([*words, "--dpi", "3"]) == 1
    assert capsys.readouterr().err == "--dpi 3: give 20 to 1200 dots an inch\n"
    assert not list(tmp_path.iterdir())
