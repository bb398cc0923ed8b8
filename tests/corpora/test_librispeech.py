"""LibriSpeech: a miniature of its true layout to data directories and seeded trial lists, and its download."""

import hashlib
import shutil
import tarfile

import pytest
from one_line import told

from spkver.corpora import librispeech as corpus_module
from spkver.corpora.librispeech import SUBSETS, Subset, download_librispeech, prepare_librispeech
from spkver.corpora.published import Published
from spkver.data.directory import read_data_directory
from spkver.data.trials import read_trials

COUNTS = {"train-clean-100": (9, 45), "test-clean": (4, 20), "test-other": (4, 20)}


@pytest.fixture
def counted(monkeypatch):
    for name, counts in COUNTS.items():
        monkeypatch.setitem(SUBSETS, name, Subset(12, SUBSETS[name].md5, Published(*counts)))


@pytest.fixture
def copy(librispeech, tmp_path):
    return shutil.copytree(librispeech, tmp_path / "copy") / "LibriSpeech"


def test_counts_are_the_published_ones():
    whole = [subset.published for subset in SUBSETS.values() if subset.resource == 12]
    assert sum(counts.speakers for counts in whole) == 2484
    assert SUBSETS["train-clean-360"].published == Published(921, 104_014)
    assert {name for name, subset in SUBSETS.items() if subset.resource == 31} == {"train-clean-5", "dev-clean-2"}


def test_layout_becomes_data_directories_with_genders_and_a_list_a_test_subset(librispeech, counted, tmp_path):
    said = prepare_librispeech(librispeech, tmp_path, ["train-clean-100"], ["test-clean", "test-other"])
    assert said.startswith("9 speakers (45 utterances) to train on, 8 speakers (40 utterances) to test")
    train, test = (read_data_directory(tmp_path / split) for split in ("train", "test"))
    assert train.utterances[0].id == "19-198-0000" and train.utterances[0].speaker == "19"
    assert not set(train.speakers) & set(test.speakers)
    assert (train.genders["19"], train.genders["20"]) == ("m", "f")
    speaker = {utterance.id: utterance.speaker for utterance in test.utterances}
    for name in ("test-clean", "test-other"):
        trials = read_trials(tmp_path / "test" / name)
        assert int(trials.labels.sum()) == 4 * 10  # all pairs of five utterances
        assert len(trials) == 40 + 2 * 25  # two speakers of each gender
        for enroll, tested, label in zip(trials.enroll, trials.test, trials.labels.tolist()):
            one, other = speaker[enroll], speaker[tested]
            assert enroll != tested and label == (one == other)
            assert test.genders[one] == test.genders[other]
    assert not {speaker[u] for u in read_trials(tmp_path / "test" / "test-clean").enroll} & {
        speaker[u] for u in trials.enroll
    }


def test_trials_depend_on_the_seed_alone(librispeech, counted, tmp_path):
    def drawn(folder, seed):
        prepare_librispeech(librispeech, tmp_path / folder, ["train-clean-100"], ["test-clean"], seed, 15, 20)
        return (tmp_path / folder / "test" / "test-clean").read_text()

    first = drawn("a", 1)
    assert first.count(" target\n") == 15 and first.count(" nontarget\n") == 20
    assert drawn("b", 1) == first
    assert drawn("c", 2) != first


def test_missing_utterances_and_speakers_are_named(copy, counted, tmp_path, capsys):
    (copy / "test-clean" / "28" / "198" / "28-198-0001.flac").unlink()
    shutil.rmtree(copy / "test-clean" / "30")
    words = copy, tmp_path / "data", ["train-clean-100"], ["test-clean"]
    message = told(prepare_librispeech, *words)
    assert "3 speakers and 14 utterances, published are 4 speakers and 20 utterances" in message
    assert "missing: 28-198-0001, speaker 30; get what is missing" in message
    assert not (tmp_path / "data").exists()
    prepare_librispeech(*words, partial=True)
    assert "28-198-0001" in capsys.readouterr().err
    assert len(read_data_directory(tmp_path / "data" / "test").utterances) == 14


def test_a_speaker_in_training_and_test_is_refused(librispeech, counted, tmp_path):
    message = told(prepare_librispeech, librispeech, tmp_path, ["test-clean"], ["test-clean"])
    assert "28, 29, 30 and 1 more would be in the training and in the test set" in message


def test_unknown_and_absent_subsets_are_told(librispeech, counted, tmp_path):
    assert "no subset 'clean'; choose of train-clean-100" in told(
        prepare_librispeech, librispeech, tmp_path, ["clean"], []
    )
    message = told(prepare_librispeech, librispeech, tmp_path, ["train-clean-5"], ["test-clean"])
    assert "no train-clean-5 here" in message and "leave --corpus away" in message


def test_speakers_list_faults_are_told_with_their_line(copy, counted, tmp_path):
    words = copy, tmp_path / "data", ["train-clean-100"], ["test-clean"]
    text = (copy / "SPEAKERS.TXT").read_text()
    (copy / "SPEAKERS.TXT").write_text(text.replace("19   | M", "19   | X"))
    assert "SPEAKERS.TXT:2: expected 'ID | F or M | subset | ..'" in told(prepare_librispeech, *words)
    (copy / "SPEAKERS.TXT").write_text("".join(line for line in text.splitlines(True) if not line.startswith("19 ")))
    assert "SPEAKERS.TXT: no speaker '19', whom" in told(prepare_librispeech, *words)


def test_download_checks_unpacks_and_is_not_repeated(librispeech, counted, tmp_path, monkeypatch):
    remote = tmp_path / "remote" / "12"
    remote.mkdir(parents=True)
    for name in ("train-clean-100", "test-clean"):
        with tarfile.open(remote / f"{name}.tar.gz", "w:gz") as tar:
            for path in (librispeech / "LibriSpeech" / name, librispeech / "LibriSpeech" / "SPEAKERS.TXT"):
                tar.add(path, path.relative_to(librispeech))
        md5 = hashlib.md5((remote / f"{name}.tar.gz").read_bytes(), usedforsecurity=False).hexdigest()
        monkeypatch.setitem(SUBSETS, name, Subset(12, md5, Published(*COUNTS[name])))
    names, url = ["train-clean-100", "test-clean"], remote.parent.as_uri()
    corpus = download_librispeech(tmp_path / "downloads", names, url)
    prepare_librispeech(corpus, tmp_path / "data", names[:1], names[1:])
    assert len(read_data_directory(tmp_path / "data" / "train").utterances) == 45
    shutil.rmtree(remote)
    assert download_librispeech(tmp_path / "downloads", names, url) == corpus
    monkeypatch.setattr(corpus_module, "SUBSETS", {**SUBSETS, "test-other": Subset(12, "0" * 32, Published(4, 20))})
    remote.mkdir()
    (remote / "test-other.tar.gz").write_bytes(b"something else")
    assert "expected " + "0" * 32 in told(download_librispeech, tmp_path / "downloads", ["test-other"], url)
