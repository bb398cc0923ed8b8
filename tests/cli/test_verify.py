"""Enrol, identify, list and forget speakers; scores are those of `verify`; a store is of one model, and whole."""

import hashlib
import json
import shutil
import tracemalloc
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import soundfile

import spkver
from spkver.cli import main
from spkver.data.audio import read_audio
from spkver.data.trial_making import make_trials
from spkver.data.trials import write_trials
from spkver.errors import SpkverError
from spkver.scoring.backends.enrolment import Models
from spkver.scoring.stored_threshold import Threshold
from spkver.verification import store_files as enrolled_module
from spkver.verification.store_files import read_enrolled, write_enrolled
from spkver.verification.verifier import EmbeddedAudio


@pytest.fixture(scope="module")
def model(trained):
    return trained / "model"


@pytest.fixture(scope="module")
def calibrated(trained, voices, tmp_path_factory):
    """A copy of the model with a calibration of the cosine."""
    folder = tmp_path_factory.mktemp("calibrated")
    exp = shutil.copytree(trained, folder / "exp")
    data = shutil.copytree(voices, folder / "data")
    utts = [line.split()[0] for line in (data / "wav.scp").read_text().splitlines()]
    write_trials(data / "trials", make_trials(utts, [utt.split("-")[0] for utt in utts], seed=1))
    assert main(["embed", str(data), str(exp)]) == 0
    assert main(["calibrate", str(data), str(exp), "--train", str(data)]) == 0
    return exp / "model"


@pytest.fixture
def wav(voices):
    return lambda speaker, take: voices / "wav" / f"v{speaker}" / f"{take}.wav"


@pytest.fixture(scope="module")
def five_speakers(model, voices, tmp_path_factory):
    """A store of five speakers by three recordings each."""
    store = spkver.SpeakerStore(tmp_path_factory.mktemp("five") / "store", model)
    for speaker in range(5):
        store.enroll(f"s{speaker}", [voices / "wav" / f"v{speaker}" / f"{take}.wav" for take in range(3)])
    return store.folder


@pytest.fixture
def store(five_speakers, tmp_path):
    """A copy of it that a test may change."""
    return shutil.copytree(five_speakers, tmp_path / "store")


def test_a_score_is_the_cosine_of_the_mean_embedding(store, model, wav):
    voice = spkver.load(model)
    outcome = spkver.SpeakerStore(store, voice).identify(wav(3, 5))
    test = voice.embed(wav(3, 5))
    for speaker in range(5):
        mean = np.sum([voice.embed(wav(speaker, take)) for take in range(3)], axis=0, dtype=float)
        assert outcome.scores[f"s{speaker}"] == pytest.approx(mean @ test / np.linalg.norm(mean), abs=1e-6)
    assert list(outcome.scores.values()) == sorted(outcome.scores.values(), reverse=True)
    assert outcome.score == max(outcome.scores.values())
    assert not outcome.calibrated


def test_one_recording_of_a_calibrated_model_scores_as_verify_does(calibrated, wav, tmp_path):
    voice = spkver.load(calibrated)
    store = spkver.SpeakerStore(tmp_path / "store", voice)
    for speaker in range(3):
        store.enroll(f"s{speaker}", [wav(speaker, 0)])
    outcome = store.identify(wav(1, 4))
    assert outcome.calibrated
    assert outcome.threshold == pytest.approx(np.log(0.95 / 0.05))
    for speaker in range(3):
        assert outcome.scores[f"s{speaker}"] == pytest.approx(voice.verify(wav(speaker, 0), wav(1, 4)).score, abs=1e-5)
    # Two recordings are as long and as clear as they are on average, within what the calibration has seen.
    store.enroll("both", [wav(1, 0), wav(1, 1)])
    embedded = [voice.embed_audio(wav(1, take)) for take in (0, 1, 4)]
    calibration = json.loads((calibrated / "backend/calibration-cosine.json").read_text())
    mean = embedded[0].embeddings[0].astype(float) + embedded[1].embeddings[0]
    seconds = np.log([(embedded[0].durations[0] + embedded[1].durations[0]) / 2, embedded[2].durations[0]])
    magnitudes = [(embedded[0].magnitudes[0] + embedded[1].magnitudes[0]) / 2, embedded[2].magnitudes[0]]
    columns = {
        "score": mean @ embedded[2].embeddings[0] / np.linalg.norm(mean),
        "log_duration_min": min(seconds),
        "log_duration_max": max(seconds),
        "magnitude_min": min(magnitudes),
        "magnitude_max": max(magnitudes),
    }
    held = {name: np.clip(value, *calibration["ranges"].get(name, (-2, 2))) for name, value in columns.items()}
    expected = calibration["offset"] + sum(calibration["weights"][name] * value for name, value in held.items())
    assert store.identify(wav(1, 4)).scores["both"] == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_whoever_is_below_the_threshold_is_unknown_and_the_status_says_so(run, store, wav):
    status, out, _ = run("identify", wav(2, 4), "--store", store, "--json", "--threshold", -1)
    record = json.loads(out)
    assert status == 0
    assert record["speaker"] == max(record["scores"], key=record["scores"].get)
    score = record["score"]
    assert run("identify", wav(2, 4), "--store", store, "--threshold", score - 1e-4)[0] == 0
    status, out, _ = run("identify", wav(2, 4), "--store", store, "--threshold", score + 1e-4)
    assert status == 3
    assert out.startswith(f"{wav(2, 4)}: unknown   score {score:.3f}   threshold ")
    assert out.endswith(f"nearest {record['speaker']}\n")
    assert run("identify", wav(2, 0), wav(2, 4), "--store", store, "--threshold", score + 1e-4)[0] == 3


