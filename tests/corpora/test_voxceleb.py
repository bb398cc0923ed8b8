"""VoxCeleb: a miniature of its true layout to data directories and trial lists, and every fault by its name."""

import hashlib
import shutil
import subprocess

import numpy as np
import pytest
import soundfile
from miniatures import FFMPEG, make_voxceleb
from one_line import told

from spkver.corpora import convert as convert_module
from spkver.corpora import voxceleb as corpus_module
from spkver.corpora import voxceleb_lists
from spkver.corpora.convert import convert
from spkver.corpora.published import Published
from spkver.corpora.voxceleb import COUNTS, prepare_voxceleb
from spkver.corpora.voxceleb_lists import TRIALS, PublishedTrials
from spkver.data.audio import read_audio
from spkver.data.directory import read_data_directory
from spkver.data.trials import read_trials

needs_ffmpeg = pytest.mark.skipif(FFMPEG is None, reason="needs ffmpeg")


@pytest.fixture
def counted(monkeypatch):
    """The miniature's own counts in the place of the published ones."""
    small = {"vox1_dev": Published(3, 12), "vox1_test": Published(4, 16), "vox2": Published(10, 30)}
    monkeypatch.setattr(corpus_module, "COUNTS", small)
    for name, trials in TRIALS.items():
        n = 21 if trials.all_speakers else 12
        monkeypatch.setitem(TRIALS, name, PublishedTrials(trials.file, trials.md5, n, n, trials.all_speakers))


@pytest.fixture(scope="session")
def converted(voxceleb, tmp_path_factory):
    """Where the miniature's VoxCeleb2 is converted to, once."""
    folder = tmp_path_factory.mktemp("converted") / "vox2"
    prepare_voxceleb(voxceleb, folder.parent / "data", converted=folder, jobs=2, partial=True)
    return folder


@pytest.fixture
def wav_copy(tmp_path):
    """A copy of the miniature that may be broken, VoxCeleb2 converted already."""
    return make_voxceleb(tmp_path / "copy", ".wav")


def test_counts_are_the_published_ones():
    assert COUNTS["vox1_dev"] == Published(1_211, 148_642)
    assert COUNTS["vox1_dev"].utterances + COUNTS["vox1_test"].utterances == 153_516
    assert COUNTS["vox2"] == Published(5_994, 1_092_009)
    totals = {name: trials.targets + trials.nontargets for name, trials in TRIALS.items()}
    assert totals == {
        "vox1_O": 37_720,
        "vox1_O_cleaned": 37_611,
        "vox1_E": 581_480,
        "vox1_E_cleaned": 579_818,
        "vox1_H": 552_536,
        "vox1_H_cleaned": 550_894,
    }


def test_training_on_vox2_tests_on_all_of_vox1_with_every_list(voxceleb, converted, counted, tmp_path):
    said = prepare_voxceleb(voxceleb, tmp_path, converted=converted)
    assert said.startswith("10 speakers (30 utterances) to train on, 7 speakers (28 utterances) to test")
    train, test = (read_data_directory(tmp_path / split) for split in ("train", "test"))
    assert {utterance.id for utterance in train.utterances if utterance.speaker == "id00012"} == {
        "id00012/00-qODbtozw/00059.wav",
        "id00012/21Uxsk56VDQ/00001.wav",
        "id00012/21Uxsk56VDQ/00002.wav",
    }
    assert not set(train.speakers) & set(test.speakers)
    assert set(train.genders.values()) == {"m", "f"} and set(train.genders) == set(train.speakers)
    assert test.genders["id10001"] == "m" and test.genders["id10269"] == "f"
    ids = {utterance.id for utterance in test.utterances}
    for name, published in TRIALS.items():
        trials = read_trials(tmp_path / "test" / name)
        assert (int(trials.labels.sum()), len(trials)) == (published.targets, 2 * published.targets)
        assert set(trials.enroll) | set(trials.test) <= ids
        original = (voxceleb / published.file).read_text().splitlines()
        assert original[3].split()[1:] == [trials.enroll[3], trials.test[3]]


