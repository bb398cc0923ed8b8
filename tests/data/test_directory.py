"""Data directories: what is read, what is refused and where the message points."""

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spkver.data import directory as directory_module
from spkver.data.directory import (
    DataDirectory,
    Utterance,
    dealt_by_gender,
    read_data_directory,
    read_path_list,
    write_data_directory,
)
from spkver.data.names import composed
from spkver.errors import SpkverError

WAV_SCP = "u1 a/1.wav\nu2 a/2.wav\nu3 b/3.wav\n"
UTT2SPK = "u1 anna\nu2 anna\nu3 bert\n"


@pytest.fixture
def folder(tmp_path):
    """A small directory with empty audio files (nothing here decodes them)."""
    for name in ("a/1.wav", "a/2.wav", "b/3.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "wav.scp").write_text(WAV_SCP)
    (tmp_path / "utt2spk").write_text(UTT2SPK)
    return tmp_path


def message(folder, **options) -> str:
    with pytest.raises(SpkverError) as caught:
        read_data_directory(folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{folder}/", "")


def test_utterances_keep_the_order_of_the_list_and_speakers_are_sorted(folder):
    (folder / "wav.scp").write_text("u3 b/3.wav\nu1 a/1.wav\nu2 a/2.wav\n")
    directory = read_data_directory(folder)
    assert [u.id for u in directory.utterances] == ["u3", "u1", "u2"]
    assert directory.utterances[0] == Utterance("u3", folder / "b/3.wav", "bert")
    assert directory.speakers == ["anna", "bert"]
    assert directory.genders == {} and directory.durations == {}


def test_relative_paths_are_relative_to_the_directory_not_to_where_one_stands(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    for utterance in read_data_directory(Path(folder.name)).utterances:
        assert utterance.path.is_absolute() and utterance.path.is_file()


def test_utt2spk_is_derived_from_spk2utt_alone(folder):
    expected = read_data_directory(folder).utterances
    (folder / "utt2spk").unlink()
    (folder / "spk2utt").write_text("anna u1 u2\nbert u3\n")
    assert read_data_directory(folder).utterances == expected


def test_crlf_tabs_byte_order_mark_blank_lines_and_spaces_in_paths_are_read(folder):
    (folder / "a" / "my voice  1.wav").touch()
    text = "\ufeffu1\ta/my voice  1.wav\r\nu2 \t a/2.wav\r\n\r\nu3  b/3.wav"
    (folder / "wav.scp").write_bytes(text.encode())
    (folder / "utt2spk").write_bytes(UTT2SPK.replace("\n", "\r\n").encode())
    directory = read_data_directory(folder)
    assert [u.path.name for u in directory.utterances] == ["my voice  1.wav", "2.wav", "3.wav"]
    assert directory.speakers == ["anna", "bert"]


def test_companion_files_are_read_and_lines_about_others_are_ignored(folder):
    (folder / "spk2gender").write_text("anna f\nbert m\nzoe f\n")
    (folder / "utt2dur").write_text("u1 1.5\nu3 2\nu9 4\n")
    directory = read_data_directory(folder)
    assert directory.genders == {"anna": "f", "bert": "m"}
    assert directory.durations == {"u1": 1.5, "u3": 2.0}


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("wav.scp", WAV_SCP + "u1 a/1.wav\n", "wav.scp:4: 'u1' is listed twice"),
        ("wav.scp", "u1 a/1.wav\nu2\n", "wav.scp:2: one column only, 'u2'"),
        ("wav.scp", "u1 a/1.wav\nu2 sox x.wav -t wav - |\n", "wav.scp:2: 'u2' is a command"),
        ("wav.scp", "u1 a/1.wav\nu2 a/9.wav\n", "wav.scp:2: no audio file "),
        ("wav.scp", "\n \n", "wav.scp: the list is empty"),
        ("utt2spk", "u1 anna\nu2 anna\n", "wav.scp:3: utterance 'u3' has no speaker in utt2spk"),
        ("utt2spk", UTT2SPK + "u4 bert\n", "utt2spk:4: utterance 'u4' is not in wav.scp"),
        ("utt2spk", UTT2SPK + "u1 bert\n", "utt2spk:4: 'u1' is listed twice"),
        ("utt2spk", "u1 anna lee\n", "utt2spk:1: expected two columns, found 'u1 anna lee'"),
        (
            "spk2utt",
            "anna u1\nbert u2 u3\n",
            "utt2spk:2: utterance 'u2' is of speaker 'anna', but spk2utt lists",
        ),
        ("spk2utt", "anna u1 u2\n", "utt2spk:3: utterance 'u3' is of speaker 'bert', but spk2utt does not"),
        ("spk2utt", "anna u1 u2\nbert u3 u7\n", "spk2utt:2: utterance 'u7' is not in wav.scp"),
        ("spk2utt", "anna u1 u2\nbert u3 u1\n", "spk2utt:2: utterance 'u1' is listed twice"),
        ("spk2utt", "anna u1\nanna u2\n", "spk2utt:2: speaker 'anna' has two lines"),
        ("utt2dur", "u1 1.0\nu2 long\n", "utt2dur:2: 'long' is no duration"),
        ("utt2dur", "u1 nan\n", "utt2dur:1: 'nan' is no duration"),
        ("segments", "u1 r1 0 1\n", "segments: segments are not supported"),
    ],
)
def test_a_fault_is_named_by_file_and_line(folder, name, content, expected):
    (folder / name).write_text(content)
    assert message(folder).startswith(expected)


def test_a_missing_audio_file_is_named_and_its_check_can_be_left_out(folder):
    (folder / "b/3.wav").unlink()
    assert message(folder) == "wav.scp:3: no audio file b/3.wav"
    assert len(read_data_directory(folder, check_files=False).utterances) == 3


def test_text_that_is_not_utf8_is_named_by_line(folder):
    (folder / "wav.scp").write_bytes(b"u1 a/1.wav\nu2 a/M\xfcller.wav\n")
    assert message(folder).startswith("wav.scp:2: no audio file ")
    assert message(folder).endswith("; the list is not UTF-8, save it as UTF-8")
    (folder / "wav.scp").write_bytes(b"u1 a/1.wav\nu\xfc a/2.wav\n")
    assert message(folder) == "wav.scp:2: not UTF-8; save the list as UTF-8"


def test_a_file_whose_name_is_in_latin_1_is_listed_by_its_bytes(folder, tmp_path):
    name = os.fsdecode(b"b/caf\xe9.wav")
    shutil.copy(folder / "b/3.wav", folder / name)
    (folder / "wav.scp").write_bytes((folder / "wav.scp").read_bytes().replace(b"b/3.wav", b"b/caf\xe9.wav"))
    data = read_data_directory(folder)
    assert data.utterances[2].path == folder / name
    write_data_directory(tmp_path / "again", data.utterances)
    assert read_data_directory(tmp_path / "again").utterances == data.utterances
    with pytest.raises(SpkverError, match=r"the id 'caf\\udce9' is empty or holds .* what is not UTF-8; rename it"):
        write_data_directory(tmp_path / "again", [Utterance(os.fsdecode(b"caf\xe9"), folder / name, "b")])


def test_ids_are_one_name_in_either_unicode_form_and_paths_stay_as_they_are(folder):
    decomposed, path = "u\u0308", "b/u\u0308.wav"
    shutil.copy(folder / "b/3.wav", folder / path)
    (folder / "wav.scp").write_text(f"u1 a/1.wav\nu2 a/2.wav\n{decomposed} {path}\n")
    (folder / "utt2spk").write_text("u1 anna\nu2 anna\n\xfc Zo\xeb\n")
    (folder / "spk2utt").write_text(f"anna u1 u2\nZoe\u0308 {decomposed}\n")
    (folder / "spk2gender").write_text("Zoe\u0308 f\n")
    (folder / "utt2dur").write_text(f"{decomposed} 1.5\n")
    data = read_data_directory(folder)
    assert data.utterances[2] == Utterance("\xfc", folder / path, "Zo\xeb")
    assert (data.genders, data.durations) == ({"Zo\xeb": "f"}, {"\xfc": 1.5})
    (folder / "wav.scp").write_text(f"u1 a/1.wav\n\xfc a/2.wav\n{decomposed} {path}\n")
    assert message(folder) == "wav.scp:3: '\xfc' is listed twice"


def test_a_folder_that_is_no_data_directory_is_refused(folder):
    (folder / "utt2spk").unlink()
    assert "neither utt2spk nor spk2utt" in message(folder)
    (folder / "wav.scp").unlink()
    assert "it has no wav.scp" in message(folder)
    with pytest.raises(SpkverError, match="no such list"):
        read_path_list(folder / "noise.scp")


def test_what_is_written_is_read_back_and_can_be_moved(folder, tmp_path_factory):
    directory = read_data_directory(folder)
    write_data_directory(folder, directory.utterances, {"anna": "f"}, {"u1": 1 / 3, "u2": 2.0, "u3": 1e-3})
    again = read_data_directory(folder)
    assert again.utterances == directory.utterances
    assert again.genders == {"anna": "f"} and again.durations == {"u1": 1 / 3, "u2": 2.0, "u3": 1e-3}
    assert (folder / "spk2utt").read_bytes() == b"anna u1 u2\nbert u3\n"
    moved = folder.rename(tmp_path_factory.mktemp("moved") / "data")
    assert read_data_directory(moved).utterances[0].path == moved / "a/1.wav"


def test_writing_removes_companions_that_described_the_former_list(folder):
    for name in ("utt2dur", "unusable", "spk2gender"):
        (folder / name).write_text("u1 1\n")
    write_data_directory(folder, read_data_directory(folder).utterances)
    assert sorted(p.name for p in folder.iterdir() if p.is_file()) == ["spk2utt", "utt2spk", "wav.scp"]


@pytest.mark.parametrize(
    ("utterances", "expected"),
    [
        ([], "no utterance to write"),
        ([("u 1", "/x.wav", "s")], "the id 'u 1' is empty or holds white space"),
        ([("u1", "/x.wav", "")], "the id '' is empty or holds white space"),
        ([("u1", "/x.wav", "s"), ("u1", "/y.wav", "s")], "the id 'u1' is there twice; ids must be unique"),
        ([("\xfc", "/x.wav", "s"), ("u\u0308", "/y.wav", "s")], "is there twice"),
        ([("u1", "/x\ny.wav", "s")], "does not fit on a line"),
    ],
)
def test_what_a_list_cannot_hold_is_not_written(tmp_path, utterances, expected):
    with pytest.raises(SpkverError, match=expected):
        write_data_directory(tmp_path, [Utterance(utt, Path(path), spk) for utt, path, spk in utterances])
    assert not (tmp_path / "wav.scp").exists()


IDS = st.text(st.characters(exclude_categories=("Z", "C")), min_size=1, max_size=8).map(composed)


# Writing syncs to the disk, which is slow on some machines.
@settings(max_examples=25, deadline=None)
@given(st.dictionaries(IDS, IDS, min_size=1, max_size=12), st.data())
def test_any_list_survives_writing_and_reading_and_subsets_partition_it(tmp_path_factory, speakers, data):
    folder = tmp_path_factory.mktemp("any")
    utterances = [Utterance(utt, Path(f"/x y/{i}.wav"), spk) for i, (utt, spk) in enumerate(speakers.items())]
    write_data_directory(folder, utterances, durations={u.id: 1.0 for u in utterances})
    directory = read_data_directory(folder, check_files=False)
    assert directory.utterances == utterances

    some = set(data.draw(st.lists(st.sampled_from(directory.speakers), min_size=1)))
    rest = set(directory.speakers) - some
    parts = [directory.subset(speakers=part) for part in (some, rest) if part]
    assert parts[0].speakers == sorted(some)
    assert sorted(u.id for part in parts for u in part.utterances) == sorted(speakers)
    for part in parts:
        assert part.utterances == [u for u in utterances if u in part.utterances]
        assert set(part.durations) == {u.id for u in part.utterances}


def test_a_subset_keeps_only_its_own_and_refuses_unknown_names():
    utterances = [Utterance("u1", Path("/1"), "anna"), Utterance("u2", Path("/2"), "bert")]
    directory = DataDirectory(Path("/d"), utterances, {"anna": "f", "bert": "m"}, {"u1": 1.0, "u2": 2.0})
    part = directory.subset(utterances=["u2"])
    assert (part.speakers, part.genders, part.durations) == (["bert"], {"bert": "m"}, {"u2": 2.0})
    with pytest.raises(SpkverError, match="/d: no speaker 'carl'"):
        directory.subset(speakers=["carl"])
    with pytest.raises(SpkverError, match="no utterance is left"):
        directory.subset(speakers=["anna"], utterances=["u2"])


def test_the_real_lists_are_read(speechocean762, esc10):
    # The corpus's own paths are relative to its root, not to the list: hence no check of files.
    directory = read_data_directory(speechocean762 / "test", check_files=False)
    assert (len(directory.utterances), len(directory.speakers)) == (2500, 125)
    assert directory.genders["0003"] == "m"
    assert len(read_path_list(esc10 / "wav.scp")) == 400


def test_speakers_dealt_by_gender_have_in_any_beginning_the_shares_that_they_have_of_all():
    genders = {f"f{n}": "f" for n in range(6)} | {"m0": "m", "m1": "m"}
    dealt = dealt_by_gender([*genders, "x"], genders)
    # Of six the first stands 1/12 along, the second 3/12, ..; of two 3/12 and 9/12; one alone half.
    assert dealt == ["f0", "f1", "m0", "f2", "x", "f3", "f4", "m1", "f5"]
    assert dealt_by_gender(["b", "a"], {}) == ["b", "a"]


@pytest.fixture
def long_lists(tmp_path):
    """A directory of 3,000 utterances whose lists stand in different orders."""
    rng = np.random.default_rng(0)
    names = [f"s{n % 70}/u{n:05d}" for n in range(3000)]
    order = rng.permutation(3000)
    (tmp_path / "wav.scp").write_text("".join(f"{name}  my audio/{name}.wav \n" for name in names))
    (tmp_path / "utt2spk").write_text("".join(f"{names[n]}\ts{n % 70}\n" for n in order))
    (tmp_path / "utt2dur").write_text(
        "".join(f"{names[n]} {float(1 + n / 7)!r}\n" for n in order[:2000]) + "other 5.0\n"
    )
    speakers = "".join(f"s{s} {' '.join(names[s::70])}\n" for s in range(70))
    (tmp_path / "spk2utt").write_text(speakers)
    return tmp_path


def said(directory):
    return [(u.id, u.path, u.speaker, u.seconds) for u in directory.utterances], directory.speakers, directory.durations


def test_plain_lists_read_by_columns_say_what_they_say_read_by_lines(long_lists, monkeypatch):
    by_columns = read_data_directory(long_lists, check_files=False)
    assert directory_module._plain_table(long_lists) is not None
    monkeypatch.setattr(directory_module, "_plain_pairs", lambda path: None)
    assert said(by_columns) == said(read_data_directory(long_lists, check_files=False))
    assert by_columns.utterances[75].seconds in (None, 1 + 75 / 7)
    assert len(by_columns.durations) == 2000


def test_what_a_long_list_says_is_kept_and_is_read_anew_when_a_list_changes(long_lists, monkeypatch):
    monkeypatch.setattr(directory_module, "_KEPT_FROM_BYTES", 1000)
    first = said(read_data_directory(long_lists, check_files=False))
    kept = long_lists / ".utterances.arrow"
    with monkeypatch.context() as patch:
        patch.setattr(directory_module, "_read_lists", None)  # is not called
        assert said(read_data_directory(long_lists, check_files=False)) == first
    for spoil in (b"", kept.read_bytes()[:-200], os.urandom(4000)):
        kept.unlink()  # it is mapped: never changed in place
        kept.write_bytes(spoil)
        assert said(read_data_directory(long_lists, check_files=False)) == first
    (long_lists / "utt2dur").write_text("s1/u00001 2.5\n")
    assert read_data_directory(long_lists, check_files=False).durations == {"s1/u00001": 2.5}
    moved = long_lists.rename(long_lists.with_name("moved"))
    assert read_data_directory(moved, check_files=False).utterances[0].path == moved / "my audio/s0/u00000.wav"
    (moved / "utt2spk").write_text("s1/u00001 x\n")
    with pytest.raises(SpkverError, match="has no speaker in utt2spk"):
        read_data_directory(moved, check_files=False)


def test_a_kept_table_is_mapped_and_not_read_into_memory(long_lists, monkeypatch):
    monkeypatch.setattr(directory_module, "_KEPT_FROM_BYTES", 1000)
    read_data_directory(long_lists, check_files=False)
    before = pa.total_allocated_bytes()
    mapped = read_data_directory(long_lists, check_files=False)
    assert pa.total_allocated_bytes() - before < 20_000 < (long_lists / ".utterances.arrow").stat().st_size
    assert len(mapped.utterances) == 3000


def test_parts_of_a_table_have_the_classes_of_their_own_speakers(long_lists):
    directory = read_data_directory(long_lists, check_files=False)
    table = directory.utterances
    some = directory.subset(speakers=["s69", "s3", "s12"]).utterances
    assert some.speakers == ["s12", "s3", "s69"]
    assert [some.speakers[index] for index in some.speaker_index] == [utterance.speaker for utterance in some]
    assert [len(places) for places in some.places_by_speaker()] == [43, 43, 42]
    assert all(some[int(place)].speaker == "s3" for place in some.places_by_speaker()[1])
    assert list(some[5:9]) == [some[place] for place in range(5, 9)]
    assert some[-1] == list(some)[-1] and some[-1].id == "s12/u02952"
    assert table.find(["s3/u00003", "none", "s0/u02940"]).tolist() == [3, -1, 2940]
    assert some.find(["s3/u00003", "s0/u02940"]).tolist() == [0, -1]
    with pytest.raises(IndexError):
        some[len(some)]


def test_files_of_a_table_name_each_shard_once(packed_voices, folder):
    shards = [packed_voices / "shards" / f"shard-{number:06d}.tar" for number in range(4)]
    assert list(read_data_directory(packed_voices).utterances.files()) == [os.fsencode(shard) for shard in shards]
    files = read_data_directory(folder).utterances.files()
    assert list(files) == [os.fsencode(folder / name) for name in ("a/1.wav", "a/2.wav", "b/3.wav")]