def test_enrolled_recordings_are_found_again(store):
    identified = spkver.SpeakerStore(store)
    recordings = [(name, one.file) for name, listed in identified.speakers.items() for one in listed]
    assert len(recordings) == 15
    found = [identified.identify(file) for _, file in recordings]
    right = [next(iter(outcome.scores)) == name for outcome, (name, _) in zip(found, recordings)]
    assert np.mean(right) > 0.8


def test_a_speaker_who_is_known_is_added_to_or_replaced_only_by_wish(run, store, wav, model):
    before = sorted((path.name, path.read_bytes()) for path in store.iterdir())
    status, _, err = run("enroll", "s1", wav(1, 3), "--store", store)
    assert status == 1
    assert err == (
        f"{store}: 's1' is enrolled already, by 3 recordings; add to them (--add) or replace them (--replace)\n"
    )
    assert sorted((path.name, path.read_bytes()) for path in store.iterdir()) == before

    status, out, _ = run("enroll", "s1", wav(1, 3), "--store", store, "--add", "--json")
    record = json.loads(out)
    assert (status, record["recordings"], record["enrolled"]) == (0, 4, 5)
    files = [one.file for one in spkver.SpeakerStore(store).speakers["s1"]]
    assert files == [str(wav(1, take)) for take in range(4)]
    enrolled = spkver.SpeakerStore(store)
    rows = enrolled._enrolled.rows("s1")
    voice = spkver.load(model)
    assert np.abs(rows - [voice.embed(wav(1, take)) for take in range(4)]).max() < 1e-6

    assert run("enroll", "s1", wav(1, 5), "--store", store, "--replace")[0] == 0
    assert [one.file for one in spkver.SpeakerStore(store).speakers["s1"]] == [str(wav(1, 5))]
    assert np.abs(spkver.SpeakerStore(store)._enrolled.rows("s2") - enrolled._enrolled.rows("s2")).max() == 0


def test_speakers_are_listed_and_forgotten(run, store):
    status, out, _ = run("speakers", "--store", store)
    assert (status, [line.split(":")[0] for line in out.splitlines()]) == (0, ["s0", "s1", "s2", "s3", "s4"])
    before = spkver.SpeakerStore(store)._enrolled
    status, out, _ = run("speakers", "--store", store, "--remove", "s2", "--json")
    assert [json.loads(line)["speaker"] for line in out.splitlines()] == ["s0", "s1", "s3", "s4"]
    after = spkver.SpeakerStore(store)._enrolled
    for name in after.speakers:
        assert np.array_equal(after.rows(name), before.rows(name))
    assert run("speakers", "--store", store, "--remove", "s2")[2] == (
        f"{store}: 's2' is not enrolled; there is s0, s1, s3, s4\n"
    )
    for name in after.speakers:
        assert run("speakers", "--store", store, "--remove", name)[0] == 0
    assert "nobody is enrolled" in run("identify", "x.wav", "--store", store)[2]