@pytest.mark.parametrize("train, speakers", [("vox1", 3), ("vox1+vox2", 13)])
def test_vox1_in_training_leaves_its_test_speakers_and_vox1_o_alone(
    voxceleb, converted, counted, tmp_path, train, speakers
):
    prepare_voxceleb(voxceleb, tmp_path, train, converted=converted)
    data, test = (read_data_directory(tmp_path / split) for split in ("train", "test"))
    assert len(data.speakers) == speakers
    assert test.speakers == ["id10270", "id10271", "id10272", "id10273"]
    assert sorted(p.name for p in (tmp_path / "test").glob("vox1_*")) == ["vox1_O", "vox1_O_cleaned"]
    message = told(prepare_voxceleb, voxceleb, tmp_path, train, ["vox1_O", "vox1_H"])
    assert message.startswith("--lists vox1_H: takes all speakers of VoxCeleb1")
    assert "--train vox2" in message


@needs_ffmpeg
def test_m4a_becomes_flac_of_the_same_sound_and_what_is_whole_is_not_done_again(voxceleb, converted, counted, tmp_path):
    ours = shutil.copytree(converted, tmp_path / "vox2")
    files = sorted(ours.rglob("*.*"))
    assert len(files) == 30 and {path.suffix for path in files} == {".flac"}
    source = next((voxceleb / "voxceleb2" / "dev" / "aac").rglob("*.m4a"))
    raw = subprocess.run(
        [FFMPEG, "-v", "error", "-i", source, "-ac", "1", "-ar", "16000", "-f", "s16le", "-"], capture_output=True
    ).stdout
    name = source.relative_to(voxceleb / "voxceleb2" / "dev" / "aac").with_suffix(".flac")
    expected = np.frombuffer(raw, np.int16) / 32768
    assert np.array_equal(read_audio(ours / name, 16000), expected.astype(np.float32))

    before = {path: path.stat().st_mtime_ns for path in files}
    files[3].unlink()
    files[5].write_bytes(b"")  # as a machine that stopped may leave it
    prepare_voxceleb(voxceleb, tmp_path / "data", converted=ours)
    again = {path: path.stat().st_mtime_ns for path in files}
    assert [n for n, path in enumerate(files) if again[path] != before[path]] == [3, 5]
    assert soundfile.info(files[5]).frames > 0


@needs_ffmpeg
def test_a_file_that_cannot_be_converted_is_named_and_leaves_nothing_behind(
    voxceleb, converted, counted, tmp_path, capsys
):
    copy, ours = shutil.copytree(voxceleb, tmp_path / "copy"), shutil.copytree(converted, tmp_path / "vox2")
    bad = copy / "voxceleb2" / "dev" / "aac" / "id00012" / "21Uxsk56VDQ" / "00001.m4a"
    bad.write_bytes(bad.read_bytes()[:200])
    (ours / "id00012" / "21Uxsk56VDQ" / "00001.flac").unlink()
    message = told(prepare_voxceleb, copy, tmp_path / "data", converted=ours)
    assert message.startswith(f"{bad}: cannot be converted, ffmpeg says: ")
    assert "--partial" in message
    assert not list((ours / "id00012" / "21Uxsk56VDQ").glob("*00001*"))
    assert not (tmp_path / "data").exists()
    prepare_voxceleb(copy, tmp_path / "data", converted=ours, partial=True)
    assert len(read_data_directory(tmp_path / "data" / "train").utterances) == 29
    assert str(bad) in capsys.readouterr().err


def test_without_ffmpeg_it_is_said_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(convert_module.shutil, "which", lambda name: None)
    message = told(convert, [(tmp_path / "a.m4a", tmp_path / "a.flac")])
    assert "a.m4a: ffmpeg is needed to convert 1 files" in message
    assert "apt-get install ffmpeg" in message
    (tmp_path / "a.flac").write_bytes(b"whole")
    assert convert([(tmp_path / "a.m4a", tmp_path / "a.flac")]) == {}


def test_folders_may_be_called_as_people_call_them(wav_copy, counted, tmp_path):
    (wav_copy / "voxceleb1").rename(wav_copy / "VoxCeleb1_wav")
    for split in ("dev", "test"):
        (wav_copy / "VoxCeleb1_wav" / split / "wav").rename(wav_copy / f"{split}-speakers")
        (wav_copy / "VoxCeleb1_wav" / split).rmdir()
        for speaker in (wav_copy / f"{split}-speakers").iterdir():
            speaker.rename(wav_copy / "VoxCeleb1_wav" / speaker.name)
    (wav_copy / "voxceleb2" / "dev" / "wav").rename(wav_copy / "vox2")
    prepare_voxceleb(wav_copy, tmp_path / "data")
    assert len(read_data_directory(tmp_path / "data" / "train").utterances) == 30
    assert len(read_data_directory(tmp_path / "data" / "test").utterances) == 28


