"""The verbs from embeddings to figures, as a user runs them on a finished experiment."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

import spkver
from spkver.cli import main
from spkver.data.trial_making import make_trials
from spkver.data.trials import Trials, write_trials
from spkver.embedding.folder import read_embeddings
from spkver.scoring.backend_folder import Backend
from spkver.scoring.backends.calibration import fit_calibration
from spkver.scoring.metrics import equal_error_rate
from spkver.scoring.metrics.cllr import cllr
from spkver.scoring.score_files import read_scores


@pytest.fixture(scope="module")
def made(trained, voices, tmp_path_factory):
    """A copy of the tiny run, its training directory, and a test directory of voices that the cohort has not."""
    folder = tmp_path_factory.mktemp("stages")
    shutil.copytree(trained, folder / "exp")
    shutil.copytree(voices, folder / "train")
    shutil.copytree(voices, folder / "test")
    rename(folder / "test")
    for data in ("train", "test"):
        assert main(["embed", str(folder / data), str(folder / "exp")]) == 0
    return folder


def rename(test):
    """The same recordings under other speakers' names, and trials among them."""
    rows = [line.split() for line in (test / "utt2spk").read_text().splitlines()]
    (test / "utt2spk").write_text("".join(f"{utt} other-{speaker}\n" for utt, speaker in rows))
    (test / "spk2utt").unlink(missing_ok=True)
    trials = make_trials([utt for utt, _ in rows], [speaker for _, speaker in rows], seed=1)
    write_trials(test / "trials", trials)
    (test / "spk2gender").write_text(
        "".join(f"other-{s} {'fm'[n % 2]}\n" for n, s in enumerate(sorted({s for _, s in rows})))
    )


def run(*words):
    return main([str(word) for word in words])


def scores_of(made, system):
    return read_scores(made / "exp" / "scores" / "test" / f"trials-{system}")


SMALL = ["scoring.norm.top_n=2"]


def test_every_back_end_makes_scores_metrics_and_a_row_of_the_table(made, capsys):
    data, exp, train = made / "test", made / "exp", made / "train"
    small = ["scoring.bootstrap=20"]
    assert run("score", data, exp) == 0
    assert run("norm", data, exp, "--train", train, *SMALL) == 0
    for system in ("cosine", "cosine+asnorm"):
        assert run("calibrate", data, exp, "--train", train, "--system", system) == 0
    assert run("plda", data, exp, "--train", train, "scoring.plda.lda_dim=4") == 0
    systems = ["cosine", "cosine+asnorm", "cosine+calibration", "cosine+asnorm+calibration", "plda"]
    for system in systems:
        assert run("evaluate", data, exp, "--system", system, *small) == 0
    capsys.readouterr()
    assert run("results", exp) == 0
    table = capsys.readouterr().out
    metrics = json.loads((exp / "metrics.json").read_text())["test/trials"]
    for system in systems:
        trials, scores = scores_of(made, system)
        record = metrics[system]
        assert record["eer"] == equal_error_rate(scores, trials.labels)[0]
        assert record["cllr"] == pytest.approx(cllr(scores, trials.labels))
        assert record["min_cllr"] <= record["cllr"] + 1e-9
        assert {"act_dcf_0.01", "act_dcf_0.05", "cllr_interval", "eer_interval"} <= set(record)
        assert f"\n{system}  " in table
    assert "Cllr" in table


def test_calibration_lowers_the_calibration_loss_of_the_trials_it_was_made_from(made, capsys):
    assert run("calibrate", made / "test", made / "exp", "--train", made / "train") == 0
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line}
    before, after = float(lines["before"][2]), float(lines["after"][2])
    assert after < before
    calibration = json.loads((made / "exp/model/backend/calibration-cosine.json").read_text())
    assert list(calibration["weights"]) == [
        "score",
        "log_duration_min",
        "log_duration_max",
        "magnitude_min",
        "magnitude_max",
    ]


def test_a_list_is_scored_by_a_fitted_system_without_the_training_data(made, tmp_path):
    assert run("norm", made / "test", made / "exp", "--train", made / "train", *SMALL) == 0
    before = scores_of(made, "cosine+asnorm")[1]
    lines = (made / "test/trials").read_text().splitlines(keepends=True)
    (tmp_path / "short").write_text("".join(lines[::3]))
    assert run("score", made / "test", made / "exp", "--system", "cosine+asnorm", "--trials", tmp_path / "short") == 0
    again = read_scores(made / "exp/scores/test/short-cosine+asnorm")[1]
    assert (again == before[::3]).all()


def test_as_norm_is_what_a_slow_reference_says(made):
    assert run("norm", made / "test", made / "exp", "--train", made / "train", *SMALL) == 0
    trials, scores = scores_of(made, "cosine+asnorm")
    cohort = Backend(made / "exp/model").cohort()
    embeddings, utts = read_embeddings(made / "exp/embeddings/test")

    def unit(rows):
        rows = rows - cohort.mean
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    rows = unit(embeddings.astype(np.float64))
    against = np.sort(rows @ unit(cohort.embeddings.astype(np.float64)).T, axis=1)[:, -2:]
    mean, std = against.mean(1), against.std(1)
    for index in range(0, len(trials), 37):
        e, t = (utts.index(name) for name in trials.pair(index))
        cosine = rows[e] @ rows[t]
        expected = 0.5 * ((cosine - mean[e]) / std[e] + (cosine - mean[t]) / std[t])
        assert scores[index] == pytest.approx(expected, rel=1e-3)


