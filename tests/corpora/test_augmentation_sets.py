"""MUSAN and RIRS_NOISES: their layouts to lists that augmentation reads."""

import tarfile
import zipfile
from hashlib import md5

import numpy as np
import pytest
import soundfile
from one_line import told

from spkver.corpora import augmentation_sets as module
from spkver.corpora.augmentation_sets import (
    download_esc50,
    download_musan,
    download_rirs_noises,
    prepare_esc10,
    prepare_musan,
    prepare_rirs_noises,
)
from spkver.data.recordings import Recordings


@pytest.fixture
def counted(monkeypatch):
    monkeypatch.setattr(module, "MUSAN_COUNTS", dict.fromkeys(module.MUSAN_COUNTS, 2))
    monkeypatch.setattr(module, "RIRS_COUNTS", dict.fromkeys(module.RIRS_COUNTS, 2))


def test_counts_are_the_published_ones():
    assert sum(module.MUSAN_COUNTS.values()) == 2016
    assert sum(module.RIRS_COUNTS.values()) == 60_000


def test_lists_of_musan_hold_its_audio_and_can_be_drawn_from(musan, counted, tmp_path):
    prepare_musan(musan.parent, tmp_path)
    lines = {
        name: (tmp_path / name).read_text().splitlines() for name in ("noise", "music", "speech", "noise_and_music")
    }
    assert {name: len(rows) for name, rows in lines.items()} == {
        "noise": 2,
        "music": 2,
        "speech": 2,
        "noise_and_music": 4,
    }
    assert lines["music"][0] == f"music/fma/music-fma-0000 {musan / 'music' / 'fma' / 'music-fma-0000.wav'}"
    crop = Recordings(tmp_path / "noise_and_music", 16000, 8000).draw_crop(np.random.default_rng(0))
    assert crop.shape == (8000,) and crop.std() > 0.01


def test_lists_of_rooms_hold_simulated_ones_alone(rirs, counted, tmp_path):
    prepare_rirs_noises(rirs, tmp_path)
    names = [line.split()[0] for line in (tmp_path / "simulated_rirs").read_text().splitlines()]
    assert len(names) == 6 and names[-1] == "largeroom/Room002/Room002-00001"
    assert len((tmp_path / "small_and_medium_rirs").read_text().splitlines()) == 4
    assert len((tmp_path / "pointsource_noises").read_text().splitlines()) == 1
    assert Recordings(tmp_path / "simulated_rirs", 16000).draw(np.random.default_rng(0)).shape == (1600,)


def test_incomplete_copies_are_told_by_category(musan, rirs, tmp_path, capsys):
    message = told(prepare_musan, musan, tmp_path)
    assert "noise 2 of 930, music 2 of 660, speech 2 of 426" in message and "--partial" in message
    assert "smallroom 2 of 20,000" in told(prepare_rirs_noises, rirs, tmp_path)
    assert "no musan here" in told(prepare_musan, rirs, tmp_path)
    assert not list(tmp_path.iterdir())
    prepare_musan(musan, tmp_path, partial=True)
    assert "music 2 of 660" in capsys.readouterr().err


def test_both_are_downloaded_checked_and_unpacked(musan, rirs, counted, tmp_path, monkeypatch):
    with tarfile.open(tmp_path / "musan.tar.gz", "w:gz") as tar:
        tar.add(musan, "musan")
    with zipfile.ZipFile(tmp_path / "rirs_noises.zip", "w") as archive:
        for path in sorted(rirs.rglob("*.wav")):
            archive.write(path, path.relative_to(rirs.parent))
    for name, file in (("MUSAN_MD5", "musan.tar.gz"), ("RIRS_MD5", "rirs_noises.zip")):
        monkeypatch.setattr(module, name, md5((tmp_path / file).read_bytes(), usedforsecurity=False).hexdigest())
    for _ in range(2):  # the second time from what is there
        got = download_musan(tmp_path / "d", (tmp_path / "musan.tar.gz").as_uri())
        assert "noise (2 files)" in prepare_musan(got, tmp_path / "lists")
        got = download_rirs_noises(tmp_path / "d", (tmp_path / "rirs_noises.zip").as_uri())
        assert "simulated_rirs (6 files)" in prepare_rirs_noises(got, tmp_path / "lists")


@pytest.fixture
def esc50(tmp_path):
    """ESC-50 with three clips, two of which are in ESC-10."""
    root = tmp_path / "ESC-50-master"
    (root / "audio").mkdir(parents=True)
    (root / "meta").mkdir()
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    for number, free in enumerate(["True", "False", "True"]):
        soundfile.write(
            root / "audio" / f"1-{number}-A.wav", 0.1 * np.random.default_rng(number).standard_normal(800), 16000
        )
        rows.append(f"1-{number}-A.wav,1,{number},dog,{free},{number},A")
    (root / "meta" / "esc50.csv").write_text("\n".join(rows) + "\n")
    return root


def test_of_esc50_only_the_free_clips_are_listed(esc50, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ESC10_COUNTS", {"clips": 2})
    prepare_esc10(esc50, tmp_path / "lists")
    names = [line.split()[0] for line in (tmp_path / "lists" / "noise").read_text().splitlines()]
    assert names == ["audio/1-0-A", "audio/1-2-A"]
    (esc50 / "meta" / "esc50.csv").write_text("file,fold\n1-0-A.wav,1\n")
    assert "esc50.csv: is not ESC-50's table" in told(prepare_esc10, esc50, tmp_path / "lists")


def test_esc10_alone_is_its_folders_and_counted(esc50, tmp_path):
    (esc50 / "meta" / "esc50.csv").unlink()
    assert "clips 3 of 400" in told(prepare_esc10, esc50, tmp_path / "lists")
    prepare_esc10(esc50, tmp_path / "lists", partial=True)
    assert len((tmp_path / "lists" / "noise").read_text().splitlines()) == 3


def test_esc50_is_unpacked_under_its_name(esc50, tmp_path):
    archive = tmp_path / "esc50.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        for path in sorted(esc50.rglob("*.*")):
            zipped.write(path, f"ESC-50-master/{path.relative_to(esc50)}")
    root = download_esc50(tmp_path / "downloads", archive.as_uri())
    assert root == tmp_path / "downloads" / "ESC-50" and (root / "meta" / "esc50.csv").is_file()
