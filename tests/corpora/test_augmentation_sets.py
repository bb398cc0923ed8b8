"""MUSAN and RIRS_NOISES: their layouts to lists that augmentation reads."""

import tarfile
import zipfile
from hashlib import md5

import numpy as np
import pytest
from one_line import told

from spkver.corpora import augmentation_sets as module
from spkver.corpora.augmentation_sets import download_musan, download_rirs_noises, prepare_musan, prepare_rirs_noises
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