def test_a_cohort_of_clusters_holds_nobodys_own_voice_and_still_refuses_its_speakers(made, capsys):
    words = [*SMALL, "scoring.norm.clusters=3"]
    assert run("norm", made / "test", made / "exp", "--train", made / "train", *SMALL) == 0
    voices = Backend(made / "exp/model").cohort()
    of_speakers = scores_of(made, "cosine+asnorm")[1]
    capsys.readouterr()
    assert run("norm", made / "test", made / "exp", "--train", made / "train", *words) == 0
    cohort = Backend(made / "exp/model").cohort()
    assert f"a cohort of {len(cohort.embeddings)} clusters of 7 training speakers, " in capsys.readouterr().out
    assert 2 <= len(cohort.embeddings) <= 3 and cohort.speakers == voices.speakers
    assert np.max(cohort.embeddings @ voices.embeddings.T) < 1 - 1e-4
    np.testing.assert_array_equal(cohort.mean, voices.mean)
    assert not np.array_equal(scores_of(made, "cosine+asnorm")[1], of_speakers)
    assert run("norm", made / "train", made / "exp", "--train", made / "train", *words) == 1
    assert "is in the cohort too" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["z", "t", "s"])
def test_the_other_normalisations_take_the_whole_cohort_and_the_side_that_they_name(made, method):
    words = [f"scoring.norm.method={method}", "scoring.norm.centre=false"]
    assert run("norm", made / "test", made / "exp", "--train", made / "train", *words) == 0
    trials, scores = scores_of(made, f"cosine+{method}norm")
    cohort = Backend(made / "exp/model").cohort().embeddings.astype(np.float64)
    embeddings, utts = read_embeddings(made / "exp/embeddings/test")
    against = embeddings.astype(np.float64) @ cohort.T
    mean, std = against.mean(1), against.std(1)
    for index in range(0, len(trials), 37):
        e, t = (utts.index(name) for name in trials.pair(index))
        cosine = embeddings[e].astype(np.float64) @ embeddings[t]
        z, t_ = (cosine - mean[e]) / std[e], (cosine - mean[t]) / std[t]
        assert scores[index] == pytest.approx({"z": z, "t": t_, "s": (z + t_) / 2}[method], rel=1e-3, abs=1e-3)


def test_an_adapted_plda_is_a_system_of_its_own(made, tmp_path, capsys):
    shutil.copytree(made / "exp", tmp_path / "exp")
    exp, data, train = tmp_path / "exp", made / "test", made / "train"
    words = ["--train", train, "scoring.plda.lda_dim=4"]
    assert run("plda", data, exp, *words) == 0
    assert run("plda", data, exp, *words, "--adapt", data) == 0
    assert "adapted by 60 utterances of test" in capsys.readouterr().out
    plain, adapted = (read_scores(exp / f"scores/test/trials-{name}")[1] for name in ("plda", "plda_adapted"))
    assert len(plain) == len(adapted) and (plain != adapted).any()
    assert run("evaluate", data, exp, "--system", "plda_adapted", "scoring.bootstrap=0") == 0


def test_models_of_several_utterances_are_enrolled_by_mean_and_by_score_mean(made, tmp_path):
    embeddings, utts = read_embeddings(made / "exp/embeddings/test")
    speaker_of = dict(line.split() for line in (made / "test/utt2spk").read_text().splitlines())
    speakers = sorted(set(speaker_of.values()))
    own = {s: [u for u in utts if speaker_of[u] == s] for s in speakers}
    (tmp_path / "models").write_text("".join(f"model-{s} {' '.join(own[s][:3])}\n" for s in speakers))
    pairs = [(s, u) for s in speakers for u in utts if u not in own[s][:3]]
    write_trials(
        tmp_path / "trials-m",
        Trials.of([f"model-{s}" for s, _ in pairs], [u for _, u in pairs], [speaker_of[u] == s for s, u in pairs]),
    )
    found = {}
    for words in ([], ["--score-mean"]):
        options = ["--trials", tmp_path / "trials-m", "--enrolment", tmp_path / "models", *words]
        assert run("score", made / "test", made / "exp", *options) == 0
        found[bool(words)] = read_scores(made / "exp/scores/test/trials-m-cosine")[1]
    row = {utt: embeddings[n].astype(float) for n, utt in enumerate(utts)}
    for index, (speaker, utt) in enumerate(pairs[:200]):
        each = [row[other] @ row[utt] for other in own[speaker][:3]]
        assert found[True][index] == pytest.approx(np.mean(each), abs=1e-6)
        mean = sum(row[other] for other in own[speaker][:3])
        assert found[False][index] == pytest.approx(mean @ row[utt] / np.linalg.norm(mean), abs=1e-6)