def test_embeddings_of_another_model_are_refused(run, store, model, wav, tmp_path):
    other = shutil.copytree(model, tmp_path / "other")
    content = bytearray((other / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (other / "model.safetensors").write_bytes(content)
    for words in (["identify", wav(0, 4)], ["enroll", "new", wav(7, 0)], ["enroll", "s1", wav(1, 0), "--replace"]):
        status, _, err = run(*words, "--store", store, "--model", other)
        assert status == 1
        assert f"{store}: its embeddings were made by other weights or settings than those of {other}" in err
        assert err.count("\n") == 1
    same = shutil.copytree(model, tmp_path / "same")
    assert run("identify", wav(0, 0), "--store", store, "--model", same, "--threshold", "-1")[0] == 0


def test_a_recording_that_is_of_no_use_leaves_the_store_as_it_was(run, store, wav, tmp_path):
    soundfile.write(tmp_path / "silent.wav", np.zeros(16000), 16000)
    before = sorted((path.name, path.read_bytes()) for path in store.iterdir())
    for file, reason in (("silent.wav", "silent"), ("none.wav", "no such audio file")):
        status, _, err = run("enroll", "new", wav(6, 0), tmp_path / file, "--store", store)
        assert status == 1
        assert err.startswith(f"{tmp_path / file}: ") and reason in err and err.count("\n") == 1
        status, _, err = run("identify", tmp_path / file, "--store", store)
        assert status == 1
        assert err.startswith(f"{tmp_path / file}: ") and reason in err
    assert sorted((path.name, path.read_bytes()) for path in store.iterdir()) == before


def test_a_recording_unlike_the_others_is_told(run, store, wav):
    voice = spkver.load(json.loads((store / "store.json").read_text())["model"])
    odd = min(
        ((speaker, float(voice.embed(wav(0, 0)) @ voice.embed(wav(speaker, 0)))) for speaker in range(5, 10)),
        key=lambda pair: pair[1],
    )[0]
    _, out, _ = run("enroll", "s0", wav(odd, 0), "--store", store, "--add", "--json")
    record = json.loads(out)
    assert [one["file"] for one in record["doubtful"]] == [str(wav(odd, 0))]
    assert record["doubtful"][0]["score"] < voice.threshold


def test_two_recordings_are_held_against_each_other_and_one_against_none(model, wav, tmp_path, monkeypatch):
    voice = spkver.load(model)
    store = spkver.SpeakerStore(tmp_path / "store", voice)
    a, b = wav(0, 0), wav(5, 0)
    cosine = float(voice.embed(a) @ voice.embed(b))
    monkeypatch.setattr(voice, "_trained_threshold", cosine + 0.01)
    assert store.enroll("one", [a]).doubtful == []
    outcome = store.enroll("two", [a, b])
    assert outcome.doubtful == [(str(a), pytest.approx(cosine, abs=1e-6)), (str(b), pytest.approx(cosine, abs=1e-6))]
    assert outcome[3:] == (pytest.approx(cosine + 0.01), "equal error among held-out training speakers")
    monkeypatch.setattr(voice, "_trained_threshold", cosine - 0.01)
    assert store.enroll("more", [a, b]).doubtful == []
    monkeypatch.setattr(voice, "_trained_threshold", None)
    assert store.enroll("none", [a, b])[2:] == ([], None, None)


def test_a_write_that_is_stopped_leaves_the_old_store(store, wav, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    before = spkver.SpeakerStore(store)._enrolled
    monkeypatch.setattr("spkver.verification.store_files.json.dump", stop)
    with pytest.raises(KeyboardInterrupt):
        spkver.SpeakerStore(store).enroll("new", [wav(8, 0)])
    monkeypatch.undo()
    after = spkver.SpeakerStore(store)._enrolled
    assert list(after.speakers) == list(before.speakers)
    assert np.array_equal(after.embeddings, before.embeddings)


def test_two_that_enrol_at_a_time_lose_nobody(store, model, wav):
    first, second = spkver.SpeakerStore(store, model), spkver.SpeakerStore(store, model)
    first.enroll("x", [wav(7, 0)])
    second.enroll("y", [wav(8, 0)])
    assert list(spkver.SpeakerStore(store).speakers) == ["s0", "s1", "s2", "s3", "s4", "x", "y"]
    with pytest.raises(SpkverError, match="'x' is enrolled already, by 1 recording;"):
        second.enroll("x", [wav(7, 0)])


def damage(store, how):
    array = next(store.glob("embeddings-*.npy"))
    listed = store / "store.json"
    if how == "array":
        array.write_bytes(array.read_bytes()[:-8] + b"\0" * 8)
    elif how == "no array":
        array.unlink()
    elif how == "pickle":
        np.save(array, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    elif how == "json":
        listed.write_text(listed.read_text()[:100])
    else:
        record = json.loads(listed.read_text())
        record["speakers"]["s1"] = record["speakers"]["s1"][:1]
        listed.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("array", "has been changed since it was written"),
        ("no array", "cannot be read"),
        ("pickle", "has been changed since it was written"),
        ("json", "store.json: is no speaker store"),
        ("counts", "13 recordings of 5 speakers are listed, found float32 (15, 16)"),
    ],
)
def test_a_damaged_store_is_one_line(run, store, wav, how, message):
    damage(store, how)
    for words in (["identify", wav(0, 0)], ["speakers"], ["enroll", "new", wav(6, 0)]):
        status, _, err = run(*words, "--store", store)
        assert status == 1
        assert message in err and err.startswith(str(store)) and err.count("\n") == 1


@pytest.mark.parametrize("name", ["", " anna", "an\nna", "x" * 201])
def test_a_name_that_cannot_be_one_is_refused(run, store, wav, name):
    status, _, err = run("enroll", name, wav(6, 0), "--store", store)
    assert status == 1
    assert "cannot be a speaker's name" in err and err.count("\n") == 1


def test_a_name_typed_in_two_ways_is_one_speaker(run, store, wav):
    composed, decomposed = "J\u00fcrgen", "Ju\u0308rgen"
    assert run("enroll", decomposed, wav(6, 0), "--store", store)[0] == 0
    assert list(spkver.SpeakerStore(store).speakers)[-1] == composed
    assert "is enrolled already" in run("enroll", composed, wav(6, 1), "--store", store)[2]
    assert run("speakers", "--store", store, "--remove", decomposed)[0] == 0
    assert composed not in spkver.SpeakerStore(store).speakers


def test_a_store_that_is_not_there_and_a_model_that_went_are_told(run, store, wav, tmp_path):
    status, _, err = run("identify", wav(0, 0), "--store", tmp_path / "none")
    assert (status, err) == (
        1,
        f"{tmp_path / 'none'}: is no speaker store yet; name the model of a new one (--model)\n",
    )
    assert "is no speaker store; `spkver enroll" in run("speakers", "--store", tmp_path / "none")[2]
    assert not (tmp_path / "none").exists()
    record = json.loads((store / "store.json").read_text()) | {"model": str(tmp_path / "gone")}
    (store / "store.json").write_text(json.dumps(record))
    status, _, err = run("identify", wav(0, 0), "--store", store)
    assert (status, err) == (1, f"{store}: its model is no longer at {tmp_path / 'gone'}; name it (--model)\n")


def test_verify_prints_json(run, model, wav):
    status, out, _ = run("verify", wav(0, 0), wav(1, 0), "--model", model, "--threshold", "2", "--json")
    record = json.loads(out)
    assert status == 3
    assert record == {
        "a": str(wav(0, 0)),
        "b": str(wav(1, 0)),
        "score": pytest.approx(spkver.load(model).verify(wav(0, 0), wav(1, 0)).score),
        "same_speaker": False,
        "threshold": 2.0,
        "calibrated": False,
        "system": "cosine",
        "threshold_source": "as it was given",
    }


def test_a_prior_moves_the_threshold_of_a_calibrated_store(run, calibrated, wav, tmp_path):
    words = ["--store", tmp_path / "store", "--model", calibrated]
    assert run("enroll", "anna", wav(0, 0), *words)[0] == 0
    status, out, _ = run("identify", wav(0, 1), *words, "--prior", "0.01", "--json")
    record = json.loads(out)
    assert record["threshold"] == pytest.approx(np.log(0.99 / 0.01))
    assert record["calibrated"] and status == (0 if record["score"] >= record["threshold"] else 3)
    untrained = calibrated.parent / "untrained"
    assert "prior needs calibrated scores" in run("verify", "a", "b", "--model", untrained, "--prior", "0.1")[2]


def test_more_enrolment_and_more_speech_never_make_a_decision_worse(calibrated, voices, wav):
    voice = spkver.load(calibrated)
    own = np.eye(10, dtype=bool)

    def decisions(enrolled, tests):
        n = len(enrolled) // 10
        models = Models([str(s) for s in range(10)], np.arange(10 * n), np.arange(0, 10 * n + 1, n))
        llrs = voice.scores(EmbeddedAudio.together(*enrolled), models, EmbeddedAudio.together(*tests))
        return (llrs[own] >= voice.threshold).mean(), (llrs[~own] >= voice.threshold).mean(), llrs[own].mean()

    takes = [[voice.embed_audio(wav(speaker, take)) for take in range(6)] for speaker in range(10)]
    tests = [own_takes[5] for own_takes in takes]
    found = [decisions([t[n % 5] for t in takes for n in range(count)], tests) for count in (1, 2, 3, 5, 15)]
    for (accepted, false, llr), (more_accepted, more_false, more_llr) in pairwise(found):
        assert more_accepted >= accepted
        assert more_false <= false + 0.03
        assert more_llr > llr - 0.5  # summed durations cost the true speaker 12 nats from one recording to fifteen

    def parts(seconds):
        for half in ((0, 1, 2), (3, 4, 5)):
            joined = [np.concatenate([read_audio(wav(s, take), 16000) for take in half]) for s in range(10)]
            yield [voice.embed_audio(np.resize(samples, seconds * 16000)) for samples in joined]

    found = [decisions(*parts(seconds)) for seconds in (2, 8, 60, 120)]
    for (accepted, false, _), (more_accepted, more_false, _) in pairwise(found):
        assert more_accepted >= accepted
        assert more_false <= false + 0.03
    assert found[-1][0] == 1


def test_likeness_is_judged_at_equal_error_and_not_at_the_priors_threshold(calibrated, wav, tmp_path):
    voice = spkver.load(calibrated)
    voice.set_prior(1e-9)
    store = spkver.SpeakerStore(tmp_path / "store", voice)
    outcome = store.enroll("anna", [wav(0, take) for take in range(4)])
    known = json.loads((calibrated / "backend/calibration-cosine.json").read_text())["belongs_to"]
    assert outcome.threshold == known["equal_error_threshold"] < 5 < voice.threshold
    assert outcome.threshold_source == "equal error among held-out training speakers"
    assert outcome.doubtful == []


def test_a_threshold_of_another_system_is_refused(run, calibrated, wav):
    words = ["verify", wav(0, 0), wav(0, 1), "--model", calibrated]
    status, _, err = run(*words, "--threshold", "cosine:0.5")
    assert status == 1
    assert err == (
        "--threshold cosine:0.5: is of the system 'cosine', and cosine+calibration decides; "
        "give a threshold of that, or --system cosine\n"
    )
    for text in ("cosine+calibration:-3.5", "-3.5"):
        record = json.loads(run(*words, f"--threshold={text}", "--json")[1])
        assert (record["threshold"], record["threshold_source"]) == (-3.5, "as it was given")
    record = json.loads(run(*words, "--threshold", "cosine:0.5", "--system", "cosine", "--json")[1])
    assert (record["threshold"], record["system"], record["calibrated"]) == (0.5, "cosine", False)
    for text in ("high", "cosine+calibration:", "nan"):
        assert "expected a number, or SYSTEM:NUMBER" in run(*words, "--threshold", text)[2]
    assert run(*words)[1].endswith("threshold 2.944: for a prior of 5 %\n")


def test_a_saved_threshold_is_the_models_until_its_scores_change(run, calibrated, wav, tmp_path):
    exp = shutil.copytree(calibrated.parent, tmp_path / "exp")
    data = calibrated.parents[1] / "data"
    model = exp / "model"
    status, out, _ = run("threshold", data, exp, "--far", "0.1", "--save")
    saved = next(line for line in out.splitlines() if "saved" in line)
    text = saved.partition(",")[0]
    assert status == 0 and text in out.splitlines()[3]
    assert saved == f"{text}, 10 % false acceptances on data/trials: saved, {model} decides by it from now on"
    record = json.loads(run("verify", wav(0, 0), wav(0, 1), "--model", model, "--json")[1])
    assert f"cosine+calibration:{record['threshold']:.4f}" == f"cosine+calibration:{float(text.split(':')[1]):.4f}"
    assert record["threshold_source"] == "saved by spkver threshold: 10 % false acceptances on data/trials"
    # What is asked for comes first, and another system has a threshold of its own.
    record = json.loads(run("verify", wav(0, 0), wav(0, 1), "--model", model, "--json", "--prior", "0.5")[1])
    assert (record["threshold"], record["threshold_source"]) == (0.0, "for a prior of 50 %")
    assert spkver.load(model, "cosine").threshold_source == "equal error among held-out training speakers"
    assert "keeps one threshold" in run("threshold", data, exp, "--far", "0.1", "0.2", "--save")[2]

    assert run("calibrate", data, exp, "--train", data, "scoring.calibration.joined_pairs=0")[0] == 0
    status, _, err = run("verify", wav(0, 0), wav(0, 1), "--model", model)
    assert status == 1 and err.count("\n") == 1
    assert "threshold-cosine+calibration.json: is of other scores, since cosine+calibration was fitted anew" in err
    assert run("verify", wav(0, 0), wav(0, 1), "--model", model, "--threshold=-99")[0] == 0


def test_a_calibration_from_before_measures_were_held_is_refused_with_the_command(run, calibrated, wav, tmp_path):
    model = shutil.copytree(calibrated, tmp_path / "model")
    path = model / "backend/calibration-cosine.json"
    old = {key: value for key, value in json.loads(path.read_text()).items() if key != "ranges"}
    path.write_text(json.dumps(old))
    status, _, err = run("verify", wav(0, 0), wav(0, 1), "--model", model)
    assert status == 1 and err.count("\n") == 1 and err.startswith(f"{path}: missing keys: 'ranges'")
    assert "run `spkver calibrate DATA EXP --train DIR --system cosine` (again)" in err


def test_any_damaged_byte_of_what_decides_is_accepted_or_one_line(calibrated, wav, tmp_path):
    model = shutil.copytree(calibrated, tmp_path / "model")
    spkver.load(model)._backend.write_threshold("cosine+calibration", Threshold(1.5, "2 % false acceptances"))
    rng = np.random.default_rng(0)
    files = sorted((model / "backend").glob("*"))
    assert [path.name for path in files] == [
        "calibration-cosine.json",
        "threshold-cosine+calibration.json",
        "weights",
    ]
    alone = Models(["a"], np.array([0]), np.array([0, 1]))
    embedded = spkver.load(model).embed_audio(wav(0, 0))
    refused = 0
    for turn in range(240):
        path = files[turn % 3]
        content = path.read_bytes()
        damaged, place = bytearray(content), int(rng.integers(len(content)))
        if turn // 3 % 2:
            damaged[place] ^= 1 << int(rng.integers(8))
        else:
            del damaged[place : place + int(rng.integers(1, 40))]
        path.write_bytes(damaged)
        try:
            voice = spkver.load(model)
            assert np.isfinite(voice.scores(embedded, alone, embedded)).all() and np.isfinite(
                voice.known_threshold().value
            )
        except SpkverError as error:
            refused += 1
            assert "\n" not in str(error) and str(error).startswith(str(model))
        path.write_bytes(content)
    assert refused > 180


def test_a_recording_with_a_damaged_sample_is_not_enrolled(run, store, wav, tmp_path):
    samples, rate = soundfile.read(wav(6, 0), dtype="float32")
    samples[1000] = 3e38
    soundfile.write(tmp_path / "spike.wav", samples, rate, subtype="FLOAT")
    before = sorted((path.name, path.read_bytes()) for path in store.iterdir())
    status, _, err = run("enroll", "spike", tmp_path / "spike.wav", "--store", store)
    assert status == 1 and err.startswith(f"{tmp_path / 'spike.wav'}: ") and err.count("\n") == 1
    assert sorted((path.name, path.read_bytes()) for path in store.iterdir()) == before


@pytest.mark.parametrize("what", ["embedding", "magnitude"])
def test_a_store_that_holds_nan_names_the_speaker_and_how_to_remove_him(run, store, wav, what):
    enrolled = read_enrolled(store)
    if what == "embedding":
        enrolled.embeddings[4] = np.nan
    else:
        enrolled.speakers["s1"][1] = replace(enrolled.speakers["s1"][1], magnitude=float("nan"))
    write_enrolled(store, enrolled)
    command = f"spkver speakers --store {store} --remove 's1'"
    for words in (["identify", wav(0, 0)], ["enroll", "new", wav(6, 0)], ["identify", wav(0, 0), "--windows"]):
        status, _, err = run(*words, "--store", store)
        assert status == 1 and err.count("\n") == 1
        assert err.startswith(f"{store}: what was enrolled of 's1' is not finite") and command in err
    assert run("speakers", "--store", store)[0] == 0
    assert run("speakers", "--store", store, "--remove", "s1")[0] == 0
    assert run("identify", wav(0, 0), "--store", store, "--threshold=-2")[0] == 0


def test_a_store_that_holds_nan_heals_when_the_speaker_is_enrolled_anew(run, store, wav):
    enrolled = read_enrolled(store)
    enrolled.embeddings[4] = np.nan
    write_enrolled(store, enrolled)
    assert run("enroll", "s1", wav(1, 0), "--store", store, "--replace")[0] == 0
    assert np.isfinite(read_enrolled(store).embeddings).all()


def test_a_reader_who_meets_a_writer_reads_again(store, monkeypatch):
    embeddings = enrolled_module._embeddings

    def change_first(path):
        monkeypatch.setattr(enrolled_module, "_embeddings", embeddings)
        spkver.SpeakerStore(store).remove("s2")
        assert not path.exists()
        return embeddings(path)

    monkeypatch.setattr(enrolled_module, "_embeddings", change_first)
    assert list(spkver.SpeakerStore(store).speakers) == ["s0", "s1", "s3", "s4"]


def test_a_store_can_be_read_by_its_owner_alone(run, model, wav, tmp_path):
    store = tmp_path / "deep" / "store"
    assert run("enroll", "anna", wav(0, 0), "--store", store, "--model", model)[0] == 0
    assert store.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in store.iterdir()} == {0o600}
    # One that an earlier version made.
    store.chmod(0o755)
    for path in store.iterdir():
        path.chmod(0o644)
    assert run("enroll", "bob", wav(1, 0), "--store", store)[0] == 0
    assert store.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in store.iterdir()} == {0o600}


