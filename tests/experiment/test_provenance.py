"""What stored files belong to: contents decide, paths are for the reader."""

import shutil

import numpy as np
import pytest
import soundfile

from spkver.data.directory import Utterance, write_data_directory
from spkver.errors import SpkverError
from spkver.experiment.provenance import data_name, data_record, read_record, refuse_to_replace, same_data, write_record


def directory(folder, seed, n=20):
    rng = np.random.default_rng(seed)
    utterances = []
    for index in range(n):
        path = folder / "wav" / f"{index}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * rng.standard_normal(800), 16000)
        utterances.append(Utterance(f"u{index}", path, "s"))
    write_data_directory(folder, utterances)
    return folder


def test_two_directories_with_one_list_are_told_apart_by_their_recordings(tmp_path):
    clean, noisy = (directory(tmp_path / name / "test", seed) for seed, name in enumerate(("clean", "noisy")))
    assert (clean / "wav.scp").read_bytes() == (noisy / "wav.scp").read_bytes()
    assert data_name(clean) == data_name(noisy) == "test"
    assert not same_data(data_record(clean), data_record(noisy))


def test_a_directory_that_was_moved_or_linked_is_the_same(tmp_path):
    folder = directory(tmp_path / "test", 0)
    before = data_record(folder)
    (tmp_path / "link").symlink_to(folder)
    assert data_record(tmp_path / "link") == before
    assert data_name(tmp_path / "link") == data_name(folder / "wav" / "..") == "test"
    folder.rename(tmp_path / "elsewhere")
    assert same_data(data_record(tmp_path / "elsewhere"), before)


def test_other_ids_are_other_data_and_without_recordings_the_lists_decide(tmp_path):
    folder = directory(tmp_path / "test", 0)
    before = data_record(folder)
    shutil.rmtree(folder / "wav")
    assert same_data(data_record(folder), before)
    lines = (folder / "wav.scp").read_text()
    (folder / "wav.scp").write_text(lines.replace("wav/3.wav", "wav/33.wav"))
    assert not same_data(data_record(folder), before)
    (folder / "wav.scp").write_text(lines.replace("u3 ", "u33 "))
    assert not same_data(data_record(folder), before)


def test_the_root_of_the_file_system_has_no_name():
    with pytest.raises(SpkverError, match="the root of the file system cannot be a data directory"):
        data_name("/")


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"data": 3, "model": "x"}', '{"data": {"path": 1}}', "\0" * 9, "[" * 9999]
)
def test_a_damaged_record_is_one_line(tmp_path, content):
    (tmp_path / "made_of.json").write_text(content)
    with pytest.raises(SpkverError, match=r"made_of\.json: is damaged") as found:
        read_record(tmp_path / "made_of.json", "data", "model")
    assert "\n" not in str(found.value) and len(str(found.value)) < 500


def test_records_are_written_and_read(tmp_path):
    record = {"data": data_record(directory(tmp_path / "test", 0)), "model": "abc"}
    write_record(tmp_path / "made_of.json", record)
    assert read_record(tmp_path / "made_of.json", "data", "model") == record
    assert read_record(tmp_path / "none.json", "data") is None


def test_only_what_still_exists_elsewhere_is_kept_from_being_replaced(tmp_path):
    (tmp_path / "a").mkdir()
    old, new = {"path": str(tmp_path / "a")}, {"path": str(tmp_path / "b")}
    with pytest.raises(SpkverError, match=f"holds the scores of {tmp_path}/a, and those of {tmp_path}/b would replace"):
        refuse_to_replace(tmp_path / "place", old, new, False, "scores")
    refuse_to_replace(tmp_path / "place", old, new, True, "scores")
    refuse_to_replace(tmp_path / "place", old, old, False, "scores")
    refuse_to_replace(tmp_path / "place", None, new, False, "scores")
    (tmp_path / "a").rmdir()
    refuse_to_replace(tmp_path / "place", old, new, False, "scores")