@pytest.mark.parametrize("system", ["cosine", "cosine+asnorm"])
def test_verify_gives_the_log_likelihood_ratio_of_the_score_list_and_decides_by_the_prior(
    made, tmp_path, system, capsys
):
    shutil.copytree(made / "exp", tmp_path / "exp")
    shutil.rmtree(tmp_path / "exp/model/backend", ignore_errors=True)
    exp, data, train = tmp_path / "exp", made / "test", made / "train"
    quality = "scoring.calibration.quality=[duration, magnitude, cohort_mean]"
    assert run("norm", data, exp, "--train", train, *SMALL) == 0
    assert run("calibrate", data, exp, "--train", train, "--system", system, quality) == 0
    trials, llrs = read_scores(exp / "scores/test" / f"trials-{system}+calibration")
    wav = dict(line.split() for line in (data / "wav.scp").read_text().splitlines())
    index = int(np.argsort(llrs)[len(llrs) // 2])
    a, b = (data / wav[name] for name in trials.pair(index))
    voice = spkver.load(exp / "model")
    outcome = voice.verify(a, b)
    assert outcome.calibrated
    assert outcome.score == pytest.approx(llrs[index], rel=1e-3, abs=1e-3)
    assert outcome.threshold == pytest.approx(np.log(0.95 / 0.05))
    # Odds of the prior times the likelihood ratio: at the prior where they are even, the decision turns.
    even = 1 / (1 + np.exp(outcome.score))
    for prior, same in ((even * 0.99, False), (1 - (1 - even) * 0.99, True)):
        voice.set_prior(prior)
        assert voice.verify(a, b).same_speaker == same
        capsys.readouterr()
        assert run("verify", a, b, "--model", exp / "model", "--prior", prior) == (0 if same else 3)
        assert "log-likelihood ratio" in capsys.readouterr().out


def test_threshold_and_verify_take_the_same_system_by_default(made, tmp_path, capsys):
    exp, data, train = shutil.copytree(made / "exp", tmp_path / "exp"), made / "test", made / "train"
    shutil.rmtree(exp / "model/backend", ignore_errors=True)
    assert run("score", data, exp) == 0
    for calibrate, system in (([], "cosine"), (["cosine"], "cosine+calibration")):
        for name in calibrate:
            assert run("calibrate", data, exp, "--train", train, "--system", name) == 0
        capsys.readouterr()
        assert run("threshold", data, exp, "--far", "0.1") == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith(f"exp, {system}: accept from this score on")
        assert all(f" {system}:" in line for line in lines[2:4])
        assert spkver.load(exp / "model").system == system
    assert run("threshold", data, exp, "--system", "cosine") == 0
    assert "exp, cosine: accept" in capsys.readouterr().out
    assert run("threshold", data, exp, "--system", "cosine+znorm+calibration") == 1
    asked = f"--trials {data / 'trials'} --system cosine+znorm+calibration`"
    assert f"is not scored yet; run `spkver score {data} {exp} {asked}" in capsys.readouterr().err


def test_the_threshold_that_promises_a_rate_keeps_it_in_verify(made, tmp_path, capsys):
    exp, data, train = shutil.copytree(made / "exp", tmp_path / "exp"), made / "test", made / "train"
    shutil.rmtree(exp / "model/backend", ignore_errors=True)
    assert run("calibrate", data, exp, "--train", train) == 0
    assert run("threshold", data, exp, "--far", "0.1", "--save") == 0
    trials, llrs = read_scores(exp / "scores/test/trials-cosine+calibration")
    voice = spkver.load(exp / "model")
    # Scores from before the calibration was fitted anew have other thresholds; PLDA has nothing to do with them.
    calibration = exp / "model/backend/calibration-cosine.json"
    os.utime(calibration, (1, 1))
    capsys.readouterr()
    assert run("threshold", data, exp, "--far", "0.1", "--save") == 1
    assert (
        "are scores from before calibration-cosine.json was fitted anew; run `spkver score" in capsys.readouterr().err
    )
    assert run("score", data, exp, "--system", "cosine+calibration") == 0
    assert run("plda", data, exp, "--train", train, "scoring.plda.lda_dim=4") == 0
    assert run("threshold", data, exp, "--far", "0.1", "--save") == 0
    false = (llrs[trials.labels == 0] >= voice.threshold).mean()
    assert 0.08 < false <= 0.1
    wav = dict(line.split() for line in (data / "wav.scp").read_text().splitlines())
    nontargets = np.flatnonzero(trials.labels == 0)
    for index in nontargets[np.argsort(-llrs[nontargets])][[0, 20, -1]]:
        outcome = voice.verify(*(data / wav[name] for name in trials.pair(index)))
        assert outcome.same_speaker == (llrs[index] >= voice.threshold)


def test_calibration_says_what_lengths_it_was_learnt_from(made, tmp_path, capsys):
    exp, data, train = shutil.copytree(made / "exp", tmp_path / "exp"), made / "test", made / "train"
    assert run("calibrate", data, exp, "--train", train) == 0
    assert "half has recordings of 1 to 6 s joined of them" in capsys.readouterr().out
    joined = json.loads((exp / "model/backend/calibration-cosine.json").read_text())
    assert run("calibrate", data, exp, "--train", train, "scoring.calibration.joined_pairs=0") == 0
    assert "no recordings were joined" in capsys.readouterr().out
    alone = json.loads((exp / "model/backend/calibration-cosine.json").read_text())
    assert set(joined["ranges"]) == set(joined["weights"]) - {"score"}
    # Three held-out speakers with six utterances of about a second: joined they reach further.
    assert joined["ranges"]["log_duration_max"][1] > alone["ranges"]["log_duration_max"][1] + 1
    assert run("calibrate", data, exp, "--train", train) == 0
    assert json.loads((exp / "model/backend/calibration-cosine.json").read_text()) == joined


def test_a_prior_without_calibration_is_refused(trained, capsys):
    assert run("verify", "a.wav", "b.wav", "--model", trained / "model", "--prior", "0.5") == 1
    assert "a prior needs calibrated scores; make them by `spkver calibrate`" in capsys.readouterr().err


def test_systems_are_fused_into_log_likelihood_ratios(made, tmp_path, capsys):
    exp, data, train = made / "exp", made / "test", made / "train"
    assert run("plda", data, exp, "--train", train, "scoring.plda.lda_dim=4") == 0
    assert run("fuse", data, f"{exp}:cosine", f"{exp}:plda", "--train", train, "--exp", tmp_path / "fused") == 0
    assert "Cllr" in capsys.readouterr().out
    fusion = json.loads((tmp_path / "fused/fusion.json").read_text())
    assert list(fusion["weights"])[:3] == ["exp:cosine", "exp:plda", "log_duration_min"]
    assert set(fusion["ranges"]) == set(fusion["weights"]) - {"exp:cosine", "exp:plda"}
    assert fusion["ranges"]["log_duration_max"][1] > np.log(4)  # utterances of about a second, joined
    assert run("evaluate", data, tmp_path / "fused", "--system", "fusion", "scoring.bootstrap=0") == 0
    trials, llrs = read_scores(tmp_path / "fused/scores/test/trials-fusion")
    record = json.loads((tmp_path / "fused/metrics.json").read_text())["test/trials"]["fusion"]
    assert record["eer"] == equal_error_rate(llrs, trials.labels)[0]


def test_two_systems_are_compared_on_the_same_trials(made, capsys):
    exp, data = made / "exp", made / "test"
    assert run("score", data, exp) == 0
    assert run("norm", data, exp, "--train", made / "train", *SMALL) == 0
    capsys.readouterr()
    assert run("compare", data, exp, f"{exp}:cosine+asnorm", "scoring.bootstrap=100") == 0
    lines = capsys.readouterr().out.splitlines()
    row = next(line.split() for line in lines if line.startswith("eer"))
    (trials, a), (_, b) = scores_of(made, "cosine"), scores_of(made, "cosine+asnorm")
    assert float(row[1]) == pytest.approx(equal_error_rate(a, trials.labels)[0], abs=6e-5)
    assert float(row[2]) == pytest.approx(equal_error_rate(b, trials.labels)[0], abs=6e-5)


def test_det_curves_of_chosen_systems_are_drawn(made, tmp_path, capsys):
    exp, data = made / "exp", made / "test"
    assert run("score", data, exp) == 0
    assert run("norm", data, exp, "--train", made / "train", *SMALL) == 0
    words = ["plot", "det", exp, "--out", tmp_path, "--systems"]
    assert run(*words, "cosine", "cosine+asnorm") == 0
    assert (tmp_path / "det.png").stat().st_size > 10_000
    assert run(*words, "onnx_int8") == 1
    assert "plot det: no system onnx_int8; there are " in capsys.readouterr().err


def models_of(data, folder, per_model=3):
    """A model list of the first utterances of each speaker, and trials of the models against the others."""
    of = {}
    for line in (data / "utt2spk").read_text().splitlines():
        utt, speaker = line.split()
        of.setdefault(speaker, []).append(utt)
    (folder / "models").write_text("".join(f"m-{s} {' '.join(utts[:per_model])}\n" for s, utts in of.items()))
    trials = [(f"m-{s}", utt, s == other) for s in of for other, utts in of.items() for utt in utts[per_model:]]
    (folder / "of_models").write_text("".join(f"{m} {u} {'target' if x else 'nontarget'}\n" for m, u, x in trials))
    return folder / "models", folder / "of_models"


def test_models_of_several_utterances_are_evaluated_by_their_speakers(made, tmp_path, capsys):
    data, exp = made / "test", made / "exp"
    models, trials = models_of(data, tmp_path)
    assert run("score", data, exp, "--trials", trials, "--enrolment", models) == 0
    assert run("evaluate", data, exp, "--trials", trials, "--by", "gender", "duration") == 0
    out = capsys.readouterr().out
    record = json.loads((exp / "metrics.json").read_text())["test/of_models"]["cosine"]
    assert (record["targets"], record["nontargets"], record["speakers"]) == (30, 270, 10)
    assert record["eer_interval"][0] <= record["eer"] <= record["eer_interval"][1]
    assert "the intervals are over 10 speakers only, so they are rough; 20 or more are wanted" in out
    assert "\nf  (15 + 60 trials)" in out and "\nmixed  (0 + 150 trials)" in out
    assert "\nduration" in out
    assert run("compare", data, exp, exp, "--trials", trials, "scoring.bootstrap=20") == 0

    first, second, *rest = models.read_text().splitlines()
    swapped = first.split()[0] + " " + " ".join([*first.split()[1:-1], second.split()[1]])
    models.write_text("\n".join([swapped, second, *rest]) + "\n")
    assert run("score", data, exp, "--trials", trials, "--enrolment", models) == 0
    capsys.readouterr()
    assert run("evaluate", data, exp, "--trials", trials) == 1
    assert "model 'm-other-v0' has utterances of 'other-v0' and of 'other-v1'\n" in capsys.readouterr().err

    assert run("score", data, exp) == 0
    assert run("evaluate", data, exp) == 0


def test_a_name_whose_speaker_is_not_known_needs_no_speaker_without_intervals(made, tmp_path, capsys):
    data, exp = made / "test", made / "exp"
    models, trials = models_of(data, tmp_path)
    assert run("score", data, exp, "--trials", trials, "--enrolment", models) == 0
    (exp / "scores/test/enrolled/of_models-cosine").unlink()
    capsys.readouterr()
    assert run("evaluate", data, exp, "--trials", trials) == 1
    assert "the speaker of 'm-other-v0' is not known; list its utterance" in capsys.readouterr().err
    assert run("evaluate", data, exp, "--trials", trials, "scoring.bootstrap=0") == 0


def test_distances_are_asked_about_and_priors_have_their_columns(foreign, capsys):
    folder, trials, rows, _ = foreign
    (folder / "scores").write_text("".join(f"{e} {t} {-float(s)}\n" for e, t, s, _ in rows))
    words = ["evaluate", "--scores", folder / "scores", "--trials", trials, "scoring.p_targets=[0.001, 0.5]"]
    assert run(*words) == 0
    out = capsys.readouterr().out
    assert "scores: an EER above 50 %; is lower more alike, as of distances? Then change all signs" in out
    assert " minDCF(0.001) " in out and " minDCF(0.5) " in out and " - " not in out
    (folder / "scores").write_text("".join(f"{e} {t} {s}\n" for e, t, s, _ in rows))
    assert run(*words) == 0
    assert "above 50 %" not in capsys.readouterr().out


def test_figures_are_broken_down_by_gender_and_duration(made, capsys):
    exp, data = made / "exp", made / "test"
    assert run("score", data, exp) == 0
    assert run("evaluate", data, exp, "--by", "gender", "duration", "scoring.bootstrap=0") == 0
    out = capsys.readouterr().out
    assert "\nf  (" in out and "\nm  (" in out and "\nduration" in out


def test_people_whom_the_model_never_met_calibrate_it_unless_they_are_those_under_test(made, tmp_path, capsys):
    test, others, exp = made / "test", tmp_path / "others", tmp_path / "exp"
    shutil.copytree(made / "exp", exp)
    shutil.copytree(test, others)
    speakers = (others / "utt2spk").read_text().replace("other-", "third-")
    (others / "utt2spk").write_text(speakers)
    (others / "spk2gender").unlink()
    quick = "scoring.calibration.joined_pairs=0"
    assert run("embed", others, exp) == 0
    capsys.readouterr()
    assert run("calibrate", test, exp, "--train", others, quick) == 0
    n_speakers = len({line.split()[1] for line in speakers.splitlines()})
    assert f" of {n_speakers} speakers it was not trained on" in capsys.readouterr().out
    fitted = Backend(exp / "model").calibration("cosine").weights
    assert run("calibrate", test, exp, "--train", made / "train", quick) == 0
    assert Backend(exp / "model").calibration("cosine").weights != fitted
    capsys.readouterr()
    assert run("calibrate", test, exp, "--train", test, quick) == 1
    assert f"is tested by {test} too ({n_speakers} in all), who would tell what" in capsys.readouterr().err


def test_a_list_says_which_trials_calibrate(made, tmp_path, capsys):
    test, exp, train = made / "test", shutil.copytree(made / "exp", tmp_path / "exp"), made / "train"
    trained = (exp / "model/speakers").read_text().split()
    rows = [line.split() for line in (train / "utt2spk").read_text().splitlines()]
    held_out = [(utt, speaker) for utt, speaker in rows if speaker not in trained]
    listed = make_trials([utt for utt, _ in held_out], [speaker for _, speaker in held_out], seed=5)
    few = Trials(listed.names, *(side[::3] for side in (listed.enroll_index, listed.test_index, listed.labels)))
    write_trials(tmp_path / "few", few)
    words = ["calibrate", test, exp, "--train", train, "--on", tmp_path / "few"]
    assert run(*words, "scoring.calibration.quality=[duration]") == 0
    n_targets = int(few.labels.sum())
    said = f"calibration by {n_targets} target and {len(few) - n_targets} nontarget trials of 3 speakers"
    assert said in capsys.readouterr().out
    embeddings, utts = read_embeddings(exp / "embeddings/train")
    sides = [[utts.index(few.names[n].as_py()) for n in side] for side in (few.enroll_index, few.test_index)]
    cosines = (embeddings[sides[0]] * embeddings[sides[1]]).sum(1, dtype=np.float64)
    seconds = np.load(exp / "embeddings/train/measures.npz")["duration"]
    logs = np.sort(np.log([seconds[side] for side in sides]), axis=0)
    columns = {"score": cosines, "log_duration_min": logs[0], "log_duration_max": logs[1]}
    fitted = Backend(exp / "model").calibration("cosine")
    expected = fit_calibration(columns, few.labels, 0.05, 1e-6, {}, {"log_duration_min", "log_duration_max"})
    np.testing.assert_allclose(fitted.llrs(columns), expected.llrs(columns), atol=1e-3)
    trial = f"{held_out[0][0]} {next(utt for utt, speaker in rows if speaker in trained)}"
    (tmp_path / "few").write_text(trial + " nontarget\n")
    assert run(*words) == 1
    assert f"is in no line of {train} among speakers that {exp / 'model'} was not" in capsys.readouterr().err
    (tmp_path / "few").write_text(f"{held_out[0][0]} {held_out[1][0]}\n")
    assert run(*words) == 1
    assert f"{tmp_path / 'few'}: has no labels; a calibration" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "TEST", "EXP", "--by", "colour"], "--by colour: TEST knows no such condition; there are gender"),
        (
            ["score", "TEST", "EXP", "--system", "cosine+znrm"],
            "no system 'cosine+znrm' (did you mean 'cosine+znorm'?); a name",
        ),
        (["score", "TEST", "EXP", "--system", "plda_adapted"], "plda_adapted.safetensors: is not there; `spkver plda`"),
        (["norm", "TEST", "EXP", "--train", "TRAIN", "scoring.norm.top_n=50"], "the cohort has 7 training speakers"),
        (["norm", "TEST", "EXP", "--train", "TRAIN", "scoring.norm.clusters=4"], "7 speakers are too few"),
        (["norm", "TRAIN", "EXP", "--train", "TRAIN", *SMALL], "is in the cohort too"),
        (["norm", "TEST", "EXP", "--train", "TEST", *SMALL], "was trained on none of its speakers"),
        (["norm", "TEST", "EXP", "--train", "TRAIN", "optimizer.lr=1"], "override 'optimizer.lr=1': the model is"),
        (["plda", "TEST", "EXP", "--train", "TRAIN", "scoring.plda.lda_dim=99"], "lda_dim"),
        (["fuse", "TEST", "EXP", "--train", "TRAIN", "--exp", "x"], "fuse: name two different systems or more"),
        (["compare", "TEST", "EXP", "EXP", "scoring.bootstrap=0"], "compare: scoring.bootstrap is 0, and a comparison"),
        (["evaluate", "--scores", "x"], "evaluate: --scores FILE goes with --trials FILE"),
    ],
)
def test_a_mistake_is_one_line(made, capsys, words, message):
    places = {"TEST": made / "test", "TRAIN": made / "train", "EXP": made / "exp"}
    run("score", made / "test", made / "exp")
    capsys.readouterr()
    assert run(*(places.get(word, word) for word in words)) == 1
    error = capsys.readouterr().err
    for word, place in places.items():
        message = message.replace(word, str(place))
    assert message in error
    assert error.count("\n") == 1


