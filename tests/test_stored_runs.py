"""What earlier versions wrote is opened by this one, and comes to the same numbers (`tests/stored/make.py` made it)."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from stored.make import SYSTEMS, write_voices

import spkver
from spkver.cli import main
from spkver.config import load_run
from spkver.errors import SpkverError
from spkver.experiment.log import read_log
from spkver.scoring.score_files import read_scores

STORED = Path(__file__).resolve().parent / "stored"
# From before scores, back ends and speaker stores knew of all that their embeddings depended on.
BEFORE_FINGERPRINTS = "c8c5044"
SINCE = sorted(path.parent.name for path in STORED.glob("*/expected.json") if path.parent.name != BEFORE_FINGERPRINTS)
# What a resumed run comes to, whichever version began it. These versions came to other losses: since 29 November 2026 a
# speaker's utterances have other orders.
SECOND_EPOCH = [24.1300, 17.5593, 11.7154, 17.4881, 17.0713, 18.1023, 9.8140, 11.9086]
since_fingerprints = pytest.mark.parametrize("then", SINCE, indirect=True)
before_fingerprints = pytest.mark.parametrize("then", [BEFORE_FINGERPRINTS], indirect=True)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """The data directories ``train`` and ``test`` that the runs had."""
    folder = tmp_path_factory.mktemp("recordings")
    write_voices(folder)
    return folder


@pytest.fixture(params=[BEFORE_FINGERPRINTS, *SINCE])
def then(request, recordings, tmp_path):
    """What a version left behind, in a place where it may be changed, and what it made of the recordings."""
    shutil.copytree(STORED / request.param, tmp_path / "then")
    exp = tmp_path / "then" / "exp"
    expected = json.loads((tmp_path / "then" / "expected.json").read_text())
    return SimpleNamespace(
        version=request.param,
        exp=exp,
        store=tmp_path / "then" / "store",
        expected=expected,
        data=recordings,
        wav=recordings / "test" / "wav",
    )


def run(*words) -> None:
    assert main([str(word) for word in words]) == 0, words


def test_its_configuration_is_read_with_what_it_ran_on(then):
    config, said = load_run(then.exp / "config.yaml")
    assert (config.features.n_mels, config.optimizer.lr, config.head.K, config.scoring.norm.top_n) == (20, 0.01, 2, 3)
    assert config.augment.speed_factors == [1.0, 0.9]
    assert said["commit"].startswith(then.version)
    config, said = load_run(then.exp / "model" / "config.yaml")
    assert config.model.embed_dim == 8
    assert said["epochs_averaged"] == [1, 2] and said["held_out_eer"] == 0.375


def test_its_model_makes_the_same_embeddings(then):
    voice = spkver.load(then.exp / "model", "cosine")
    for utt, expected in then.expected["embeddings"].items():
        assert np.abs(voice.embed(then.wav / f"{utt}.wav") - expected).max() < 1e-4


@since_fingerprints
def test_its_model_decides_as_then(then):
    voice = spkver.load(then.exp / "model")
    outcome = voice.verify(then.wav / "anna-0.wav", then.wav / "anna-3.wav")
    assert outcome.score == pytest.approx(then.expected["score"], abs=1e-3)
    assert outcome.threshold == pytest.approx(then.expected["threshold"], abs=1e-6)


@since_fingerprints
@pytest.mark.parametrize("system", SYSTEMS)
def test_its_back_ends_make_the_scores_of_its_lists(then, system):
    file = then.exp / "scores" / "test" / f"trials-{system}"
    trials, scores = read_scores(file)
    voice = spkver.load(then.exp / "model", system)
    voice.set_threshold(0.0)
    for index in (0, 20, len(scores) - 1):
        a, b = (then.wav / f"{utt}.wav" for utt in trials.pair(index))
        assert voice.verify(a, b).score == pytest.approx(scores[index], abs=1e-3)
    run("score", then.data / "test", then.exp, "--system", system)
    assert np.abs(read_scores(file)[1] - scores).max() < 1e-4


@since_fingerprints
def test_its_scores_have_the_same_figures(then):
    before = json.loads((then.exp / "metrics.json").read_text())["test/trials"]
    for system in SYSTEMS:
        run("evaluate", then.data / "test", then.exp, "--system", system)
    now = json.loads((then.exp / "metrics.json").read_text())["test/trials"]
    for system in SYSTEMS:
        for name in ("eer", "threshold", "min_dcf_0.05", "cllr"):
            assert now[system][name] == pytest.approx(before[system][name], abs=1e-9), (system, name)


def test_its_table_and_page_are_made(then, capsys):
    run("results", then.exp)
    table = capsys.readouterr().out
    assert all(f"\n{system} " in table for system in SYSTEMS)
    run("report", then.exp)
    assert (then.exp / "report.html").stat().st_size > 10_000


@since_fingerprints
def test_its_speakers_are_known(then):
    store = spkver.SpeakerStore(then.store, then.exp / "model")
    assert list(store.speakers) == ["anna", "bob", "carl"]
    scores = store.identify(then.wav / "anna-3.wav").scores
    assert list(scores) == list(then.expected["identified"])
    assert scores == pytest.approx(then.expected["identified"], abs=1e-3)
    store.enroll("dora", [then.wav / "dora-0.wav"])
    assert list(spkver.SpeakerStore(then.store, then.exp / "model").speakers) == ["anna", "bob", "carl", "dora"]


def test_its_training_goes_on_to_the_same_losses(then):
    log = then.exp / "log.jsonl"
    steps, epochs = read_log(log, "step"), read_log(log, "epoch")
    run("train", then.exp / "config.yaml", "--data", then.data / "train", "--exp", then.exp, "--resume")
    again = read_log(log, "step")
    assert again[:8] == steps[:8] and len(again) == len(steps) == 16
    assert [r["loss"] for r in again[8:]] == pytest.approx(SECOND_EPOCH, rel=1e-3)
    assert read_log(log, "epoch")[0] == epochs[0]
    assert read_log(log, "epoch")[1]["held_out_eer"] == pytest.approx(0.4375)


@before_fingerprints
def test_what_was_not_yet_tied_to_its_embeddings_is_refused_with_the_command_that_makes_it_again(then, capsys):
    model = then.exp / "model"
    with pytest.raises(SpkverError, match=r"run `spkver calibrate DATA EXP --train DIR --system \S+` again$"):
        spkver.load(model)
    with pytest.raises(SpkverError, match=r"use those, or enrol everybody again into another folder$"):
        spkver.SpeakerStore(then.store, model, "cosine")
    assert list(spkver.SpeakerStore(then.store).speakers) == ["anna", "bob", "carl"]
    assert main(["evaluate", str(then.data / "test"), str(then.exp)]) == 1
    assert "does not say what list was scored, and on what; run `spkver score" in capsys.readouterr().err
    run("embed", then.data / "test", then.exp)
    run("score", then.data / "test", then.exp)
    run("evaluate", then.data / "test", then.exp)