def test_an_incomplete_copy_is_refused_with_its_counts_and_goes_on_with_partial(wav_copy, counted, tmp_path, capsys):
    gone = wav_copy / "voxceleb1" / "test" / "wav" / "id10271" / "-7gKbxbC9Ag" / "00002.wav"
    gone.write_bytes(b"")  # as a broken unpacking leaves it
    message = told(prepare_voxceleb, wav_copy, tmp_path / "data")
    assert "VoxCeleb1 test): 4 speakers and 15 utterances, published are 4 speakers and 16 utterances" in message
    assert not (tmp_path / "data").exists()
    gone.unlink()
    prepare_voxceleb(wav_copy, tmp_path / "data", lists=["vox1_O"], partial=True)
    assert "its utterances are not in the copy: id10271/-7gKbxbC9Ag/00002.wav" in capsys.readouterr().err
    trials = read_trials(tmp_path / "data" / "test" / "vox1_O")
    assert len(trials) == 23
    assert "id10271/-7gKbxbC9Ag/00002.wav" not in trials.enroll + trials.test


def test_what_is_not_there_is_told_with_where_to_get_it(wav_copy, counted, tmp_path, monkeypatch):
    assert "https://mm.kaist.ac.kr/datasets/voxceleb/" in told(prepare_voxceleb, None, tmp_path)
    assert "no VoxCeleb1 here; looked for speakers such as voxceleb1/dev/wav/id10001" in told(
        prepare_voxceleb, tmp_path, tmp_path / "data"
    )
    assert "--train vox3: unknown" in told(prepare_voxceleb, wav_copy, tmp_path, "vox3")
    assert "--lists vox1_o: unknown" in told(prepare_voxceleb, wav_copy, tmp_path, "vox2", ["vox1_o"])
    shutil.rmtree(wav_copy / "voxceleb2")
    assert "no VoxCeleb2 here" in told(prepare_voxceleb, wav_copy, tmp_path / "data")
    monkeypatch.setattr(voxceleb_lists, "URL", (tmp_path / "nowhere").as_uri())
    (wav_copy / "veri_test2.txt").unlink()
    message = told(prepare_voxceleb, wav_copy, tmp_path / "data", "vox1", downloads=tmp_path)
    assert "veri_test2.txt" in message and f"(or put veri_test2.txt into {wav_copy})" in message


def test_a_list_that_the_copy_lacks_is_downloaded_and_held_to_its_checksum(wav_copy, counted, tmp_path, monkeypatch):
    remote = tmp_path / "remote"
    remote.mkdir()
    shutil.move(wav_copy / "veri_test.txt", remote / "veri_test.txt")
    monkeypatch.setattr(voxceleb_lists, "URL", remote.as_uri())
    options = {"train": "vox1", "lists": ["vox1_O"], "downloads": tmp_path / "downloads"}
    assert "expected 29fc7cc1c5d59f0816dc15d6e8be60f7" in told(prepare_voxceleb, wav_copy, tmp_path / "data", **options)
    right = hashlib.md5((remote / "veri_test.txt").read_bytes(), usedforsecurity=False).hexdigest()
    monkeypatch.setitem(TRIALS, "vox1_O", PublishedTrials("veri_test.txt", right, 12, 12, False))
    prepare_voxceleb(wav_copy, tmp_path / "data", **options)
    assert len(read_trials(tmp_path / "data" / "test" / "vox1_O")) == 24


@pytest.mark.parametrize(
    "file, content, expected",
    [
        ("veri_test.txt", "1 a b\n2 a b\n", "veri_test.txt:2: unknown label"),
        ("veri_test.txt", "a b\n", "its lines have no label"),
        ("vox1_meta.csv", "ID\tSex\nid10001\tm\n", "vox1_meta.csv:1: no column 'Gender'"),
        ("vox1_meta.csv", "VoxCeleb1 ID\tVGGFace1 ID\tGender\nid10001\tA\tx\n", "vox1_meta.csv:2: no gender m or f"),
    ],
)
def test_a_damaged_list_is_told_with_its_line(wav_copy, counted, tmp_path, file, content, expected):
    (wav_copy / file).write_text(content)
    assert expected in told(prepare_voxceleb, wav_copy, tmp_path / "data", "vox1")
