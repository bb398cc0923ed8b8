"""recipes/general: recordings under other conditions, and the folder that comes with spkver."""

import importlib.util
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

import spkver
from spkver.cli import main
from spkver.config import load_run
from spkver.data.directory import read_data_directory
from spkver.data.trial_making import make_trials
from spkver.data.trials import read_trials, write_trials
from spkver.experiment.model_folder import read_speakers

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "general"
RATE = 16000


def script(name):
    spec = importlib.util.spec_from_file_location(f"general_{name}", RECIPE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made(voices, tmp_path_factory):
    """The conditions of two voices, and what they were made of: ``(folder, utterances)``."""
    folder = tmp_path_factory.mktemp("conditions")
    rng = np.random.default_rng(1)
    soundfile.write(folder / "hiss.wav", 0.1 * rng.standard_normal(RATE), RATE)
    (folder / "noise_list").write_text(f"hiss {folder / 'hiss.wav'}\n")
    utterances = [u for u in read_data_directory(voices).utterances if u.speaker in ("v0", "v1")]
    write_trials(folder / "few", make_trials([u.id for u in utterances], [u.speaker for u in utterances], seed=1))
    script("conditions").make_tests(voices, folder / "few", folder, folder / "noise_list")
    return folder, utterances


def pairs(made, condition):
    """The samples of each recording as it was and under a condition."""
    folder, utterances = made
    changed = {u.id: u.path for u in read_data_directory(folder / condition).utterances}
    assert set(changed) == {u.id for u in utterances}
    assert len(read_trials(folder / condition / "trials")) == len(read_trials(folder / "few"))
    for utterance in utterances:
        before, after = (soundfile.read(path)[0] for path in (utterance.path, changed[utterance.id]))
        assert len(before) == len(after)
        yield before, after


def share_above(samples, hz):
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
    return power[round(hz / RATE * len(samples)) :].sum() / power.sum()


def test_noise_is_ten_decibels_below_the_voice(made):
    for before, after in pairs(made, "noise"):
        if np.abs(after).max() < 0.999:  # otherwise it was made softer, to fit in 16 bits
            assert 10 * np.log10((before**2).sum() / ((after - before) ** 2).sum()) == pytest.approx(10, abs=0.1)


def test_a_room_keeps_the_power_and_smears_the_voice(made):
    for before, after in pairs(made, "room"):
        likeness = np.corrcoef(before, after)[0, 1]
        assert 0.1 < likeness < 0.99
        if np.abs(after).max() < 0.999:
            assert (after**2).mean() == pytest.approx((before**2).mean(), rel=0.01)


def test_a_telephone_has_no_high_frequencies(made):
    for before, after in pairs(made, "telephone"):
        assert share_above(after, 4100) < 0.1 * share_above(before, 4100)


def test_opus_changes_the_samples_and_leaves_the_voice(made):
    for before, after in pairs(made, "opus"):
        assert 0.3 < np.corrcoef(before, after)[0, 1] < 0.9999


def test_the_same_seed_makes_the_same_recordings(made, voices, tmp_path):
    folder, utterances = made
    script("conditions").make_tests(voices, folder / "few", tmp_path, folder / "noise_list")
    for condition in ("noise", "room"):
        name = f"{condition}/wav/{utterances[0].id}.flac"
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_held_out_speakers_come_under_every_condition_and_for_a_second(trained, voices, made, tmp_path):
    script("conditions").make_held_out(voices, trained, tmp_path / "out", made[0] / "noise_list")
    trained_on = set(read_speakers(trained / "model"))
    expected = {u.id: u for u in read_data_directory(voices).utterances if u.speaker not in trained_on}
    assert expected
    written = {u.id: u for u in read_data_directory(tmp_path / "out").utterances}
    kinds = ("recorded", "second", "noise", "room", "telephone", "opus")
    assert set(written) == {f"{name}-{kind}" for name in expected for kind in kinds}
    trials = read_trials(tmp_path / "out/trials")
    pairs = [trials.pair(index) for index in range(len(trials))]
    for (enroll, test), label in zip(pairs, trials.labels):
        assert (written[enroll].speaker == written[test].speaker) == label
    for kind in kinds:  # all pairs of a condition, once by themselves and once among all
        within = Counter(frozenset(pair) for pair in pairs if all(name.endswith(kind) for name in pair))
        assert set(within.values()) == {2}
        assert len(within) > 0.4 * len(expected) * (len(expected) - 1) / 2  # without those of two genders
    across = [label for (a, b), label in zip(pairs, trials.labels) if a.split("-")[-1] != b.split("-")[-1]]
    assert {0, 1} == set(across)
    for name, utterance in expected.items():
        before = soundfile.read(utterance.path)[0]
        of_kind = {kind: soundfile.read(written[f"{name}-{kind}"].path)[0] for kind in kinds}
        assert {written[f"{name}-{kind}"].speaker for kind in kinds} == {utterance.speaker}
        np.testing.assert_allclose(of_kind["recorded"], before, atol=2**-15)
        second = of_kind["second"]
        assert len(second) == min(RATE, len(before))
        windows = np.lib.stride_tricks.sliding_window_view(before, len(second))
        assert np.abs(windows - second).max(1).min() < 2**-14
        assert share_above(of_kind["telephone"], 4100) < 0.1 * share_above(before, 4100)


def test_the_box_is_a_model_that_calibrates_and_says_what_it_is(trained, voices, tmp_path, monkeypatch):
    exp = tmp_path / "exp"
    shutil.copytree(trained, exp)
    box = script("box")
    ids = [u.id for u in read_data_directory(voices).utterances]
    write_trials(tmp_path / "trials", make_trials(ids, [name.split("-")[0] for name in ids], seed=1))
    words = ["--train", str(voices), "--trials", str(tmp_path / "trials"), "scoring.calibration.joined_pairs=0"]
    assert spkver_does("embed", voices, exp) == spkver_does("calibrate", voices, exp, *words) == 0
    measured = {"test/speechocean762": {"cosine+calibration": {"eer": 0.0341, "speakers": 125}}}
    (exp / "metrics.json").write_text(json.dumps(measured))
    monkeypatch.setattr(box, "export_onnx", lambda *_, **__: "")  # tests/export holds it; it takes half a minute
    box.make_box(exp, voices, tmp_path / "box")
    before, after = spkver.load(exp), spkver.load(tmp_path / "box")
    assert after.calibrated and after.fingerprint == before.fingerprint
    recordings = [voices / "wav" / f"v{number}" / "0.wav" for number in (0, 1)]
    assert after.verify(*recordings) == before.verify(*recordings)
    run = load_run(tmp_path / "box" / "config.yaml")[1]
    assert run["about"] == (
        "The general model of spkver decides, trained on 7 people of speechocean762 and Speech Commands; "
        "on 125 people that it never met, equal error 3.4%."
    )
    assert "command" not in run and "data" not in run


def spkver_does(*words):
    return main([str(word) for word in words])