def test_what_was_fitted_to_another_model_is_refused_and_thrown_away(made, tmp_path, capsys):
    shutil.copytree(made / "exp", tmp_path / "exp")
    exp, data, train = tmp_path / "exp", made / "test", made / "train"
    assert run("norm", data, exp, "--train", train, *SMALL) == 0
    assert run("calibrate", data, exp, "--train", train) == 0
    weights = exp / "model/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    for directory in (data, train):
        assert run("embed", directory, exp) == 0
    capsys.readouterr()
    assert run("score", data, exp, "--system", "cosine+asnorm") == 1
    assert "belongs to other weights or settings" in capsys.readouterr().err
    assert run("norm", data, exp, "--train", train, *SMALL) == 0
    assert not (exp / "model/backend/calibration-cosine.json").exists()


# What stored files belong to.


@pytest.fixture
def copy(made, tmp_path):
    """The experiment and its data directories, to be changed; without what tests before this one may have made."""
    copy = shutil.copytree(made, tmp_path / "copy")
    for folder in ("scores", "model/backend"):
        shutil.rmtree(copy / "exp" / folder, ignore_errors=True)
    (copy / "exp/metrics.json").unlink(missing_ok=True)
    return copy


def softer(data, target):
    """The same list with other recordings, under another folder and the same name."""
    shutil.copytree(data, target)
    for path in (target / "wav").rglob("*.wav"):
        samples, rate = soundfile.read(path)
        soundfile.write(path, 0.5 * samples, rate)
    return target