def test_an_array_of_objects_is_refused_even_under_its_own_digest(store):
    record = json.loads((store / "store.json").read_text())
    np.save(store / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    content = (store / "objects.npy").read_bytes()
    name = f"embeddings-{hashlib.sha256(content).hexdigest()[:16]}.npy"
    (store / "objects.npy").rename(store / name)
    (store / "store.json").write_text(json.dumps(record | {"embeddings": name}))
    with pytest.raises(SpkverError, match=rf"^{store / name}: cannot be read \(Object arrays cannot be loaded"):
        spkver.SpeakerStore(store)


def test_any_damaged_byte_of_a_store_is_accepted_or_one_line(store):
    rng = np.random.default_rng(0)
    files = [store / "store.json", next(store.glob("embeddings-*.npy"))]
    refused = 0
    for turn in range(600):
        path = files[turn % 2]
        content = path.read_bytes()
        place, kind = int(rng.integers(len(content))), turn // 2 % 3
        damaged = bytearray(content)
        if kind == 0:
            damaged[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            del damaged[place : place + int(rng.integers(1, 40))]
        else:
            damaged[place : place + 2] = b'{"[0'[: int(rng.integers(1, 5))]
        path.write_bytes(damaged)
        try:
            spkver.SpeakerStore(store)
        except SpkverError as error:
            refused += 1
            assert "\n" not in str(error) and str(error).startswith(str(store))
        path.write_bytes(content)
    assert refused > 450


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda store, x: store.enroll(7, [x]), r"^7 \(int\) cannot be a speaker's name"),
        (lambda store, x: store.enroll("a", (one for one in [x])), "got a generator"),
        (lambda store, x: store.enroll("a", x), "expected a list of one recording or more to enrol by, got '"),
        (lambda store, x: store.enroll("a", []), "got none"),
        (lambda store, x: store.enroll("a", [7]), r"7 \(int\): expected a path"),
        (lambda store, x: store.enroll("a", [x], known="maybe"), "known must be refuse, add or replace, got 'maybe'"),
        (lambda store, x: store.remove([7]), "a list is not enrolled; there is s0, s1"),
        (lambda store, x: store.identify((16000, x)), "a tuple"),
        (lambda store, x: spkver.SpeakerStore(7), "expected the path of a speaker store"),
        (lambda store, x: spkver.SpeakerStore(store.folder, 7), "expected what spkver.load gives"),
        (lambda store, x: spkver.SpeakerStore(x), "is this the folder of a speaker store"),
    ],
)
def test_a_wrong_argument_is_one_line(store, wav, call, expected):
    with pytest.raises(SpkverError, match=expected) as caught:
        call(spkver.SpeakerStore(store), str(wav(0, 0)))
    assert "\n" not in str(caught.value)


