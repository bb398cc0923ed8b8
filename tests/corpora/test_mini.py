"""The built-in corpus: what it holds, the same each time, whole or not at all."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("espeakng_loader", reason="needs the synthesiser: pip install spkver[mini]")

from spkver.corpora import mini
from spkver.corpora.espeak_voices import Synthesiser, draw_voice, write_voices
from spkver.corpora.mini import prepare_mini
from spkver.corpora.recording import record
from spkver.corpora.sentences import draw_sentence
from spkver.data.directory import read_data_directory
from spkver.data.trials import read_trials
from spkver.errors import SpkverError
from spkver.scoring.metrics import equal_error_rate

SMALL = {"seed": 1, "train_voices": 4, "test_voices": 4, "sentences": 2}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mini")
    return folder, prepare_mini(folder, **SMALL, processes=2)


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_directories_hold_the_voices_that_were_asked_for(made):
    folder, report = made
    train, test = (read_data_directory(folder / split) for split in ("train", "test"))
    for data in (train, test):
        assert len(data.speakers) == 4 and len(data.utterances) == 8
        assert sorted(data.genders.values()) == ["f", "f", "m", "m"]
    assert not set(train.speakers) & set(test.speakers)
    hours = sum([*train.durations.values(), *test.durations.values()]) / 3600
    assert report.hours == pytest.approx(hours)
    assert str(report).startswith("4 training + 4 test voices, 2 sentences each, 0.0 h, 4 target + 8 nontarget")


def test_no_sentence_is_spoken_twice(made):
    folder, _ = made
    lines = [line for split in ("train", "test") for line in (folder / split / "text").read_text().splitlines()]
    assert len({line.split(" ", 1)[1] for line in lines}) == len(lines) == 16


def test_trials_are_all_target_pairs_and_nontargets_of_one_gender(made):
    folder, report = made
    data = read_data_directory(folder / "test")
    speaker = {utterance.id: utterance.speaker for utterance in data.utterances}
    trials = read_trials(folder / "test" / "trials")
    assert (report.targets, report.nontargets) == (4, 8) and len(trials) == 12
    for enroll, test, label in zip(trials.enroll, trials.test, trials.labels):
        assert (speaker[enroll] == speaker[test]) == label
        assert data.genders[speaker[enroll]] == data.genders[speaker[test]]


def test_audio_is_16_khz_16_bit_as_long_as_listed_and_never_clips(made):
    folder, _ = made
    for split in ("train", "test"):
        data = read_data_directory(folder / split)
        for utterance in data.utterances:
            info = soundfile.info(utterance.path)
            assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
            assert info.duration == pytest.approx(data.durations[utterance.id], abs=1e-9)
            samples = soundfile.read(utterance.path)[0]
            assert np.abs(samples).max() < 0.99 and samples.std() > 0.01


def test_folder_can_be_moved(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "moved")
    data = read_data_directory(tmp_path / "moved" / "train")
    assert all(utterance.path.is_relative_to(tmp_path) for utterance in data.utterances)


def test_same_seed_gives_the_same_bytes_with_any_number_of_processes(made, tmp_path, in_this_process):
    prepare_mini(tmp_path / "again", **SMALL)
    assert contents(tmp_path / "again") == contents(made[0])


def test_other_seed_gives_other_recordings(made, tmp_path, in_this_process):
    prepare_mini(tmp_path, **{**SMALL, "seed": 2})
    one, other = contents(made[0]), contents(tmp_path)
    assert one.keys() == other.keys()
    assert not any(one[name] == other[name] for name in one if name.endswith(".wav"))


def test_test_voices_do_not_change_with_the_number_of_training_voices(made, tmp_path, in_this_process):
    prepare_mini(tmp_path, **{**SMALL, "train_voices": 2})
    assert contents(tmp_path / "test") == contents(made[0] / "test")


def test_standing_corpus_is_recognised(made, monkeypatch):
    monkeypatch.setattr(mini, "_record_all", lambda *_: pytest.fail("made anew"))
    assert prepare_mini(made[0], **SMALL) == made[1]


@pytest.mark.parametrize("lost", ["test/trials", "train/wav.scp", "test/wav/test002/test002-01.wav", "corpus.json"])
def test_corpus_with_a_lost_file_is_made_whole(made, tmp_path, in_this_process, lost):
    folder = tmp_path / "copy"
    shutil.copytree(made[0], folder)
    (folder / lost).unlink()
    if lost == "corpus.json":  # without it nobody knows whose train/ and test/ these are
        with pytest.raises(SpkverError, match="choose another folder"):
            prepare_mini(folder, **SMALL)
        return
    prepare_mini(folder, **SMALL)
    assert contents(folder) == contents(made[0])


def test_other_parameters_replace_the_corpus(made, tmp_path, in_this_process):
    shutil.copytree(made[0], tmp_path / "copy")
    prepare_mini(tmp_path / "copy", **{**SMALL, "train_voices": 2})
    assert len(read_data_directory(tmp_path / "copy" / "train").speakers) == 2
    assert json.loads((tmp_path / "copy" / "corpus.json").read_text())["train_voices"] == 2
    assert not list((tmp_path / "copy").glob("train/wav/train003/*"))


@pytest.mark.parametrize("broken", ["recording", "moving"])
def test_broken_off_run_leaves_nothing_half_done(made, tmp_path, in_this_process, monkeypatch, broken):
    folder = tmp_path / "mini"
    with monkeypatch.context() as patch:
        if broken == "recording":
            patch.setattr(mini, "write_trials", _interrupt)
        else:  # after train/ was moved in, before test/
            rename = Path.rename
            patch.setattr(Path, "rename", lambda a, b: _interrupt() if b.name == "test" else rename(a, b))
        with pytest.raises(KeyboardInterrupt):
            prepare_mini(folder, **SMALL)
    assert not (folder / "test").exists() and not (folder / ".making").exists()
    prepare_mini(folder, **SMALL)
    assert contents(folder) == contents(made[0])


def _interrupt(*_):
    raise KeyboardInterrupt


def test_foreign_folder_is_not_touched(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "wav.scp").write_text("mine /mine.wav\n")
    with pytest.raises(SpkverError, match="choose another folder"):
        prepare_mini(tmp_path, **SMALL)
    (tmp_path / "corpus.json").write_text("[]")
    with pytest.raises(SpkverError, match=r"corpus\.json"):
        prepare_mini(tmp_path, **SMALL)
    assert (tmp_path / "train" / "wav.scp").read_text() == "mine /mine.wav\n"


@pytest.mark.parametrize("name", ["seed", "train_voices", "test_voices", "sentences"])
def test_parameter_out_of_range_is_named(tmp_path, name):
    with pytest.raises(SpkverError, match=rf"{name} is -1, must be at least"):
        prepare_mini(tmp_path, **{**SMALL, name: -1})


def test_dead_worker_is_told_in_one_line(tmp_path, monkeypatch):
    def submit(*_):
        raise mini.BrokenProcessPool("a child process terminated abruptly")

    monkeypatch.setattr(mini.ProcessPoolExecutor, "submit", submit)
    with pytest.raises(SpkverError, match=r"^[^\n]*worker process died[^\n]*$"):
        prepare_mini(tmp_path / "mini", **SMALL)
    assert not (tmp_path / "mini" / ".making").exists()


def test_recording_has_the_levels_it_promises():
    time = np.arange(32000) / 16000
    tone = 0.1 * np.sin(2 * np.pi * 440 * time)
    levels, ratios = [], []
    for seed in range(40):
        sound = record(tone, 16000, np.random.default_rng(seed))
        assert len(sound) == 32000 + 2 * 2400 and np.abs(sound).max() <= 0.98
        levels.append(20 * np.log10(np.sqrt(np.mean(sound**2))))
        ratios.append(20 * np.log10(np.std(sound[8000:24000]) / np.std(sound[:2300])))
    assert -34.1 < min(levels) < -31 and -21 < max(levels) < -17.9
    assert 10 < min(ratios) < 17 and 27 < max(ratios) < 35


def test_sentences_hardly_ever_repeat():
    rng = np.random.default_rng(1)
    sentences = [draw_sentence(rng) for _ in range(2000)]
    assert len(set(sentences)) == 2000
    assert {sentence[-1] for sentence in sentences} == {".", "?"}


def test_voices_are_told_apart_by_a_crude_measure_and_recordings_make_it_harder(tmp_path):
    """Cosine of the mean log spectrum, 8 voices x 4 sentences; nothing is learnt."""
    rng = np.random.default_rng(0)
    voices = [draw_voice(f"v{n}", "f", rng) for n in range(8)]
    synthesiser = Synthesiser(write_voices(tmp_path, voices))
    speech = [synthesiser.speak(draw_sentence(rng), voice, voice.rate, 50, n) for voice in voices for n in range(4)]
    recorded = [record(sound, 22050, rng) for sound in speech]
    clean_rate, recorded_rate = (_crude_equal_error_rate(sounds) for sounds in (speech, recorded))
    assert clean_rate < 0.1
    assert 0.2 < recorded_rate < 0.45


def _crude_equal_error_rate(sounds):
    spectra = []
    for sound in sounds:
        frames = np.lib.stride_tricks.sliding_window_view(sound, 512)[::256] * np.hanning(512)
        spectra.append(np.log(np.abs(np.fft.rfft(frames))[:, 4:180] + 1e-4).mean(0))
    spectra = np.array(spectra) - np.mean(spectra, axis=0)
    spectra /= np.linalg.norm(spectra, axis=1, keepdims=True)
    one, other = np.triu_indices(len(sounds), 1)
    return equal_error_rate((spectra[one] * spectra[other]).sum(1), (one // 4 == other // 4).astype(int))[0]
