"""recipes/own_folder from end to end, on made-up voices and with a tiny encoder.

The shell runs with a `spkver` that only notes its words; then each noted command is run in this process, in the
same order. That saves the start of thirty processes, and nothing of what they do.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from spkver.cli import main

ROOT = Path(__file__).resolve().parent.parent
TINY = [
    "data.crop_seconds=0.5", "data.workers=0", "model.channels=[8, 8]", "model.groups=4", "model.d_model=16",
    "model.n_layers=1", "model.n_heads=2", "model.feedforward=32", "training.epochs=1", "training.keep_last=1",
    "training.average_last=1", "training.precision=float32", "training.threads=1", "margin_schedule.start_epoch=0",
    "margin_schedule.end_epoch=1", "lr_schedule.warmup_epochs=0.5", "optimizer.lr=0.01", "scoring.bootstrap=20",
]  # fmt: skip


@pytest.fixture
def repository(tmp_path):
    """The recipe in a folder of its own, without .venv: what is installed here is used."""
    for part in ("common.sh", "own_folder"):
        source, target = ROOT / "recipes" / part, tmp_path / "recipes" / part
        shutil.copytree(source, target) if source.is_dir() else (target.parent.mkdir(), shutil.copy(source, target))
    noting = tmp_path / "bin" / "spkver"
    noting.parent.mkdir()
    noting.write_text(f"""#!{sys.executable}
import json, sys
with open({str(tmp_path / "noted")!r}, "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
""")
    noting.chmod(0o755)
    # Packages are not looked for: this process has what it needs.
    python = tmp_path / "bin" / "python3"
    python.write_text("#!/bin/sh\nexit 0\n")
    python.chmod(0o755)
    return tmp_path


def recipe(repository: Path, *words: str) -> subprocess.CompletedProcess:
    path = f"{repository / 'bin'}{os.pathsep}{os.environ['PATH']}"
    script = repository / "recipes" / "own_folder" / "run.sh"
    environment = {**os.environ, "PATH": path}
    return subprocess.run(["bash", str(script), *words], capture_output=True, text=True, timeout=60, env=environment)


def noted(repository: Path) -> list[list[str]]:
    return [json.loads(line) for line in (repository / "noted").read_text().splitlines()]


def test_from_a_folder_to_thresholds_and_a_page(repository, voices, monkeypatch, capsys):
    done = recipe(repository, "--audio", str(voices), "--min-seconds", "0.5", "--far", "0.05", *TINY)
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(repository)
    for words in noted(repository):
        assert main(words) == 0, words
    printed = capsys.readouterr().out
    assert "own_small.yaml, for 4 training speakers" in printed
    assert "own_folder_lmf, cosine+asnorm+calibration: accept from this score on" in printed
    assert "equal error" in printed and "--far 0.05" in printed
    assert printed.splitlines()[-1] == "exp/own_folder/report.html"
    assert (repository / "exp" / "own_folder" / "report.html").stat().st_size > 10_000
    for name, untrained in (("own_folder", {"untrained"}), ("own_folder_lmf", set())):
        (systems,) = json.loads((repository / "exp" / name / "metrics.json").read_text()).values()
        assert set(systems) == {"cosine", "cosine+asnorm", "cosine+asnorm+calibration"} | untrained
        assert all(0 <= record["eer"] <= 1 and len(record["eer_interval"]) == 2 for record in systems.values())


def test_options_of_the_preparing_are_handed_on_and_others_are_left_to_it(repository):
    done = recipe(repository, "--audio", "my audio", "--stop-stage", "0", "--speaker-level", "-1", "--seed", "5")
    assert done.returncode == 0, done.stderr
    expected = ["prepare", "folder", "data/own_folder", "--audio", "my audio", "--speaker-level", "-1", "--seed", "5"]
    assert noted(repository) == [expected]


def test_without_recordings_a_line_asks_for_them(repository):
    done = recipe(repository)
    assert done.returncode == 2
    assert "name your recordings by --audio DIR" in done.stderr
    assert done.stdout == "" and not (repository / "noted").exists()