# Long recordings.


@pytest.fixture(scope="module")
def conversation(voices, tmp_path_factory):
    """Two voices in turn, with pauses: 0-6 s the first, 8-14 s the second, 16-22 s the first."""
    path = tmp_path_factory.mktemp("long") / "conversation.wav"
    samples = 0.0003 * np.random.default_rng(0).standard_normal(24 * 16000)
    for start, speaker in ((0, 0), (8, 1), (16, 0)):
        spoken = np.concatenate([read_audio(voices / "wav" / f"v{speaker}" / f"{n}.wav", 16000) for n in range(6)])
        spoken = np.resize(spoken, 6 * 16000)
        # Syllables: the detector wants loud and quiet.
        spoken *= 0.55 - 0.45 * np.cos(2 * np.pi * 4 * np.arange(len(spoken)) / 16000)
        samples[start * 16000 : (start + 6) * 16000] += spoken
    soundfile.write(path, samples, 16000)
    return path


def test_windows_have_the_embeddings_of_the_speech_in_them(model, conversation):
    voice = spkver.load(model)
    times, embeddings = voice.embed_windows(conversation, 3.0, 1.0)
    assert times.shape == (len(embeddings), 2) and embeddings.shape[1] == 16
    assert np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    assert {(0.0, 3.0), (9.0, 12.0), (17.0, 20.0)} <= set(map(tuple, times.tolist()))
    samples = read_audio(conversation, 16000)
    for (start, end), embedding in zip(times, embeddings):
        if start in (1.0, 2.0, 9.0, 10.0, 17.0, 18.0):  # all of it is speech
            alone = voice.embed(samples[round(start * 16000) : round(end * 16000)])
            assert np.abs(embedding - alone).max() < 1e-5
    spoken = np.zeros(240, bool)  # by tenths of a second
    for second in (0, 8, 16):
        spoken[second * 10 : (second + 6) * 10] = True
    seconds = [spoken[round(start * 10) : round(end * 10)].sum() / 10 for start, end in times]
    assert voice.embed_audio_windows(conversation, 3.0, 1.0)[1].durations == pytest.approx(seconds, abs=0.2)
    from_samples = voice.embed_windows(samples, 3.0, 1.0)
    assert np.array_equal(from_samples[0], times)
    assert np.abs(from_samples[1] - embeddings).max() < 1e-5