def test_two_data_directories_of_one_name_are_not_mixed(copy, tmp_path, capsys):
    exp, clean, noisy = copy / "exp", copy / "test", softer(copy / "test", tmp_path / "noisy" / "test")
    for verb in ("embed", "score"):
        assert run(verb, clean, exp) == 0
    before = (exp / "embeddings/test/embeddings.npy").read_bytes()
    capsys.readouterr()
    refused = {
        ("embed", noisy, exp): f"holds the embeddings of {clean}, and those of {noisy} would replace them",
        (
            "score",
            noisy,
            exp,
        ): f"are embeddings of other recordings than {noisy}, of {clean} as it was; run `spkver embed` again",
        (
            "evaluate",
            noisy,
            exp,
        ): f"are scores of other recordings than {noisy}, of {clean} as it was; run `spkver score` again",
        ("threshold", noisy, exp): f"are scores of other recordings than {noisy}",
        ("export-embeddings", noisy, exp, tmp_path / "x.npz"): "are embeddings of other recordings",
        ("norm", clean, exp, "--train", noisy, *SMALL): "are embeddings of other recordings",
    }
    for words, message in refused.items():
        assert run(*words) == 1
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert (exp / "embeddings/test/embeddings.npy").read_bytes() == before
    assert run("evaluate", clean, exp, "scoring.bootstrap=0") == 0


