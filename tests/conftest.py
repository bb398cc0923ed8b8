"""What every test may use: made-up voices, a tiny configuration and its run, the folder of real speech.

Tests mean the same on every machine: they and the processes that they start see no GPU, and torch takes one thread.
Other forms of the suite are chosen from the shell (`tests/forms.sh` runs them all):

    SPKVER_TEST_THREADS=2       torch threads of a test; they would slow parallel test processes down many times over
    SPKVER_TEST_BFLOAT16=0|1    what the CPU is said to multiply in hardware, whatever it does
    SPKVER_TEST_GPU=1           leaves the GPUs in sight
    SPKVER_NATIVE=0             no kernels: read by spkver itself
"""

# ruff: noqa: E402 (libraries look at the environment when they are imported)
import os
import shutil
import signal
import subprocess
from concurrent.futures import Future
from pathlib import Path

# For child processes too.
THREADS = int(os.environ.get("SPKVER_TEST_THREADS", "1"))
os.environ["OMP_NUM_THREADS"] = str(THREADS)
# Threads that spin while they wait take the cores of the other test processes.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# UMAP on a few points takes a second as plain Python, and a minute to be compiled.
os.environ.setdefault("NUMBA_DISABLE_JIT", "1")
if os.environ.get("SPKVER_TEST_GPU") != "1":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import hypothesis
import numpy as np
import pytest
import soundfile
import torch

from spkver import native
from spkver.cli import main
from spkver.data.directory import Utterance, write_data_directory
from spkver.models import device

# What an example takes says how busy the machine is.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

if "SPKVER_TEST_BFLOAT16" in os.environ:
    device._has_bfloat16 = lambda _: os.environ["SPKVER_TEST_BFLOAT16"] == "1"

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(__file__).resolve().parent.parent / ".." / "shared" / "data"


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a GPU: SPKVER_TEST_GPU=1 on a machine with one")


@pytest.fixture(autouse=True)
def torch_threads():
    """The same number in each test, whatever the one before has set."""
    torch.set_num_threads(THREADS)


@pytest.fixture
def signals_as_in_a_terminal():
    """A background job is started with SIGINT ignored, and ``nohup`` ignores SIGHUP."""
    own = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in own.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(params=["torch", "kernels", "kernels on two threads"])
def way(request, monkeypatch):
    """Which of both ways `spkver.native`'s callers take: torch's, or that by kernels."""
    if request.param == "torch":
        monkeypatch.setattr(native, "AVAILABLE", False)
    elif not native.AVAILABLE:
        pytest.skip("needs the kernels of spkver.native: no C compiler was there when spkver was installed")
    if request.param.endswith("two threads"):
        torch.set_num_threads(2)
    return request.param


@pytest.fixture(scope="session")
def speechocean762() -> Path:
    """The corpus speechocean762 (real speech); the test skips where it is not on this machine."""
    folder = (SHARED / "speechocean762").resolve()
    if not folder.is_dir():
        pytest.skip(f"needs real speech: no folder {folder}")
    return folder


@pytest.fixture(scope="session")
def speech_commands() -> Path:
    """A part of the corpus Speech Commands (real words); the test skips where it is not on this machine."""
    folder = (SHARED / "speech_commands").resolve()
    if not folder.is_dir():
        pytest.skip(f"needs real speech: no folder {folder}")
    return folder


@pytest.fixture(scope="session")
def esc10() -> Path:
    """The noise corpus ESC-10; the test skips where it is not on this machine."""
    folder = (SHARED / "esc10").resolve()
    if not folder.is_dir():
        pytest.skip(f"needs real noise: no folder {folder}")
    return folder


@pytest.fixture
def in_this_process(monkeypatch):
    """The built-in corpus is recorded here instead of in worker processes, which take a second to start."""
    pytest.importorskip("espeakng_loader", reason="needs the synthesiser: pip install spkver[mini]")
    from spkver.corpora import mini
    from spkver.corpora.espeak_voices import Synthesiser

    class Pool:
        def __init__(self, *_, initargs, **__):
            monkeypatch.setattr(mini, "_synthesiser", Synthesiser(*initargs), raising=False)

        def submit(self, function, *arguments):
            job = Future()
            job.set_result(function(*arguments))
            return job

        def shutdown(self, **_):
            pass

    monkeypatch.setattr(mini, "ProcessPoolExecutor", Pool)


