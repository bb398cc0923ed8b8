"""What an experiment keeps of where it was made."""

import subprocess
from pathlib import Path

import pytest

import spkver
from spkver.experiment import paths
from spkver.experiment.paths import Experiment, describe_run

ROOT = Path(spkver.__file__).resolve().parents[1]


def test_a_run_keeps_no_absolute_path_and_finds_its_data_after_a_move(tmp_path, monkeypatch):
    (tmp_path / "here" / "data" / "train").mkdir(parents=True)
    experiment = Experiment(tmp_path / "here" / "exp" / "run")
    experiment.folder.mkdir(parents=True)
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/spkver", "train", "a file.yaml"])
    about = describe_run(experiment, tmp_path / "here" / "data" / "train", tmp_path / "here" / "exp" / "old" / "model")
    assert (about["data"], about["init"]) == ("../../data/train", "../old/model")
    assert about["command"] == "spkver train 'a file.yaml'"
    (tmp_path / "here").rename(tmp_path / "there")
    moved = Experiment(tmp_path / "there" / "exp" / "run")
    assert moved.recorded_path(about["data"]) == tmp_path / "there" / "data" / "train"
    assert moved.recorded_path("/as/before") == Path("/as/before")
    assert moved.recorded_path(None) is None


def test_a_run_from_a_checkout_keeps_its_commit_and_one_of_an_installed_copy_none(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "__file__", str(tmp_path / "paths.py"))
    assert paths._commit() is None
    monkeypatch.undo()
    asked = subprocess.run(["git", "-C", ROOT, "ls-files", "spkver/__init__.py"], capture_output=True)
    if asked.returncode or not asked.stdout:
        pytest.skip("needs the tests in a git checkout of spkver")
    head = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    assert paths._commit().removesuffix("+") == head