def test_windows_do_not_depend_on_how_many_are_embedded_at_once(trained, conversation, tmp_path):
    whole = spkver.load(trained / "model").embed_windows(conversation, 2.0, 1.0)
    few = shutil.copytree(trained / "model", tmp_path / "few")
    text = (few / "config.yaml").read_text()
    (few / "config.yaml").write_text(text.replace("batch_seconds: 120", "batch_seconds: 4"))
    assert text != (few / "config.yaml").read_text()
    again = spkver.load(few).embed_windows(conversation, 2.0, 1.0)
    assert np.array_equal(again[0], whole[0])
    assert np.abs(again[1] - whole[1]).max() < 1e-5


def test_who_speaks_when_is_told(run, model, conversation, wav, tmp_path):
    store = spkver.SpeakerStore(tmp_path / "store", model)
    for speaker in (0, 1):
        store.enroll(f"s{speaker}", [wav(speaker, take) for take in range(6)])
    words = ["--store", tmp_path / "store", "--windows", "--window", "2", "--hop", "1", "--threshold", "-1"]
    status, out, _ = run("identify", conversation, *words, "--json")
    stretches = json.loads(out)["stretches"]
    assert status == 0
    said = np.full(240, "", object)
    for stretch in stretches:
        said[round(stretch["start_seconds"] * 10) : round(stretch["end_seconds"] * 10)] = stretch["speaker"]
    truth = np.full(240, "", object)
    for start, speaker in ((0, "s0"), (8, "s1"), (16, "s0")):
        truth[start * 10 : (start + 6) * 10] = speaker
    spoken = truth != ""
    assert (said[spoken] == truth[spoken]).mean() > 0.9
    assert (said[~spoken] == "").mean() > 0.9
    ends = [(a["end_seconds"], b["start_seconds"]) for a, b in pairwise(stretches)]
    assert all(end <= start for end, start in ends)

    status, out, _ = run("identify", conversation, *words[:-1], "1.01")
    assert status == 3
    first, *lines = out.splitlines()
    assert first == f"{conversation}: threshold 1.010: as it was given"
    assert lines and all(": " in line and " s   unknown   score " in line for line in lines)


