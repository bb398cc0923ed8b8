"""Own recordings to data directories: trees, tables and Kaldi directories of any rate, channels and format."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import one_line
import pytest
import soundfile

from spkver.cli import main
from spkver.cli.corpora import LIMITS
from spkver.config import load_config
from spkver.corpora import own_folder
from spkver.corpora.own_folder import Limits, prepare_own_folder
from spkver.data.audio_check import keep_usable
from spkver.data.directory import read_data_directory, read_pairs
from spkver.data.trials import read_trials

SHORT = Limits(min_seconds=0.5)


@pytest.fixture(scope="module")
def tree(voices, tmp_path_factory):
    """``voices`` as people have them: a folder a speaker, all with the same file names, in four forms."""
    root = tmp_path_factory.mktemp("own") / "my audio"
    forms = {"wav": (16000, 1), "mp3": (48000, 1), "ogg": (44100, 2), "flac": (16000, 2)}
    for speaker in range(10):
        folder = root / f"speaker {speaker}"
        folder.mkdir(parents=True)
        for take in range(6):
            samples, _ = soundfile.read(voices / "wav" / f"v{speaker}" / f"{take}.wav")
            suffix, (rate, channels) = list(forms.items())[take % 4]
            grown = np.interp(
                np.arange(int(len(samples) * rate / 16000)) * 16000 / rate, np.arange(len(samples)), samples
            )
            soundfile.write(folder / f"{take}.{suffix}", np.stack([grown] * channels, 1), rate)
    return root


def left_out(folder: Path) -> dict[str, str]:
    with open(folder / "left_out.tsv", encoding="utf-8", newline="") as file:
        return {Path(row["path"]).name: row["reason"] for row in csv.DictReader(file, delimiter="\t")}


def told(*args, **options) -> str:
    return one_line.told(prepare_own_folder, *args, **options)


def test_every_format_rate_and_number_of_channels_is_used(tree, tmp_path):
    report = prepare_own_folder(tree, tmp_path, limits=SHORT)
    assert (len(report.train), len(report.test), report.left_out) == (7 * 6, 3 * 6, [])
    assert "16000 Hz: 30, 48000 Hz: 20, 44100 Hz: 10" in str(report)
    assert "1: 40, 2: 20" in str(report)
    test = read_data_directory(tmp_path / "test")
    # Ids are paths, so that equal file names of different speakers never meet; white space is written as %20.
    assert test.utterances[0].id.startswith("speaker%20") and test.utterances[0].id.endswith("/0.wav")
    trials = read_trials(tmp_path / "test" / "trials")
    assert (report.targets, report.nontargets) == (3 * 15, 3 * 36)
    speaker = {utterance.id: utterance.speaker for utterance in test.utterances}
    assert [speaker[a] == speaker[b] for a, b in zip(trials.enroll, trials.test)] == trials.labels.astype(bool).tolist()
    train = read_data_directory(tmp_path / "train")
    assert not set(train.speakers) & set(test.speakers)


def test_durations_are_those_that_training_would_find(tree, tmp_path, monkeypatch):
    prepare_own_folder(tree, tmp_path, limits=SHORT)
    kept = read_data_directory(tmp_path / "train")
    (tmp_path / "train" / "unusable").unlink()  # without it nothing counts as surveyed
    decoded = keep_usable(read_data_directory(tmp_path / "train"), 16000)
    assert decoded.durations == kept.durations
    monkeypatch.setattr("spkver.data.audio_check.decode_all", None)
    keep_usable(read_data_directory(tmp_path / "test"), 16000)


def test_the_split_follows_the_seed(tree, tmp_path):
    speakers = []
    for seed in (1, 1, 2, 3):
        report = prepare_own_folder(tree, tmp_path / str(len(speakers)), seed=seed, limits=SHORT)
        speakers.append({utterance.speaker for utterance in report.test})
    assert speakers[0] == speakers[1]
    assert len({frozenset(one) for one in speakers}) > 1


def test_genders_are_evenly_tested_and_never_paired(tree, tmp_path):
    genders = tmp_path / "genders"
    genders.write_text("".join(f"speaker%20{n} {('Female', 'male')[n % 2]}\n" for n in range(9)))
    report = prepare_own_folder(tree, tmp_path / "o", genders=genders, limits=replace(SHORT, test_speakers=3))
    known = read_pairs(tmp_path / "o" / "test" / "spk2gender")
    assert len(set(known.values())) == 2 and set(known.values()) == {"f", "m"}
    trials = read_trials(tmp_path / "o" / "test" / "trials")
    sexes = [tuple(known.get(name.split("/")[0]) for name in pair) for pair in zip(trials.enroll, trials.test)]
    assert {pair for pair in sexes if None not in pair} == {("f", "f"), ("m", "m")}
    assert "5 f, 4 m, 1 unknown" in str(report)
    genders.write_text("v0 f\n")
    assert "none of the speakers, who are called as 'speaker%200' is" in told(tree, tmp_path / "o", genders=genders)
    assert "no such file" in told(tree, tmp_path / "o", genders=tmp_path / "nothing")


def test_what_is_of_no_use_is_left_out_and_named(tree, tmp_path):
    root = tmp_path / "audio"
    shutil.copytree(tree, root)
    one = root / "speaker 1"
    samples, rate = soundfile.read(one / "0.wav")
    soundfile.write(one / "copy.flac", samples, rate)  # the same samples in another format
    shutil.copy(root / "speaker 2" / "4.wav", root / "speaker 3" / "mislaid.wav")
    soundfile.write(one / "short.wav", samples[:4000], rate)
    soundfile.write(one / "silent.wav", np.zeros(16000), rate)
    (one / "empty.wav").touch()
    (one / "broken.mp3").write_bytes(b"no audio" * 100)
    (one / "phone.m4a").write_bytes(b"x")
    (one / "notes.txt").write_text("x")
    (one / "._0.wav").write_bytes(b"x")
    (one / "half.wav").write_bytes((one / "4.wav").read_bytes()[:-4000])
    soundfile.write(root / "stray.wav", samples[::-1], rate)
    report = prepare_own_folder(root, root / "out", limits=SHORT)
    reasons = left_out(root / "out")
    assert set(reasons) == {"copy.flac", "mislaid.wav", "4.wav", "short.wav", "silent.wav", "empty.wav", "broken.mp3",
                            "phone.m4a", "half.wav", "stray.wav"}  # fmt: skip
    assert reasons["copy.flac"] == f"duplicate of {one / '0.wav'}"
    assert "4.wav, which is another speaker's; neither is used" in reasons["mislaid.wav"]
    assert "mislaid.wav, which is another speaker's" in reasons["4.wav"]
    assert reasons["short.wav"] == "too short (0.25 s of 0.5 s)"
    assert (reasons["silent.wav"], reasons["empty.wav"]) == ("silent", "empty")
    assert (reasons["broken.mp3"], reasons["half.wav"]) == ("unreadable", "truncated")
    assert "ffmpeg" in reasons["phone.m4a"]
    assert "no folder" in reasons["stray.wav"]
    assert "duplicate: 3, " in str(report) and "too short: 1" in str(report)
    used = [utterance.path.name for utterance in report.train + report.test if utterance.speaker == "speaker%201"]
    assert sorted(used) == ["0.wav", "1.mp3", "2.ogg", "3.flac", "4.wav", "5.mp3"]
    # The output lies within the source: what it holds is no speaker of the next run.
    assert len(prepare_own_folder(root, root / "out", limits=SHORT).left_out) == len(report.left_out)


def test_another_level_of_folders_can_be_the_speaker(tree, tmp_path):
    for half in (0, 1):
        for speaker in range(5 * half, 5 * half + 5):
            folder = tmp_path / "audio" / f"part{half}" / f"s{speaker}"
            shutil.copytree(tree / f"speaker {speaker}", folder / "day1")
    message = told(tmp_path / "audio", tmp_path / "o", limits=SHORT)
    assert "2 speakers with two usable recordings or more" in message
    assert "--speaker-level 2 has 10" in message
    for level in (2, -2):
        report = prepare_own_folder(tmp_path / "audio", tmp_path / "o", speaker_level=level, limits=SHORT)
        assert len({utterance.speaker for utterance in report.train + report.test}) == 10
        assert report.train[0].speaker == "part0/s0"
    assert "levels count from 1" in told(tmp_path / "audio", tmp_path / "o", speaker_level=0)


def test_a_table_names_files_speakers_and_genders(tree, tmp_path):
    for suffix, comma in ((".csv", ","), (".tsv", "\t")):
        table = tree.parent / f"all{suffix}"
        rows = [["Speaker", "path", "age", "gender"]]
        rows += [[f"anna {n}", f"my audio/speaker {n}/{f.name}", "?", "fm"[n % 2] if f.stem == "0" else ""]
                 for n in range(10) for f in sorted((tree / f"speaker {n}").iterdir())]  # fmt: skip
        table.write_text("\ufeff" + "".join(comma.join(row) + "\r\n" for row in rows))
        report = prepare_own_folder(table, tmp_path / suffix, limits=SHORT)
        assert len(report.train) + len(report.test) == 60
        assert report.train[0].id.startswith("my%20audio/speaker%20")
        assert report.train[0].speaker.startswith("anna%20")
        assert read_pairs(tmp_path / suffix / "train" / "spk2gender")[report.train[0].speaker] in ("f", "m")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("file,speaker\na,b\n", "1: no column 'path' (columns: file, speaker)"),
        ("path,speaker\na.wav\n", "2: has another number of columns"),
        ("path,speaker\na.wav,\n", "2: its path or speaker is empty"),
        ("path,speaker\na.wav,x\n./a.wav,y\n", "3: ./a.wav is of speaker 'y', an earlier line says 'x'"),
        ("path,speaker,gender\na.wav,x,f\nb.wav,x,male\n", "3: gender 'm' of speaker 'x', an earlier line says 'f'"),
        ("path,speaker\n", "the table is empty"),
        ("", "no column 'path' (columns: none)"),
    ],
)
def test_a_fault_in_a_table_is_named(tmp_path, rows, message):
    (tmp_path / "t.csv").write_text(rows)
    assert message in told(tmp_path / "t.csv", tmp_path / "o")


def test_files_that_a_table_only_names_are_missing(tree, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("path,speaker\nnowhere.wav,a\n")
    assert "0 speakers" in told(table, tmp_path / "o")
    assert left_out(tmp_path / "o") == {"nowhere.wav": "missing"}


def test_a_kaldi_directory_keeps_its_ids_and_genders(voices, tmp_path):
    report = prepare_own_folder(voices, tmp_path, limits=SHORT)
    ids = {utterance.id for utterance in report.train + report.test}
    assert ids == set(read_pairs(voices / "utt2spk"))
    genders = read_pairs(tmp_path / "train" / "spk2gender") | read_pairs(tmp_path / "test" / "spk2gender")
    assert genders == read_pairs(voices / "spk2gender")


def test_telephone_speech_is_trained_on_at_its_own_rate(voices, tmp_path):
    root = tmp_path / "audio"
    for path in sorted((voices / "wav").rglob("*.wav")):
        samples, _ = soundfile.read(path)
        target = root / path.relative_to(voices / "wav")
        target.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(target, samples[::2], 8000)
    report = prepare_own_folder(root, tmp_path / "o", limits=SHORT)
    assert "at 8000 Hz" in str(report)
    assert load_config(tmp_path / "o" / "config.yaml").data.sample_rate == 8000
    assert load_config(tmp_path / "o" / "config_lmf.yaml").data.sample_rate == 8000
    prepare_own_folder(root, tmp_path / "wide", sample_rate=16000, limits=SHORT)
    assert load_config(tmp_path / "wide" / "config.yaml").data.sample_rate == 16000


def test_two_speakers_or_twenty_files_are_refused_in_a_line(tree, tmp_path):
    for n in (0, 1):
        shutil.copytree(tree / f"speaker {n}", tmp_path / "two" / str(n))
    message = told(tmp_path / "two", tmp_path / "o", limits=SHORT)
    assert "2 speakers" in message and "at least 10 are needed, as those to train on" in message
    for n in range(10):
        for name in ("0.wav", "1.mp3"):
            target = tmp_path / "twenty" / str(n) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(tree / f"speaker {n}" / name, target)
    message = told(tmp_path / "twenty", tmp_path / "o", limits=SHORT)
    assert "20 usable recordings of 10 speakers, at least 50 are needed" in message
    assert not (tmp_path / "o" / "train").exists()
    assert "no such folder" in told(tmp_path / "nothing", tmp_path / "o")
    (tmp_path / "bare").mkdir()
    assert "no audio file" in told(tmp_path / "bare", tmp_path / "o")


def test_test_speakers_leave_enough_to_train_on(tree, tmp_path):
    limits = replace(SHORT, test_speakers=4)
    assert "choose 3 to 3 of the 10 speakers" in told(tree, tmp_path, limits=limits)


def test_many_lines_about_files_are_cut_short(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(own_folder, "MOST_TOLD", 2)
    root = tmp_path / "audio"
    shutil.copytree(tree, root)
    for n in range(5):
        (root / "speaker 0" / f"x{n}.wav").touch()
    report = str(prepare_own_folder(root, tmp_path / "o", limits=SHORT))
    assert report.count(": empty") == 2 + 0 and "... and 3 more in" in report


def test_the_verb_has_the_limits_of_the_function_and_trains(tree, tmp_path, capsys):
    for name, value in LIMITS.items():
        assert getattr(Limits(), name) == value
    out = tmp_path / "data"
    assert main(["prepare", "folder", str(out), "--audio", str(tree), "--min-seconds", "0.5"]) == 0
    assert "own_small.yaml, for 4 training speakers" in capsys.readouterr().out
    tiny = ["model.channels=[8, 8]", "model.d_model=16", "model.n_layers=1", "model.n_heads=2", "model.groups=4",
            "model.feedforward=32", "training.epochs=1", "training.keep_last=1", "training.average_last=1",
            "margin_schedule.start_epoch=0", "margin_schedule.end_epoch=0", "lr_schedule.warmup_epochs=0.5",
            "data.crop_seconds=0.5", "data.workers=0", "training.threads=1", "training.precision=float32"]  # fmt: skip
    for name, init in (("config", []), ("config_lmf", ["--init", str(tmp_path / "exp" / "model")])):
        exp = tmp_path / name.replace("config", "exp")
        words = [str(out / f"{name}.yaml"), "--data", str(out / "train"), "--exp", str(exp), *init, *tiny]
        assert main(["train", *words]) == 0
        assert main(["average", str(exp)]) == 0
