"""What tests of corpora share: miniatures, and a way to run a recipe quickly."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from miniatures import FFMPEG, make_cnceleb, make_librispeech, make_musan, make_rirs_noises, make_voxceleb
from spkver_server import CLIENT

from spkver.corpora import speechocean762 as speechocean762_module

ROOT = Path(__file__).resolve().parents[2]
GENDERS = {"a": "m", "b": "m", "c": "f", "d": "f"}
AGES = {"a": 17, "b": 18, "c": 9, "d": 10}


@pytest.fixture(scope="session")
def voxceleb(tmp_path_factory) -> Path:
    """A miniature of VoxCeleb1 and 2; the second in .m4a where ffmpeg is there to make and read it."""
    return make_voxceleb(tmp_path_factory.mktemp("voxceleb"), ".m4a" if FFMPEG else ".wav")


@pytest.fixture(scope="session")
def librispeech(tmp_path_factory) -> Path:
    return make_librispeech(tmp_path_factory.mktemp("librispeech"))


@pytest.fixture(scope="session")
def cnceleb(tmp_path_factory) -> Path:
    return make_cnceleb(tmp_path_factory.mktemp("cnceleb"))


@pytest.fixture
def small_speechocean762(tmp_path, monkeypatch):
    """A corpus in the published layout with 4 + 4 speakers of 3 utterances, audio named .WAV."""
    monkeypatch.setattr(speechocean762_module, "SPLITS", {"train": (4, 12), "test": (4, 12)})
    root = tmp_path / "source" / "speechocean762"
    for split, digit in (("train", 0), ("test", 1)):
        lists = {name: [] for name in ("wav.scp", "utt2spk", "spk2utt", "spk2gender", "spk2age", "text")}
        for letter in GENDERS:
            speaker = f"{letter}{digit}"
            lists["spk2gender"].append(f"{speaker} {GENDERS[letter]}")
            lists["spk2age"].append(f"{speaker}\t{AGES[letter]}")
            for n in range(3):
                path = f"WAVE/SPEAKER{speaker}/{speaker}{n}.WAV"
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_bytes(b"RIFF")
                lists["wav.scp"].append(f"{speaker}{n}\t{path}")
                lists["utt2spk"].append(f"{speaker}{n} {speaker}")
        (root / split).mkdir()
        for name, lines in lists.items():
            (root / split / name).write_text("".join(line + "\n" for line in lines))
    return root


@pytest.fixture(scope="session")
def musan(tmp_path_factory) -> Path:
    return make_musan(tmp_path_factory.mktemp("musan"))


@pytest.fixture(scope="session")
def rirs(tmp_path_factory) -> Path:
    return make_rirs_noises(tmp_path_factory.mktemp("rirs"))


@pytest.fixture(scope="session")
def run_recipe(tmp_path_factory):
    """``run_recipe(NAME, WORD, ..)`` runs a recipe of this repository in a folder of its own; its finished process."""
    folder = tmp_path_factory.mktemp("recipes")
    # Without .venv and conf: the environment that runs the tests, and its spkver.
    shutil.copytree(ROOT / "recipes", folder / "recipes", ignore=shutil.ignore_patterns("__pycache__", "*.png"))
    (folder / "spkver").symlink_to(ROOT / "spkver")
    address = folder / "socket"
    server = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("spkver_server.py"), address],
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert server.stdout.readline() == b"ready\n"
    client = folder / "client.py"
    client.write_text(CLIENT)
    function = f'() {{ "{sys.executable}" -I -S "{client}" "{address}" "$@"; }}'

    def run(name: str, *words: str) -> subprocess.CompletedProcess:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return subprocess.run(
            ["bash", folder / "recipes" / name / "run.sh", *map(str, words)],
            capture_output=True,
            text=True,
            timeout=600,
            env={**os.environ, "PATH": path, "BASH_FUNC_spkver%%": function},
        )

    yield run
    server.terminate()
    server.wait()
