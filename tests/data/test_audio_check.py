"""The survey finds what cannot be used, keeps what it found, and takes it up again."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile

from spkver.data import audio_check as survey_module
from spkver.data.audio_check import keep_usable, read_survey
from spkver.data.directory import Utterance, read_data_directory, write_data_directory
from spkver.errors import SpkverError


@pytest.fixture
def directory(tmp_path):
    """Ten good utterances of two speakers, and one of each kind that cannot be used."""
    audio = tmp_path / "my audio"
    audio.mkdir()
    rng = np.random.default_rng(0)

    def save(name, samples, **options):
        soundfile.write(audio / name, samples, 16000, **options)

    for i in range(10):
        n = 1600 * (i + 1)
        bursts = np.exp(2 * np.sin(np.arange(n) / 800)) / 8  # a steady sound is no speech
        save(f"good{i}.wav", bursts * 0.1 * rng.standard_normal(n))
    save("empty.wav", np.zeros(0))
    save("silent.flac", np.zeros(16000))
    save("nan.wav", np.full(100, np.nan, np.float32), subtype="FLOAT")
    save("loud.wav", 10_000 * rng.standard_normal(100), subtype="FLOAT")
    save("joined.flac", 0.1 * rng.standard_normal(1000))
    (audio / "joined.flac").write_bytes(2 * (audio / "joined.flac").read_bytes())
    save("truncated.ogg", 0.1 * rng.standard_normal(32000), format="OGG", subtype="VORBIS")
    whole = (audio / "truncated.ogg").read_bytes()
    (audio / "truncated.ogg").write_bytes(whole[: len(whole) // 2])
    (audio / "unreadable.wav").write_text("not audio")
    utterances = [
        Utterance(path.stem, path, "anna" if path.stem < "good5" else "bert") for path in sorted(audio.iterdir())
    ]
    write_data_directory(tmp_path, utterances)
    return read_data_directory(tmp_path)


REASONS = {
    "empty": "empty",
    "joined": "joined",
    "loud": "out-of-range",
    "nan": "non-finite",
    "silent": "silent",
    "truncated": "truncated",
    "unreadable": "unreadable",
}


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that were decoded."""
    names = []
    read = survey_module.read_audio

    def recording(path, sample_rate):
        names.append(path.stem)
        return read(path, sample_rate)

    monkeypatch.setattr(survey_module, "read_audio", recording)
    return names


def surveyed(directory, sample_rate=16000, workers=2):
    """What is found in all files, whatever was found before."""
    (directory.path / "unusable").unlink(missing_ok=True)
    keep_usable(directory, sample_rate, workers, max_unusable_share=0.5)
    return read_survey(directory.path)


def test_every_unusable_file_is_found_with_its_path_and_reason(directory, capsys):
    found = surveyed(directory)
    assert {utt: reason for utt, _, reason in found.unusable} == REASONS
    assert all(path.stem == utt for utt, path, _ in found.unusable)
    assert found.ids.to_pylist() == [f"good{i}" for i in range(10)]
    assert found.seconds == pytest.approx(0.1 * np.arange(1, 11))
    assert "silent.flac: silent, left out" in capsys.readouterr().err


def test_the_number_of_workers_does_not_matter(directory):
    one, four = (surveyed(directory, workers=workers) for workers in (1, 4))
    assert one.ids.equals(four.ids) and np.array_equal(one.seconds, four.seconds) and one.unusable == four.unusable


def test_durations_are_seconds_whatever_the_rate(directory):
    assert surveyed(directory, 8000).seconds[4] == pytest.approx(0.5)


def test_too_many_unusable_files_stop_with_the_key_that_allows_more(directory):
    with pytest.raises(SpkverError) as caught:
        keep_usable(directory, 16000, max_unusable_share=0.3)
    text = str(caught.value)
    assert "7 of 17 files (41.2%)" in text and "empty.wav (empty)" in text and "data.max_unusable_share" in text
    assert "\n" not in text


def test_a_directory_with_nothing_usable_is_refused_whatever_is_allowed(directory):
    with pytest.raises(SpkverError, match="2 of 2 files"):
        keep_usable(directory.subset(utterances=["empty", "silent"]), 16000, max_unusable_share=1.0)


def test_the_unusable_are_left_out_and_the_rest_have_durations(directory):
    usable = keep_usable(directory, 16000, max_unusable_share=0.5)
    assert [u.id for u in usable.utterances] == [f"good{i}" for i in range(10)]
    assert list(usable.durations) == [u.id for u in usable.utterances]
    assert read_data_directory(directory.path).durations == usable.durations
    lines = (directory.path / "unusable").read_text().splitlines()
    assert lines[0] == f"empty {directory.path}/my audio/empty.wav empty" and len(lines) == 7