def test_stretches_join_equal_answers_share_overlaps_and_break_at_pauses(store, monkeypatch):
    speakers = spkver.SpeakerStore(store)
    voice = speakers.voice
    voice.threshold = 0.5
    # Start and end of each window and of the speech in it, and the scores of s0 and s1; s2 to s4 score 0.
    windows = [
        ((0, 2, 0.25, 2), (0.75, 0.5)),
        ((1, 3, 1, 3), (1.0, 0.25)),
        ((2, 4, 2, 4), (0.25, 0.5)),  # the threshold itself is enough
        ((3, 5, 4, 5), (0.0, 0.875)),
        ((5, 7, 5.5, 6.5), (0.25, 0.375)),  # nobody who is enrolled
        ((7, 9, 7.5, 9), (0.375, 0.125)),  # a hop later: the same stretch
        ((9, 11, 10.25, 11), (0.25, 0.125)),  # more than a hop later
    ]
    times, scores = (np.array(column, np.float64) for column in zip(*windows))
    asked = []

    def embed_audio_windows(*arguments):
        asked.append(arguments)
        return times, "embedded"

    monkeypatch.setattr(voice, "embed_audio_windows", embed_audio_windows)
    monkeypatch.setattr(voice, "scores", lambda *_: np.concatenate([scores.T, np.zeros((3, len(scores)))]))
    found = speakers.who_speaks_when("a.wav", 2.0, 1.0, 8000)
    assert asked == [("a.wav", 2.0, 1.0, 8000)]
    assert [tuple(stretch) for stretch in found] == [
        (0.25, 2.5, "s0", 0.875),
        (2.5, 5.0, "s1", 0.6875),
        (5.5, 9.0, None, 0.375),
        (10.25, 11.0, None, 0.25),
    ]
    speakers.who_speaks_when("a.wav")
    assert asked[1] == ("a.wav", 3.0, 1.5, None)