def test_two_trial_lists_of_one_name_are_not_mixed(copy, tmp_path, capsys):
    exp, data = copy / "exp", copy / "test"
    lines = (data / "trials").read_text().splitlines(keepends=True)
    easy, hard = tmp_path / "easy/trials", tmp_path / "hard/trials"
    for path, rows in ((easy, lines[::2]), (hard, lines[1::2])):
        path.parent.mkdir()
        path.write_text("".join(rows))
    shutil.rmtree(exp / "scores", ignore_errors=True)
    assert run("score", data, exp, "--trials", easy) == 0
    scored = (exp / "scores/test/trials-cosine").read_bytes()
    capsys.readouterr()
    assert run("score", data, exp, "--trials", hard) == 1
    assert f"holds the scores of {easy}, and those of {hard} would replace them" in capsys.readouterr().err
    for verb in ("evaluate", "threshold"):
        assert run(verb, data, exp, "--trials", hard) == 1
        assert (
            f"are the scores of another list than {hard}, of {easy} as it was; run `spkver score` again"
            in capsys.readouterr().err
        )
    assert (exp / "scores/test/trials-cosine").read_bytes() == scored
    assert run("evaluate", data, exp, "--trials", easy, "scoring.bootstrap=0") == 0
    # A list that was changed where it is has other scores; they are made anew.
    easy.write_text("".join(lines[::3]))
    assert run("evaluate", data, exp, "--trials", easy, "scoring.bootstrap=0") == 1
    assert run("score", data, exp, "--trials", easy) == 0
    assert run("evaluate", data, exp, "--trials", easy, "scoring.bootstrap=0") == 0


def test_results_have_a_table_for_each_of_two_lists_of_one_name(copy, tmp_path, capsys):
    clean, noisy = copy / "test", softer(copy / "test", tmp_path / "noisy" / "test")
    other = tmp_path / "other"
    shutil.copytree(copy / "exp", other, ignore=shutil.ignore_patterns("embeddings", "scores", "metrics.json"))
    same = tmp_path / "same"
    shutil.copytree(other, same)
    for data, exp in ((clean, copy / "exp"), (noisy, other), (clean, same)):
        for verb in ("embed", "score"):
            assert run(verb, data, exp) == 0
        assert run("evaluate", data, exp, "scoring.bootstrap=0") == 0
    capsys.readouterr()
    assert run("results", copy / "exp", other, same) == 0
    ours, theirs = capsys.readouterr().out.split("\n\n")
    assert ours.startswith(f"test/trials ({clean}/trials): ") and theirs.startswith(f"test/trials ({noisy}/trials): ")
    assert "exp, cosine" in ours and "same, cosine" in ours and "other, cosine" not in ours
    assert "other, cosine" in theirs
    # Another list over the same recordings is told apart as well; a record that says nothing goes by the name.
    lines = (clean / "trials").read_text().splitlines(keepends=True)
    (clean / "trials").write_text("".join(lines[::2]))
    assert run("score", clean, same) == 0
    assert run("evaluate", clean, same, "scoring.bootstrap=0") == 0
    capsys.readouterr()
    assert run("results", copy / "exp", same) == 0
    assert capsys.readouterr().out.count("test/trials (") == 2
    metrics = json.loads((same / "metrics.json").read_text())
    del metrics["test/trials"]["cosine"]["made_of"]
    (same / "metrics.json").write_text(json.dumps(metrics))
    assert run("results", copy / "exp", same) == 0
    assert capsys.readouterr().out.count("test/trials: ") == 1


def test_what_was_moved_is_still_known(copy, tmp_path):
    assert run("score", copy / "test", copy / "exp") == 0
    copy.rename(tmp_path / "elsewhere")
    data, exp = tmp_path / "elsewhere/test", tmp_path / "elsewhere/exp"
    assert run("evaluate", data, exp, "scoring.bootstrap=0") == 0
    assert run("norm", data, exp, "--train", tmp_path / "elsewhere/train", *SMALL) == 0