def test_a_survey_is_taken_up_again_until_the_list_is_newer(directory, decoded):
    first = keep_usable(directory, 16000, max_unusable_share=0.5)
    assert len(decoded) == 17
    again = keep_usable(directory, 16000, max_unusable_share=0.5)
    assert (again.utterances, again.durations) == (first.utterances, first.durations) and len(decoded) == 17
    later = (directory.path / "utt2dur").stat().st_mtime + 10
    os.utime(directory.path / "wav.scp", (later, later))
    assert keep_usable(directory, 16000, max_unusable_share=0.5).durations == first.durations
    assert len(decoded) == 34


def test_a_stored_survey_is_held_to_the_share_too_and_is_kept_when_refused(directory, decoded):
    for _ in range(2):
        with pytest.raises(SpkverError, match="7 of 17"):
            keep_usable(directory, 16000, max_unusable_share=0.1)
    assert len(decoded) == 17


def test_only_utterances_that_an_earlier_survey_does_not_know_are_decoded(directory, decoded):
    keep_usable(directory.subset(speakers=["bert"]), 16000, max_unusable_share=0.6)
    n_bert = len(decoded)
    assert 0 < n_bert < 17
    assert len(keep_usable(directory, 16000, max_unusable_share=0.5).utterances) == 10
    assert sorted(decoded) == sorted(u.id for u in directory.utterances)
    # And a part does not overwrite what is known of the whole.
    keep_usable(directory.subset(speakers=["anna"]), 16000, max_unusable_share=1.0)
    assert len(decoded) == 17 and len(read_data_directory(directory.path).durations) == 10


def test_durations_of_another_tool_are_no_survey(directory, decoded):
    (directory.path / "utt2dur").write_text("".join(f"{u.id} 1.0\n" for u in directory.utterances))
    assert keep_usable(directory, 16000, max_unusable_share=0.5).durations["good0"] == pytest.approx(0.1)
    assert len(decoded) == 17


def test_a_folder_that_cannot_be_written_works_without_storing(directory, monkeypatch, capsys):
    def read_only(path):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr("spkver.files.temporary_beside", read_only)
    assert len(keep_usable(directory, 16000, max_unusable_share=0.5).utterances) == 10
    assert not (directory.path / "utt2dur").exists()
    assert "unusable: cannot be written (Read-only file system)" in capsys.readouterr().err


def test_real_speech_is_all_usable(speechocean762, tmp_path):
    paths = sorted((speechocean762 / "WAVE").glob("*/*.ogg"))[::100]
    write_data_directory(tmp_path, [Utterance(p.stem, p, p.parent.name) for p in paths])
    usable = keep_usable(read_data_directory(tmp_path), 16000, max_unusable_share=0.0)
    assert len(usable.utterances) == 50
    assert min(usable.durations.values()) > 1.5 and max(usable.durations.values()) < 21


def test_a_long_check_that_was_stopped_goes_on_with_the_parts_that_are_missing(directory, decoded, monkeypatch):
    monkeypatch.setattr(survey_module, "_UTTERANCES_A_PART", 3)
    look_at = survey_module._look_at

    def stopped(utterance, fbank):
        if len(decoded) == 10:
            raise KeyboardInterrupt
        return look_at(utterance, fbank)

    monkeypatch.setattr(survey_module, "_look_at", stopped)
    with pytest.raises(KeyboardInterrupt):
        keep_usable(directory, 16000, 1, 0.5)
    assert not (directory.path / "utt2dur").exists()
    monkeypatch.setattr(survey_module, "_look_at", look_at)
    assert len(keep_usable(directory, 16000, 2, 0.5).utterances) == 10
    assert len(decoded) == 18  # 10 of which 9 were whole parts, and the rest
    assert {utt: reason for utt, _, reason in read_survey(directory.path).unusable} == REASONS
    assert [path.name for path in directory.path.iterdir() if path.name.startswith(".")] == []


def test_two_checks_of_a_long_list_at_once_share_it(directory, decoded, monkeypatch):
    monkeypatch.setattr(survey_module, "_UTTERANCES_A_PART", 3)
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda _: keep_usable(directory, 16000, 1, 0.5), range(2))
    assert one.durations == other.durations and len(one.durations) == 10
    assert sorted(decoded) == sorted(utterance.id for utterance in directory.utterances)
