"""CN-Celeb: a miniature of its true layout to data directories, both enrolments, and its download in parts."""

import hashlib
import shutil
import tarfile

import pytest
from one_line import told

from spkver.corpora import cnceleb as corpus_module
from spkver.corpora.cnceleb import COUNTS, download_cnceleb, prepare_cnceleb
from spkver.corpora.published import Published
from spkver.data.directory import read_data_directory
from spkver.data.lookup import Rows
from spkver.data.trials import read_trials
from spkver.scoring.backends.enrolment import read_models


@pytest.fixture
def counted(monkeypatch):
    small = {"cn1": (4, 16), "cn2": (6, 18), "enrolment": (3, 3), "test": (3, 6)}
    monkeypatch.setattr(corpus_module, "COUNTS", {part: Published(*counts) for part, counts in small.items()})


@pytest.fixture
def copy(cnceleb, tmp_path):
    return shutil.copytree(cnceleb, tmp_path / "copy")


def test_counts_are_the_published_ones():
    assert COUNTS["cn1"].speakers + COUNTS["cn2"].speakers == 2793
    assert COUNTS["cn1"].utterances + COUNTS["cn2"].utterances == 632_740
    assert COUNTS["enrolment"].utterances * COUNTS["test"].utterances == 3_484_292  # every model with every test


def test_flac_files_stand_under_the_names_of_the_lists(cnceleb, counted, tmp_path):
    said = prepare_cnceleb(cnceleb, tmp_path)
    assert said.startswith(
        "10 speakers (34 utterances) to train on, 3 speakers (15 utterances) to test, 18 trials of 3"
    )
    train, test = (read_data_directory(tmp_path / split) for split in ("train", "test"))
    assert not set(train.speakers) & set(test.speakers)
    assert {utterance.id for utterance in test.utterances if utterance.speaker == "id00800"} == {
        "test/id00800-play-01-001.wav",
        "test/id00800-vlog-02-001.wav",
        "id00800-enroll",
        "id00800/singing-01-001.wav",
        "id00800/interview-02-013.wav",
    }
    assert all(utterance.path.suffix == ".flac" for utterance in [*train.utterances, *test.utterances])


def test_both_lists_have_the_corpus_trials_and_models_of_several_recordings(cnceleb, counted, tmp_path):
    prepare_cnceleb(cnceleb, tmp_path)
    test = read_data_directory(tmp_path / "test")
    one, several = (read_trials(tmp_path / "test" / name) for name in ("eval_concatenated", "eval_several"))
    assert (one.enroll, one.test, one.labels.tolist()) == (several.enroll, several.test, several.labels.tolist())
    for model, tested, label in zip(one.enroll, one.test, one.labels.tolist()):
        assert label == (model.removesuffix("-enroll") == tested.removeprefix("test/").partition("-")[0])
    models = read_models(tmp_path / "test" / "eval_several.enrolment", Rows([u.id for u in test.utterances], "wav.scp"))
    assert models.names == ["id00800-enroll", "id00801-enroll", "id00802-enroll"]
    assert models.counts.tolist() == [2, 2, 2]


@pytest.mark.parametrize("train, speakers", [("cn1", 4), ("cn2", 6)])
def test_either_part_can_be_trained_on_alone(copy, counted, tmp_path, train, speakers):
    if train == "cn1":
        shutil.rmtree(copy / "CN-Celeb2_flac")
    prepare_cnceleb(copy, tmp_path / "data", train)
    assert len(read_data_directory(tmp_path / "data" / "train").speakers) == speakers


def test_missing_recordings_are_named(copy, counted, tmp_path, capsys):
    shutil.rmtree(copy / "CN-Celeb_flac" / "data" / "id00002")
    message = told(prepare_cnceleb, copy, tmp_path / "data")
    assert "3 speakers and 12 utterances, published are 4 speakers and 16 utterances; missing: id00002" in message
    (copy / "CN-Celeb_flac" / "data" / "id00800" / "interview-02-013.flac").write_bytes(b"")
    (copy / "CN-Celeb_flac" / "eval" / "test" / "id00801-vlog-02-001.flac").unlink()
    (copy / "CN-Celeb_flac" / "eval" / "enroll" / "id00802-enroll.flac").unlink()
    assert not (tmp_path / "data").exists()
    prepare_cnceleb(copy, tmp_path / "data", partial=True)
    said = capsys.readouterr().err
    for name in (
        "id00002",
        "id00800/interview-02-013.wav",
        "test/id00801-vlog-02-001.wav",
        "enroll/id00802-enroll.wav",
    ):
        assert name in said
    assert len(read_trials(tmp_path / "data" / "test" / "eval_several")) == 2 * 5
    models = (tmp_path / "data" / "test" / "eval_several.enrolment").read_text().splitlines()
    assert models == [
        "id00800-enroll id00800/singing-01-001.wav",
        "id00801-enroll id00801/singing-01-001.wav id00801/interview-02-013.wav",
    ]


def test_faults_of_the_copy_and_its_lists_are_told(copy, counted, tmp_path):
    assert "no CN-Celeb_flac here" in told(prepare_cnceleb, tmp_path, tmp_path / "data")
    assert "--train cn3: unknown" in told(prepare_cnceleb, copy, tmp_path / "data", "cn3")
    lists = copy / "CN-Celeb_flac" / "eval" / "lists"
    trials = (lists / "trials.lst").read_text()
    (lists / "trials.lst").write_text(trials.replace(" 1\n", " yes\n", 1))
    assert "trials.lst:1: unknown label 'yes'" in told(prepare_cnceleb, copy, tmp_path / "data")
    (lists / "trials.lst").write_text(trials.replace(" 1\n", "\n", 1))
    assert "trials.lst:1: 2 columns; expected 3" in told(prepare_cnceleb, copy, tmp_path / "data")
    (lists / "enroll.map").unlink()
    assert "enroll.map: missing" in told(prepare_cnceleb, copy, tmp_path / "data")
    shutil.rmtree(copy / "CN-Celeb2_flac")
    assert "no CN-Celeb2_flac here" in told(prepare_cnceleb, copy, tmp_path / "data", "cn2")


def test_the_archive_in_parts_is_joined_checked_and_unpacked(cnceleb, counted, tmp_path, monkeypatch):
    remote, archives = tmp_path / "remote", {}
    remote.mkdir()
    for top, names in (("CN-Celeb_flac", ["cn-celeb_v2.tar.gz"]), ("CN-Celeb2_flac", list("abc"))):
        with tarfile.open(remote / "whole.tar.gz", "w:gz") as tar:
            tar.add(cnceleb / top, top)
        content = (remote / "whole.tar.gz").read_bytes()
        if len(names) > 1:
            names = [f"cn-celeb2_v2.tar.gza{letter}" for letter in names]
        size = -(-len(content) // len(names))
        archives[top] = {}
        for n, name in enumerate(names):
            part = content[n * size : (n + 1) * size]
            (remote / name).write_bytes(part)
            archives[top][name] = hashlib.md5(part, usedforsecurity=False).hexdigest()
    monkeypatch.setattr(corpus_module, "ARCHIVES", archives)
    corpus = download_cnceleb(tmp_path / "downloads", url=remote.as_uri())
    prepare_cnceleb(corpus, tmp_path / "data")
    assert len(read_data_directory(tmp_path / "data" / "train").speakers) == 10
    assert not (corpus / "cn-celeb2_v2.tar.gz").exists()
    shutil.rmtree(remote)
    assert download_cnceleb(tmp_path / "downloads", url=remote.as_uri()) == corpus
