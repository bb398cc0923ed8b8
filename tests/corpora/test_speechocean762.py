"""speechocean762: its layout to data directories, and its download (from a small copy on this disk)."""

import hashlib
import tarfile
from collections import Counter

import pytest
from one_line import told

from spkver.corpora import speechocean762 as corpus_module
from spkver.corpora.speechocean762 import (
    download_speechocean762,
    draw_trials,
    find_corpus,
    prepare_speechocean762,
    read_split,
)
from spkver.data.directory import read_data_directory, read_pairs
from spkver.data.trials import read_trials


def test_real_corpus_gives_its_published_counts_and_its_own_trials(speechocean762, tmp_path):
    report = prepare_speechocean762(speechocean762, tmp_path)
    assert (report.targets, report.nontargets, report.own_trials) == (12_500, 76_680, True)
    own, written = read_trials(speechocean762 / "test" / "trials"), read_trials(tmp_path / "test" / "trials")
    assert (written.enroll, written.test) == (own.enroll, own.test)
    assert written.labels.tolist() == own.labels.tolist()
    train, test = (read_data_directory(tmp_path / split) for split in ("train", "test"))
    assert len(train.speakers) == len(test.speakers) == 125
    assert len(train.utterances) == len(test.utterances) == 2500
    assert not set(train.speakers) & set(test.speakers)
    assert train.genders == read_pairs(speechocean762 / "train" / "spk2gender")
    assert all(utterance.path.is_absolute() for utterance in test.utterances)


def test_trials_drawn_for_the_real_corpus_have_the_make_of_its_own(speechocean762):
    """Counts by speaker, gender and age as in the corpus's own list; the pairs are others."""
    test = read_split(speechocean762, "test")
    ages = {speaker: int(age) for speaker, age in read_pairs(speechocean762 / "test" / "spk2age").items()}
    speaker = {utterance.id: utterance.speaker for utterance in test.utterances}

    def make(trials):
        counts = Counter()
        for enroll, tested, label in zip(trials.enroll, trials.test, trials.labels.tolist()):
            one, other = speaker[enroll], speaker[tested]
            assert enroll != tested and label == (one == other)
            assert test.genders[one] == test.genders[other] and (ages[one] < 18) == (ages[other] < 18)
            counts[tuple(sorted((one, other)))] += 1
        return counts

    drawn = draw_trials(test, ages)
    assert make(drawn) == make(read_trials(speechocean762 / "test" / "trials"))
    assert len(set(zip(drawn.enroll, drawn.test))) == len(drawn) == 89_180
    assert drawn.enroll == draw_trials(test, ages).enroll


def test_copy_without_trials_gets_drawn_ones(small_speechocean762, tmp_path):
    report = prepare_speechocean762(small_speechocean762, tmp_path / "data")
    # 3 pairs of each of 4 speakers; only c and d agree in gender and side of 18 years.
    assert (report.targets, report.nontargets, report.own_trials) == (12, 9, False)
    assert "4 training speakers (12 utterances) + 4 test speakers (12), 12 target + 9 nontarget" in str(report)
    trials = read_trials(tmp_path / "data" / "test" / "trials")
    assert {(a[0], b[0]) for a, b, label in zip(trials.enroll, trials.test, trials.labels) if not label} == {("c", "d")}


def test_corpus_is_found_directly_or_one_folder_below(small_speechocean762, tmp_path):
    assert find_corpus(small_speechocean762) == find_corpus(small_speechocean762.parent) == small_speechocean762
    assert "no speechocean762 here" in told(find_corpus, tmp_path)
    relative = prepare_speechocean762(small_speechocean762.parent, tmp_path / "data")
    data = read_data_directory(relative.folder / "test")
    assert data.utterances[0].path == small_speechocean762 / "WAVE" / "SPEAKERa1" / "a10.WAV"


@pytest.mark.parametrize("name", ["wav.scp", "utt2spk", "spk2gender", "spk2age"])
def test_missing_list_is_named(small_speechocean762, tmp_path, name):
    (small_speechocean762 / "test" / name).unlink()
    assert name in told(prepare_speechocean762, small_speechocean762, tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        (
            "wav.scp",
            "b12\tWAVE/SPEAKERb1/b12.WAV\n",
            "",
            "4 speakers and 11 utterances, published are 4 and 12",
        ),
        ("utt2spk", "b12 b1\n", "", "wav.scp:6: utterance 'b12' has no speaker"),
        ("utt2spk", "b12 b1\n", "b12 e1\n", "speaker 'e1' of 'b12' is not in spk2gender"),
        ("wav.scp", "b12.WAV", "b13.WAV", "b13.WAV is missing"),
        ("spk2age", "b1\t18\n", "", "no age of speaker 'b1'"),
        ("spk2age", "b1\t18\n", "b1\told\n", "the age 'old'"),
    ],
)
def test_fault_in_a_list_is_named(small_speechocean762, tmp_path, name, old, new, message):
    path = small_speechocean762 / "test" / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert message in told(prepare_speechocean762, small_speechocean762, tmp_path / "data")


def test_empty_audio_file_is_named(small_speechocean762, tmp_path):
    (small_speechocean762 / "WAVE" / "SPEAKERd0" / "d01.WAV").write_bytes(b"")
    assert "d01.WAV is empty" in told(prepare_speechocean762, small_speechocean762, tmp_path / "data")


def test_trial_of_an_unknown_utterance_is_named(small_speechocean762, tmp_path):
    (small_speechocean762 / "test" / "trials").write_text("1 a10 a11\n0 a10 x99\n")
    assert "trials:2: 'x99'" in told(prepare_speechocean762, small_speechocean762, tmp_path / "data")


@pytest.fixture
def archive(small_speechocean762, tmp_path):
    path = tmp_path / "published.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(small_speechocean762, "speechocean762")
    return path


def test_download_fetches_unpacks_and_checks(archive, tmp_path):
    size = archive.stat().st_size
    checksum = hashlib.sha256(archive.read_bytes()).hexdigest()
    root = download_speechocean762(tmp_path / "d", archive.as_uri(), checksum, size)
    assert root == tmp_path / "d" / "speechocean762"
    assert prepare_speechocean762(root, tmp_path / "data").targets == 12
    archive.unlink()
    assert download_speechocean762(tmp_path / "d", archive.as_uri(), checksum, size) == root


def test_download_of_something_else_is_refused(archive, tmp_path):
    other = {"url": archive.as_uri(), "size": archive.stat().st_size}
    assert "expected 520810923" in told(download_speechocean762, tmp_path / "1", url=archive.as_uri())
    assert "expected" in told(download_speechocean762, tmp_path / "2", **other, checksum="0" * 64)
    assert not (tmp_path / "2" / "speechocean762").exists()


def test_download_of_an_incomplete_corpus_is_refused(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_module, "SPLITS", {"train": (5, 15), "test": (4, 12)})
    assert "published are 5 and 15" in told(download_speechocean762, tmp_path / "d", archive.as_uri(), size=None)
