"""speechocean762: 250 non-native readers of English, half of them children, 5.6 h (OpenSLR 101).

Zhang et al., "speechocean762: An Open-Source Non-native English Speech Corpus for Pronunciation Assessment",
Interspeech 2021. Small, free and quickly fetched, with disjoint training and test speakers, so it makes a
complete speaker verification experiment on real speech. All of a speaker's sentences are one session.
"""

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from spkver.corpora.download import download
from spkver.corpora.unpack import unpack
from spkver.data.directory import DataDirectory, Utterance, read_columns, read_pairs, write_data_directory
from spkver.data.trials import Trials, map_trials, read_trials, write_trials
from spkver.errors import SpkverError

NAME = "speechocean762"
URL = "https://www.openslr.org/resources/101/speechocean762.tar.gz"
SIZE = 520_810_923
"""Bytes of the archive, as the Kaldi recipe of the corpus's authors (egs/gop_speechocean762) checks them."""

SPLITS = {"train": (125, 2500), "test": (125, 2500)}
"""Speakers and utterances of each split."""

TRIALS_SEED = 762
TARGETS_PER_SPEAKER = 100
NONTARGETS_PER_SPEAKER_PAIR = 40
ADULT_YEARS = 18


@dataclass(frozen=True)
class Speechocean762:
    """What ``prepare_speechocean762`` wrote; its text is a line for the terminal."""

    folder: Path
    train_speakers: int
    train_utterances: int
    test_speakers: int
    test_utterances: int
    targets: int
    nontargets: int
    own_trials: bool

    def __str__(self) -> str:
        train = f"{self.train_speakers} training speakers ({self.train_utterances} utterances)"
        test = f"{self.test_speakers} test speakers ({self.test_utterances})"
        origin = "the corpus's" if self.own_trials else "drawn by seed"
        trials = f"{self.targets} target + {self.nontargets} nontarget trials ({origin})"
        return f"{train} + {test}, {trials} -> {self.folder}"


def prepare_speechocean762(corpus: str | Path, folder: str | Path) -> Speechocean762:
    """Write the data directories ``folder/train`` and ``folder/test`` and the list ``folder/test/trials``.

    The trials are the corpus's own ``test/trials`` where there is one, otherwise ``draw_trials``'s.

    Args:
        corpus: the folder that holds ``train/``, ``test/`` and ``WAVE/``, or the one above it.

    Raises:
        SpkverError: names the first file, speaker count or utterance count that is not as published.
    """
    root = find_corpus(corpus)
    folder = Path(folder)
    splits = {split: read_split(root, split) for split in SPLITS}
    test = splits["test"]
    own = root / "test" / "trials"
    if own.is_file():
        trials = read_trials(own)
    else:
        trials = draw_trials(test, read_ages(root / "test" / "spk2age", test.speakers))
    if trials.labels is None:
        raise SpkverError(f"{own}: its lines have no label; expected '1|0 enroll test'")
    map_trials(trials, [utterance.id for utterance in test.utterances], root / "test" / "wav.scp")
    for split, data in splits.items():
        write_data_directory(folder / split, data.utterances, data.genders)
    write_trials(folder / "test" / "trials", trials)
    targets = int(trials.labels.sum())
    return Speechocean762(
        folder,
        len(splits["train"].speakers),
        len(splits["train"].utterances),
        len(test.speakers),
        len(test.utterances),
        targets,
        len(trials) - targets,
        own.is_file(),
    )


def download_speechocean762(
    folder: str | Path, url: str = URL, checksum: str | None = None, size: int | None = SIZE
) -> Path:
    """Fetch and unpack the corpus to ``folder/speechocean762``; what is there already is not fetched again.

    No checksum of the archive is published. Without one the archive is held to its published size, gzip's own
    sums, and the counts of speakers, utterances and audio files that are not empty. The archive stays at
    ``folder/speechocean762.tar.gz`` and may be removed.

    Args:
        url: a mirror (``https`` or ``file``).
        checksum: SHA-256 or MD5 of the archive, if you have it from a source that you trust.
        size: bytes of the archive; None takes any.

    Returns:
        The corpus's folder, for ``prepare_speechocean762``.

    Raises:
        SpkverError: see ``download``, ``unpack`` and ``read_split``.
    """
    folder = Path(folder)
    root = folder / NAME
    if not root.exists():
        archive = download(url, folder / f"{NAME}.tar.gz", checksum=checksum, size=size)
        unpack(archive, root, top=NAME)
    for split in SPLITS:
        read_split(root, split)
    return root


