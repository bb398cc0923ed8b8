"""LibriSpeech (OpenSLR 12) and Mini LibriSpeech (OpenSLR 31): read audiobooks, 2,484 speakers, free and public.

Panayotov et al., "LibriSpeech: an ASR corpus based on public domain audio books", ICASSP 2015. It has no trial
lists; they are drawn by a seed, within one gender. A speaker's chapters are few, so many target trials are of one
session: its error rates are lower than those of recordings from different days.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spkver.corpora.audio_tree import audio_tree
from spkver.corpora.download import download
from spkver.corpora.published import Published, check_published, described, refuse_shared_speakers
from spkver.corpora.unpack import unpack
from spkver.data.directory import DataDirectory, Utterance, write_data_directory
from spkver.data.trial_making import make_trials
from spkver.data.trials import write_trials
from spkver.errors import SpkverError

_URL = "https://www.openslr.org/resources"


@dataclass(frozen=True)
class Subset:
    """A part of the corpus: its archive's place at OpenSLR, MD5 and counts."""

    resource: int
    md5: str
    published: Published


SUBSETS = {
    "train-clean-100": Subset(12, "2a93770f6d5c6c964bc36631d331a522", Published(251, 28_539)),
    "train-clean-360": Subset(12, "c0e676e450a7ff2f54aeade5171606fa", Published(921, 104_014)),
    "train-other-500": Subset(12, "d1a0fd59409feb2c614ce4d30c387708", Published(1_166, 148_688)),
    "dev-clean": Subset(12, "42e2234ba48799c1f50f24a7926300a1", Published(40, 2_703)),
    "dev-other": Subset(12, "c8d0bcc9cca99d4f8b62fcc847357931", Published(33, 2_864)),
    "test-clean": Subset(12, "32fa31d27d2e1cad72775fee3f4849a9", Published(40, 2_620)),
    "test-other": Subset(12, "fb5a50374b501bb3bac4815ee91d3135", Published(33, 2_939)),
    "train-clean-5": Subset(31, "5df7d4e78065366204ca6845bb08f490", Published(None, 1_519)),
    "dev-clean-2": Subset(31, "6d7ab67ac6a1d2c993d050e16d61080d", Published(None, 1_089)),
}


def prepare_librispeech(
    corpus: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    train: Sequence[str],
    test: Sequence[str],
    seed: int = 12,
    targets: int = 20_000,
    nontargets: int = 100_000,
    partial: bool = False,
) -> str:
    """Write the data directories ``folder/train`` and ``folder/test`` and a trial list of each test subset.

    Args:
        corpus: the folder that holds the subsets' folders, or ``LibriSpeech`` with them.
        train: subsets to train on.
        test: subsets to test on; a list has the subset's name.
        seed: of the trials.
        targets: at most so many of each list; nontargets likewise, all of one gender.
        partial: go on with an incomplete copy.

    Returns:
        What was written, in a few words.

    Raises:
        SpkverError: a subset is unknown, missing or incomplete, a speaker's gender is not known, or a speaker would
            be trained on and tested.
    """
    folder = Path(folder)
    subsets = {name: read_subset(corpus, name, partial) for name in [*train, *test]}
    train_data = _joined(folder / "train", [subsets[name] for name in train])
    test_data = _joined(folder / "test", [subsets[name] for name in test])
    refuse_shared_speakers(folder, train_data, test_data)
    trials = {}
    for name in test:
        utterances = subsets[name].utterances
        ids, speakers = [u.id for u in utterances], [u.speaker for u in utterances]
        trials[name] = make_trials(ids, speakers, seed, targets, nontargets, subsets[name].genders)
    for data in (train_data, test_data):
        write_data_directory(data.path, data.utterances, data.genders)
    for name in test:
        write_trials(test_data.path / name, trials[name])
    made = ", ".join(f"{name} ({len(trials[name]):,} trials)" for name in test)
    return f"{described(train_data)} to train on, {described(test_data)} to test, {made} -> {folder}"


def download_librispeech(folder: str | os.PathLike[str], names: Sequence[str], url: str = _URL) -> Path:
    """Fetch and unpack subsets to ``folder/NAME``; what is there already is not fetched again.

    Args:
        url: of OpenSLR's resources, or of a mirror laid out like it.

    Returns:
        ``folder``, for ``prepare_librispeech``.
    """
    folder = Path(folder)
    for name in names:
        subset = _known(name)
        if not (folder / name).exists():
            archive = folder / f"{name}.tar.gz"
            download(f"{url}/{subset.resource}/{name}.tar.gz", archive, checksum=subset.md5)
            unpack(archive, folder / name, top="LibriSpeech")
    return folder


def read_subset(corpus: str | os.PathLike[str], name: str, partial: bool = False) -> DataDirectory:
    """Read ``NAME/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NNNN.flac``, and hold it to its transcripts and counts."""
    subset, folder = _known(name), _find_subset(Path(corpus), name)
    genders, own = _read_speakers(folder.parent / "SPEAKERS.TXT", name)
    audio = audio_tree(folder, 2, (".flac", ".wav"))
    utterances = [Utterance(place.split("/")[2], path, place.partition("/")[0]) for place, path in audio.items()]
    here = {utterance.id for utterance in utterances}
    missing = {utt for path in sorted(folder.glob("*/*/*.trans.txt")) for utt in _transcribed(path)} - here
    missing |= {f"speaker {speaker}" for speaker in own - {utterance.speaker for utterance in utterances}}
    check_published(folder, utterances, subset.published, missing, partial)
    data = DataDirectory(folder, utterances)
    for speaker in data.speakers:
        if speaker not in genders:
            raise SpkverError(f"{folder.parent / 'SPEAKERS.TXT'}: no speaker '{speaker}', whom {folder} has")
        data.genders[speaker] = genders[speaker]
    return data


def _known(name: str) -> Subset:
    if name not in SUBSETS:
        raise SpkverError(f"librispeech: no subset '{name}'; choose of {', '.join(SUBSETS)}")
    return SUBSETS[name]


def _find_subset(corpus: Path, name: str) -> Path:
    """The subset's folder: as downloaded here, in ``LibriSpeech``, or right below."""
    for folder in (corpus / name / name, corpus / "LibriSpeech" / name, corpus / name):
        if folder.is_dir() and (folder.parent / "SPEAKERS.TXT").is_file():
            return folder
    raise SpkverError(
        f"{corpus}: no {name} here; looked for {name} or LibriSpeech/{name} with SPEAKERS.TXT beside it; "
        "leave --corpus away to download it"
    )


def _read_speakers(path: Path, subset: str) -> tuple[dict[str, str], set[str]]:
    """Speaker -> gender of all speakers, and the speakers of one subset: ``ID | SEX | SUBSET | ..`` a line."""
    genders, own = {}, set()
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if not line.strip() or line.startswith(";"):
            continue
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) < 3 or cells[1] not in ("F", "M"):
            raise SpkverError(f"{path}:{number}: expected 'ID | F or M | subset | ..', found '{line.strip()}'")
        genders[cells[0]] = cells[1].lower()
        if cells[2] == subset:
            own.add(cells[0])
    return genders, own


def _transcribed(path: Path) -> list[str]:
    """The utterances that a chapter's transcript names."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line.split(None, 1)[0] for line in lines if line.strip()]


def _joined(path: Path, parts: Sequence[DataDirectory]) -> DataDirectory:
    genders = {speaker: gender for part in parts for speaker, gender in part.genders.items()}
    return DataDirectory(path, [utterance for part in parts for utterance in part.utterances], genders)