class Noted:
    """A copy of the recipes in which ``spkver`` and ``python3`` only note their words and where they were called.

    Args:
        root: the copy; has no .venv, so that what is on the path is used.
    """

    def __init__(self, root: Path):
        self.root = root
        shutil.copytree(ROOT / "recipes", root / "recipes", ignore=shutil.ignore_patterns("__pycache__", "*.png"))
        self.bin = root / "bin"
        self.bin.mkdir()
        self._file = root / "noted"
        for name in ("spkver", "python3"):
            program = self.bin / name
            # python3 is asked for packages, and this process has what it needs: "yes" without a word.
            noting = "" if name == "spkver" else "case $1 in -c) exit 0 ;; esac\n"
            program.write_text(
                f"#!/bin/sh\n{noting}printf '%s\\037' \"$PWD\" {name} \"$@\" >>'{self._file}'\n"
                f"printf '\\n' >>'{self._file}'\n"
            )
            program.chmod(0o755)

    def start(self, *words, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess:
        """Start a program in a folder (the copy itself by default)."""
        path = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            list(map(str, words)),
            capture_output=True,
            text=True,
            timeout=60,
            cwd=cwd or self.root,
            env={**os.environ, "PATH": path, **environment},
        )

    def recipe(self, name: str, *words, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess:
        return self.start("bash", self.root / "recipes" / name / "run.sh", *words, cwd=cwd, **environment)

    def calls(self) -> list[list[str]]:
        """What was called since the last time, each with its program first; all of it in the copy."""
        text = self._file.read_text() if self._file.exists() else ""
        self._file.unlink(missing_ok=True)
        calls = [line.split("\037")[:-1] for line in text.split("\n")[:-1]]
        assert all(Path(folder) == self.root for folder, *_ in calls)
        return [words for _, *words in calls]


@pytest.fixture
def noted(tmp_path) -> Noted:
    """The recipes, with a ``spkver`` that only notes what it is to do."""
    (tmp_path / "checkout").mkdir()
    return Noted(tmp_path / "checkout")


@pytest.fixture(scope="session")
def voices(tmp_path_factory) -> Path:
    """A data directory of ten made-up voices (harmonics under a voice's own formants), six short files each."""
    folder = tmp_path_factory.mktemp("voices")
    rng = np.random.default_rng(0)
    utterances = []
    for speaker in range(10):
        formants = rng.uniform(300, 3800, 4)
        f0 = rng.uniform(90, 220)
        for take in range(6):
            path = folder / "wav" / f"v{speaker}" / f"{take}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, _voice(f0, formants, rng.uniform(0.8, 1.5), rng), 16000)
            utterances.append(Utterance(f"v{speaker}-{take}", path, f"v{speaker}"))
    genders = {f"v{speaker}": "fm"[speaker % 2] for speaker in range(10)}
    write_data_directory(folder, utterances, genders=genders)
    return folder


def _voice(f0: float, formants: np.ndarray, seconds: float, rng: np.random.Generator) -> np.ndarray:
    time = np.arange(int(seconds * 16000)) / 16000
    glide = f0 * (1 + 0.1 * np.sin(2 * np.pi * rng.uniform(1, 4) * time))
    phase = 2 * np.pi * np.cumsum(glide) / 16000
    harmonics = np.arange(1, 30)
    loudness = np.exp(-(((harmonics[:, None] * f0 - formants) / 200) ** 2)).sum(1) + 0.02
    samples = (loudness[:, None] * np.sin(harmonics[:, None] * phase)).sum(0)
    samples += 0.05 * rng.standard_normal(len(samples))
    return 0.3 * samples / np.abs(samples).max()


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory) -> Path:
    """A configuration that trains in seconds on ``voices``."""
    path = tmp_path_factory.mktemp("conf") / "tiny.yaml"
    path.write_text(
        f"""
base: {Path(__file__).resolve().parent.parent / "conf" / "base.yaml"}
seed: 4  # errs now and then, as pictures and decisions need it
data: {{crop_seconds: 0.5, held_out_speakers: 3, workers: 0}}
batch: {{speakers: 6, utterances: 1}}
augment:
  speed_factors: [1.0, 0.9]
  babble: {{probability: 0.3}}
  reverb: {{probability: 0.3}}
model: {{channels: [8, 8], groups: 4, d_model: 16, n_layers: 1, n_heads: 2, feedforward: 32,
         pooling_hidden: 8, embed_dim: 16}}
optimizer: {{lr: 0.01}}
lr_schedule: {{warmup_epochs: 0.5}}
margin_schedule: {{start_epoch: 0, end_epoch: 2}}
training: {{epochs: 3, keep_last: 2, average_last: 2, precision: float32, device: cpu,
            threads: {THREADS}}}
scoring: {{bootstrap: 20}}
"""
    )
    return path


@pytest.fixture(scope="session")
def trained(tiny_config, voices, tmp_path_factory) -> Path:
    """The experiment of a finished tiny run, with its final model."""
    exp = tmp_path_factory.mktemp("exp") / "tiny"
    assert main(["train", str(tiny_config), "--data", str(voices), "--exp", str(exp)]) == 0
    assert main(["average", str(exp)]) == 0
    return exp


@pytest.fixture(scope="session")
def packed_voices(voices, tmp_path_factory) -> Path:
    """``voices`` in four shards."""
    folder = tmp_path_factory.mktemp("shards") / voices.name
    assert main(["pack", str(voices), str(folder), "--utterances-per-shard", "17"]) == 0
    return folder