def find_corpus(corpus: str | Path) -> Path:
    """The corpus's root: the folder given, or ``speechocean762`` in it."""
    corpus = Path(corpus)
    for root in (corpus, corpus / NAME):
        if all((root / split / "wav.scp").is_file() for split in SPLITS):
            return root
    raise SpkverError(
        f"{corpus}: no speechocean762 here (train/wav.scp and test/wav.scp are looked for); "
        "download it, or give the folder that holds it"
    )


def read_split(root: str | Path, split: str) -> DataDirectory:
    """Read ``train`` or ``test`` from the corpus, with absolute audio paths, and check the published counts.

    Paths in the corpus's ``wav.scp`` are relative to its root, not to the list as in a data directory.

    Raises:
        SpkverError: a list is missing, counts differ, an audio file is missing or empty, a gender is unknown.
    """
    root = Path(root).absolute()
    lists = root / split
    for name in ("wav.scp", "utt2spk", "spk2gender"):
        if not (lists / name).is_file():
            raise SpkverError(f"{lists / name}: missing; the corpus is incomplete, unpack it again")
    speaker_of = read_pairs(lists / "utt2spk")
    genders = read_pairs(lists / "spk2gender")
    utterances = []
    for line, utt, location in read_columns(lists / "wav.scp"):
        audio, where = root / location, f"{lists / 'wav.scp'}:{line}"
        if utt not in speaker_of:
            raise SpkverError(f"{where}: utterance '{utt}' has no speaker in utt2spk")
        if speaker_of[utt] not in genders:
            raise SpkverError(f"{where}: speaker '{speaker_of[utt]}' of '{utt}' is not in spk2gender")
        if not audio.is_file() or audio.stat().st_size == 0:
            fault = "empty" if audio.is_file() else "missing"
            raise SpkverError(f"{where}: audio file {audio} is {fault}; the corpus is incomplete, unpack it again")
        utterances.append(Utterance(utt, audio, speaker_of[utt]))
    data = DataDirectory(lists, utterances, genders)
    found = len(data.speakers), len(utterances)
    if found != SPLITS[split]:
        raise SpkverError(
            f"{lists}: {found[0]} speakers and {found[1]} utterances, published are {SPLITS[split][0]} and "
            f"{SPLITS[split][1]}; the corpus is incomplete, unpack it again"
        )
    return data


def draw_trials(test: DataDirectory, ages: dict[str, int]) -> Trials:
    """Draw the trial list of a copy that has none; always the same.

    For each speaker 100 of the pairs of its utterances, and for each two speakers of the same gender that
    are both under 18 years or both not, 40 of the pairs of their utterances; fewer where there are fewer. On
    the 125 test speakers that makes 12,500 target and 76,680 nontarget trials. The nontargets are hard, since
    neither gender nor age tells them.
    """
    rng = np.random.default_rng(TRIALS_SEED)
    utterances: dict[str, list[str]] = {speaker: [] for speaker in test.speakers}
    for utterance in test.utterances:
        utterances[utterance.speaker].append(utterance.id)
    group = {speaker: (test.genders[speaker], ages[speaker] < ADULT_YEARS) for speaker in test.speakers}
    targets, nontargets = [], []
    for own in utterances.values():
        targets += _some(list(combinations(own, 2)), TARGETS_PER_SPEAKER, rng)
    for one, other in combinations(test.speakers, 2):
        if group[one] == group[other]:
            pairs = [(enroll, test_) for enroll in utterances[one] for test_ in utterances[other]]
            nontargets += _some(pairs, NONTARGETS_PER_SPEAKER_PAIR, rng)
    enroll, tested = zip(*targets, *nontargets)
    return Trials.of(enroll, tested, np.repeat([1, 0], [len(targets), len(nontargets)]))


def read_ages(path: Path, speakers: list[str]) -> dict[str, int]:
    """Each speaker's age in years, from a split's ``spk2age``.

    Raises:
        SpkverError: the list or a speaker's age is missing, or an age is no whole number.
    """
    if not path.is_file():
        raise SpkverError(f"{path}: missing, and it is needed to draw trials of one age; unpack again")
    ages = {}
    for speaker, text in read_pairs(path).items():
        if not text.isdecimal():
            raise SpkverError(f"{path}: speaker '{speaker}' has the age '{text}'; expected whole years")
        ages[speaker] = int(text)
    for speaker in speakers:
        if speaker not in ages:
            raise SpkverError(f"{path}: no age of speaker '{speaker}'; unpack the corpus again")
    return ages


def _some(pairs: list[tuple[str, str]], count: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    drawn = rng.choice(len(pairs), min(count, len(pairs)), replace=False)
    return [pairs[index] for index in np.sort(drawn)]
