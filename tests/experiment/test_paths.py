"""What an experiment keeps of where it was made."""

from pathlib import Path

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


def test_a_run_keeps_the_commit_of_a_checkout_and_none_of_an_installed_copy(tmp_path, monkeypatch):
    commit = paths._commit()
    if not (ROOT / ".git").exists():
        assert commit is None
        return
    assert len(commit.removesuffix("+")) == 40
    monkeypatch.setattr(paths, "__file__", str(tmp_path / "paths.py"))
    assert paths._commit() is None