def test_a_link_and_the_folder_that_it_leads_to_are_one_data_directory(copy, tmp_path, monkeypatch):
    exp, data = copy / "exp", copy / "test"
    (tmp_path / "link").symlink_to(data)
    assert run("embed", tmp_path / "link", exp) == 0
    assert run("score", tmp_path / "link", exp) == 0
    assert run("evaluate", tmp_path / "link", exp, "scoring.bootstrap=0") == 0
    assert list(json.loads((exp / "metrics.json").read_text())) == ["test/trials"]
    (data / "within").mkdir()
    monkeypatch.chdir(data / "within")
    assert run("embed", "..", exp) == 0
    monkeypatch.chdir(data)
    assert run("evaluate", ".", exp, "scoring.bootstrap=0") == 0
    assert sorted(path.name for path in (exp / "embeddings").iterdir()) == ["test", "train"]
    assert not (exp / "embeddings.npy").exists()


def test_embeddings_and_scores_of_another_model_are_refused(copy, capsys):
    exp, data = copy / "exp", copy / "test"
    assert run("score", data, exp) == 0
    config = exp / "model/config.yaml"
    config.write_text(config.read_text().replace("max_seconds: 60", "max_seconds: 1"))
    capsys.readouterr()
    assert run("score", data, exp) == 1
    assert "are embeddings of another model, or of other settings, than" in capsys.readouterr().err
    assert run("evaluate", data, exp) == 1
    assert "are scores of another model, or of other settings, than" in capsys.readouterr().err
    assert run("embed", data, exp) == 0
    assert run("score", data, exp) == 0
    assert run("evaluate", data, exp, "scoring.bootstrap=0") == 0


def test_what_does_not_say_where_it_comes_from_is_refused(copy, capsys):
    exp, data = copy / "exp", copy / "test"
    assert run("score", data, exp) == 0
    (exp / "scores/test/made_of/trials-cosine.json").unlink()
    (exp / "embeddings/test/made_of.json").unlink()
    capsys.readouterr()
    assert run("evaluate", data, exp) == 1
    assert "does not say what list was scored, and on what; run `spkver score" in capsys.readouterr().err
    assert run("score", data, exp) == 1
    assert "does not say what was embedded, and by what model; run `spkver embed" in capsys.readouterr().err


def test_a_back_end_of_embeddings_that_another_network_made_is_refused(made, tmp_path, capsys):
    def imported(seed, exp, parts=("train", "test")):
        rng = np.random.default_rng(seed)
        mix = rng.standard_normal((16, 16))
        for part in parts:
            speaker_of = dict(line.split() for line in (made / part / "utt2spk").read_text().splitlines())
            centre = {speaker: rng.standard_normal(16) for speaker in sorted(set(speaker_of.values()))}
            rows = np.array(
                [(centre[s] + 0.9 * rng.standard_normal(16)) @ mix for s in speaker_of.values()], np.float32
            )
            np.savez(tmp_path / f"{part}.npz", embeddings=rows, utts=np.array(list(speaker_of)))
            assert run("import-embeddings", made / part, exp, tmp_path / f"{part}.npz") == 0

    exp, data, train = tmp_path / "imported", made / "test", made / "train"
    fit = ("plda", data, exp, "--train", train, "scoring.plda.lda_dim=4")
    imported(1, exp)
    assert run(*fit) == 0
    imported(1, exp)  # the very same once more: nothing changes
    assert run("score", data, exp, "--system", "plda") == 0
    imported(2, exp)
    capsys.readouterr()
    assert run("score", data, exp, "--system", "plda") == 1
    assert "plda.safetensors: belongs to other weights or settings" in capsys.readouterr().err
    assert run("evaluate", data, exp, "--system", "plda") == 1
    assert "are scores of another model" in capsys.readouterr().err
    assert run(*fit) == 0
    assert run("evaluate", data, exp, "--system", "plda", "scoring.bootstrap=0") == 0
    # Of two imports the one that was not done again belongs to the network before.
    imported(3, exp, parts=["train"])
    capsys.readouterr()
    assert run(*fit) == 1
    error = capsys.readouterr().err
    assert "are embeddings of another model" in error and "run `spkver import-embeddings" in error


def test_a_list_that_was_scored_by_the_same_is_not_scored_again(copy, capsys, monkeypatch):
    exp, data = copy / "exp", copy / "test"
    assert run("norm", data, exp, "--train", copy / "train", *SMALL) == 0
    path = exp / "scores/test/trials-cosine+asnorm"
    before, content = path.stat().st_mtime_ns, path.read_bytes()
    capsys.readouterr()
    assert run("score", data, exp, "--system", "cosine+asnorm") == 0
    assert capsys.readouterr().out == f"1770 scores, from the same embeddings as before -> {path}\n"
    assert path.stat().st_mtime_ns == before
    path.write_bytes(content[:-20])
    assert run("score", data, exp, "--system", "cosine+asnorm") == 0
    assert path.read_bytes() == content
    assert run("norm", data, exp, "--train", copy / "train", "scoring.norm.top_n=3") == 0
    assert path.read_bytes() != content


def test_another_toolkits_embeddings_are_scored_normalised_and_calibrated_without_a_model(made, tmp_path, capsys):
    exp, other = made / "exp", tmp_path / "other"
    for data in ("train", "test"):
        assert run("export-embeddings", made / data, exp, tmp_path / f"{data}.ark") == 0
        assert run("import-embeddings", made / data, other, tmp_path / f"{data}.scp") == 0
    assert run("score", made / "test", exp) == 0
    assert run("score", made / "test", other) == 0
    assert (other / "scores/test/trials-cosine").read_bytes() == (exp / "scores/test/trials-cosine").read_bytes()
    assert run("norm", made / "test", other, "--train", made / "train", *SMALL) == 0
    capsys.readouterr()
    assert run("calibrate", made / "test", other, "--train", made / "train", "--system", "cosine+asnorm") == 0
    assert "no recordings were joined" in capsys.readouterr().out
    system = "cosine+asnorm+calibration"
    assert run("evaluate", made / "test", other, "--system", system, "scoring.bootstrap=0") == 0
    assert "test/trials" in json.loads((other / "metrics.json").read_text())
    assert run("import-embeddings", made / "test", exp, tmp_path / "test.ark") == 1
    assert "has a model of its own" in capsys.readouterr().err
    assert run("import-embeddings", made / "test", tmp_path / "x", tmp_path / "none.ark") == 1
    assert "none.ark" in capsys.readouterr().err