def test_a_recording_without_speech_has_no_windows(run, store, tmp_path):
    path = tmp_path / "noise.wav"
    soundfile.write(path, 0.01 * np.random.default_rng(0).standard_normal(16000 * 10), 16000)
    status, out, _ = run("identify", path, "--store", store, "--windows")
    assert (status, out) == (3, f"{path}: no speech\n")
    times, embeddings = spkver.SpeakerStore(store).voice.embed_windows(path)
    assert times.shape == (0, 2) and embeddings.shape == (0, 16)
    status, _, err = run("identify", path, "--store", store, "--windows", "--window", "0.1")
    assert status == 1 and "windows of 0.1 s are too short" in err
    status, _, err = run("identify", tmp_path / "none.wav", "--store", store, "--windows")
    assert (status, err) == (1, f"{tmp_path / 'none.wav'}: no such audio file\n")


def test_windows_of_a_long_recording_need_no_more_memory_than_those_of_a_short_one(model, conversation, tmp_path):
    voice, samples = spkver.load(model), read_audio(conversation, 16000)

    def peak(times):
        path = tmp_path / f"{times}.wav"
        soundfile.write(path, np.tile(samples, times), 16000)
        tracemalloc.start()
        n = len(voice.embed_windows(path, 3.0, 3.0)[0])
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return n, found

    (n_short, short), (n_long, long) = peak(8), peak(32)  # 3 and 13 minutes; the latter are 49 MB of samples
    assert n_long > 3.5 * n_short
    assert long < 1.2 * short < 40e6
