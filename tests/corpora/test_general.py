"""What the general model is trained on: Speech Commands' clips, read and joined, beside speechocean762's sentences."""

import tarfile
from hashlib import sha256

import numpy as np
import pytest
import soundfile
from one_line import told

from spkver.corpora import general as module
from spkver.corpora.general import prepare_general
from spkver.corpora.speech_commands import download_speech_commands, join_clips, read_clips
from spkver.data.directory import read_data_directory
from spkver.data.trials import read_trials

WORDS = ("bed", "cat", "zero")


@pytest.fixture
def commands(tmp_path):
    """Speech Commands with eight speakers of six clips of 0.5 s, one of one, and noise; a clip has its own level."""
    root = tmp_path / "speech_commands"
    rng = np.random.default_rng(1)
    for number in range(9):
        for word in WORDS[: 3 if number < 8 else 1]:
            for take in range(2 if number < 8 else 1):
                (root / word).mkdir(parents=True, exist_ok=True)
                level = 0.01 * (1 + WORDS.index(word) + 3 * take)
                path = root / word / f"speaker{number}_nohash_{take}.wav"
                soundfile.write(path, level * rng.choice([-1, 1], 8000), 16000, subtype="PCM_16")
    (root / "_background_noise_").mkdir()
    soundfile.write(root / "_background_noise_" / "pink_noise.wav", 0.1 * rng.standard_normal(16000), 16000)
    return root


def test_a_clip_has_a_speaker_and_noise_has_none(commands):
    clips = read_clips(commands)
    assert len(clips) == 8 * 6 + 1 and len({clip.id for clip in clips}) == len(clips)
    assert {clip.speaker for clip in clips} == {f"sc-speaker{number}" for number in range(9)}
    assert clips[0].id == "sc-speaker0-bed-0" and clips[0].path == commands / "bed" / "speaker0_nohash_0.wav"


def test_a_folder_without_clips_is_one_line(tmp_path):
    (tmp_path / "bed").mkdir()
    assert f"{tmp_path}: no Speech Commands here (WORD/SPEAKER_nohash_N.wav" in told(read_clips, tmp_path)


def test_clips_are_joined_whole_each_once_as_evenly_as_they_go(commands, tmp_path):
    clips = [clip for clip in read_clips(commands) if clip.speaker == "sc-speaker0"]
    soundfile.write(clips[0].path, np.zeros(8000), 16000)  # silent: left out
    joined = join_clips(clips, tmp_path / "joined", 1.25, seed=1)
    assert [utterance.id for utterance in joined] == ["sc-speaker0-0", "sc-speaker0-1"]
    waves = [soundfile.read(utterance.path)[0] for utterance in joined]
    assert sorted(map(len, waves)) == [2 * 8000, 3 * 8000]
    levels = [round(float(np.abs(half).max()), 2) for wave in waves for half in np.split(wave, len(wave) // 8000)]
    assert sorted(levels) == [0.02, 0.03, 0.04, 0.05, 0.06] and levels != sorted(levels)
    again = join_clips(clips, tmp_path / "again", 1.25, seed=1)
    assert [utterance.path.read_bytes() for utterance in again] == [u.path.read_bytes() for u in joined]


def test_test_speakers_are_no_training_speakers_and_are_tested_by_their_clips(
    small_speechocean762, commands, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "TEST_SPEAKERS", 3)
    said = prepare_general(small_speechocean762, commands, tmp_path / "general")
    train, test = (read_data_directory(tmp_path / "general" / split) for split in ("train", "test"))
    assert not set(train.speakers) & set(test.speakers)
    assert len(train.speakers) == 4 + 6 and len(test.speakers) == 4 + 3
    assert {utterance.path.suffix for utterance in train.utterances if utterance.speaker[:3] == "sc-"} == {".flac"}
    assert set(train.genders) == {"a0", "b0", "c0", "d0"} and set(test.genders) == {"a1", "b1", "c1", "d1"}
    sentences, words = (read_trials(tmp_path / "general" / "test" / n) for n in ("speechocean762", "speech_commands"))
    assert words.labels.sum() == 3 * 15 and len(words) == 3 * 15 + 3 * 36
    assert sentences.labels.sum() == 4 * 3  # its own, which test/ has under its name
    assert {name[:3] for name in words.enroll} == {"sc-"} and not any(name[:3] == "sc-" for name in sentences.enroll)
    assert "10 speakers" in said and "7 speakers" in said


def test_too_few_speakers_are_one_line(small_speechocean762, commands, tmp_path):
    message = told(prepare_general, small_speechocean762, commands, tmp_path / "general")
    assert message == ("Speech Commands: 8 speakers with two clips or more, 200 are needed; get the whole corpus")


def test_the_archive_is_fetched_once_and_held_to_its_checksum(commands, tmp_path):
    archive = tmp_path / "speech_commands_v0.02.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for folder in sorted(commands.iterdir()):
            tar.add(folder, f"./{folder.name}")
    digest = sha256(archive.read_bytes()).hexdigest()
    root = download_speech_commands(tmp_path / "downloads", archive.as_uri(), digest)
    assert len(read_clips(root)) == 49
    archive.unlink()
    assert download_speech_commands(tmp_path / "downloads", archive.as_uri(), digest) == root