# Scores of other toolkits.


@pytest.fixture
def foreign(tmp_path):
    names = [f"id{n}/x/{n:02d}.wav" for n in range(20)]
    rng = np.random.default_rng(0)
    enroll, test = rng.integers(20, size=(2, 300))
    labels = (enroll % 4 == test % 4).astype(int)
    pairs = dict.fromkeys(zip(enroll.tolist(), test.tolist()))
    enroll, test = np.array(list(pairs)).T
    labels = (enroll % 4 == test % 4).astype(int)
    scores = np.round(rng.normal(size=len(labels)) + 2 * labels, 3)
    trials = tmp_path / "veri_test.txt"
    trials.write_bytes("".join(f"{x} {names[a]} {names[b]}\r\n" for x, a, b in zip(labels, enroll, test)).encode())
    rows = [(names[a], names[b], str(s), str(x)) for a, b, s, x in zip(enroll, test, scores, labels)]
    return tmp_path, trials, rows, equal_error_rate(scores, labels)[0]


FORMS = {
    "kaldi": lambda e, t, s, x: f"{e} {t} {s}",
    "wespeaker": lambda e, t, s, x: f"{e} {t} {s} {['nontarget', 'target'][int(x)]}",
    "3d-speaker": lambda e, t, s, x: f"{x}\t{e}\t{t}\t{s}",
    "voxsrc": lambda e, t, s, x: f"{s} {e} {t}",
    "espnet": lambda e, t, s, x: f"{e}*{t} {s} {x}",
    "csv": lambda e, t, s, x: f"{e},{t},{s}",
}


@pytest.mark.parametrize("form", FORMS)
def test_the_score_file_of_another_toolkit_is_matched_by_names_in_any_order(foreign, capsys, form):
    folder, trials, rows, eer = foreign
    shuffled = [rows[n] for n in np.random.default_rng(1).permutation(len(rows))]
    path = folder / ("scores.csv" if form == "csv" else "scores")
    header = "enroll,test,score\n" if form == "csv" else ""
    path.write_text(header + "".join(FORMS[form](*row) + "\n" for row in shuffled))
    assert run("evaluate", "--scores", path, "--trials", trials, "scoring.bootstrap=0") == 0
    out = capsys.readouterr().out
    assert f"{len(rows)} scores matched by names" in out
    assert f"{100 * eer:.2f} %" in out


def test_scores_alone_are_taken_in_the_order_of_the_list(foreign, capsys):
    folder, trials, rows, eer = foreign
    (folder / "scores").write_text("".join(f"{row[2]}\n" for row in rows))
    assert run("evaluate", "--scores", folder / "scores", "--trials", trials) == 0
    out = capsys.readouterr().out
    assert "matched by order" in out and f"{100 * eer:.2f} %" in out
    (folder / "scores").write_text("".join(f"{row[2]}\n" for row in rows[1:]))
    assert run("evaluate", "--scores", folder / "scores", "--trials", trials) == 1
    assert f"{len(rows) - 1} scores without names, but {len(rows)} trials" in capsys.readouterr().err


def test_missing_double_and_foreign_pairs_are_told(foreign, capsys):
    folder, trials, rows, _ = foreign
    path = folder / "scores"

    def complaint(lines):
        path.write_text("".join(" ".join(line) + "\n" for line in lines))
        assert run("evaluate", "--scores", path, "--trials", trials) == 1
        return capsys.readouterr().err

    plain = [row[:3] for row in rows]
    assert f"no score of '{rows[4][0]}' and '{rows[4][1]}'" in complaint(plain[:4] + plain[5:])
    assert f"{trials}:5: " in complaint(plain[:4] + plain[5:])
    assert "have the score 9" in complaint([*plain, (*plain[0][:2], "9")])
    assert f"{path}:7: the score 'high' is not a number" in complaint([*plain[:6], (*plain[6][:2], "high"), *plain[7:]])
    based = [(Path(e).name, Path(t).name, s) for e, t, s in plain]
    assert "its names are not those of" in complaint(based)
    path.write_text("".join(" ".join(line) + "\n" for line in [*plain, plain[3], ("a", "b", "1.0")]))
    assert run("evaluate", "--scores", path, "--trials", trials) == 0
    out = capsys.readouterr().out
    assert "1 pairs are there twice, with the same score; 1 scores of pairs that are not in the list" in out


def test_a_trial_table_is_broken_down_by_any_of_its_columns(foreign, capsys):
    folder, _, rows, eer = foreign
    table = folder / "trials.tsv"
    lines = [f"{e}\t{t}\t{x}\t{'phone' if n % 2 else 'desk'}\t{n % 7}.5" for n, (e, t, _, x) in enumerate(rows)]
    table.write_text("enroll\ttest\tlabel\tchannel\tnoise\n" + "\n".join(lines) + "\n")
    (folder / "scores").write_text("".join(f"{e} {t} {s}\n" for e, t, s, _ in rows))
    assert run("evaluate", "--scores", folder / "scores", "--trials", table, "--by", "channel", "noise") == 0
    out = capsys.readouterr().out
    assert f"{100 * eer:.2f} %" in out
    assert "\nphone  (" in out and "\ndesk  (" in out and "\nnoise" in out
    assert run("evaluate", "--scores", folder / "scores", "--trials", table, "--by", "weather") == 1
    assert "has no such column (columns of conditions: channel, noise)" in capsys.readouterr().err
