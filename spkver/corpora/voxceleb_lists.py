"""VoxCeleb's published lists: the trials Vox1-O, E and H, original and cleaned, and who is of which gender.

Nagrani et al., "VoxCeleb: Large-scale speaker verification in the wild", Computer Speech & Language 2020.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spkver.corpora.download import download
from spkver.corpora.published import named, tell_incomplete
from spkver.data.trials import Trials, read_trials
from spkver.errors import SpkverError

URL = "https://www.robots.ox.ac.uk/~vgg/data/voxceleb/meta"
_MOST_BYTES = 1 << 30  # of a list
_FOLDERS = ("", "meta", "voxceleb1", "voxceleb1/meta", "vox1", "vox1/meta", "voxceleb2", "vox2", "metadata")


@dataclass(frozen=True)
class PublishedTrials:
    """A list as it is published; ``all_speakers``: whether it takes all of VoxCeleb1, not its test speakers alone."""

    file: str
    md5: str
    targets: int
    nontargets: int
    all_speakers: bool


TRIALS = {
    "vox1_O": PublishedTrials("veri_test.txt", "29fc7cc1c5d59f0816dc15d6e8be60f7", 18_860, 18_860, False),
    "vox1_O_cleaned": PublishedTrials("veri_test2.txt", "b73110731c9223c1461fe49cb48dddfc", 18_802, 18_809, False),
    "vox1_E": PublishedTrials("list_test_all.txt", "b9ecf7aa49d4b656aa927a8092844e4a", 290_743, 290_737, True),
    "vox1_E_cleaned": PublishedTrials("list_test_all2.txt", "a53e059deb562ffcfc092bf5d90d9f3a", 289_921, 289_897, True),
    "vox1_H": PublishedTrials("list_test_hard.txt", "21c341b6b2168eea2634df0fb4b8fff1", 276_270, 276_266, True),
    "vox1_H_cleaned": PublishedTrials(
        "list_test_hard2.txt", "857790e09d579a68eb2e339a090343c8", 275_488, 275_406, True
    ),
}
"""The lists by the names that tables give them."""

META = {"vox1": "vox1_meta.csv", "vox2": "vox2_meta.csv"}


def find_list(corpus: Path, downloads: Path, file: str, md5: str | None = None) -> Path:
    """A published list: where a copy of the corpus has it, otherwise downloaded.

    Raises:
        SpkverError: it is not there and cannot be fetched.
    """
    for folder in _FOLDERS:
        if (corpus / folder / file).is_file():
            return corpus / folder / file
    try:
        return download(f"{URL}/{file}", downloads / file, checksum=md5, most_bytes=_MOST_BYTES)
    except SpkverError as error:
        raise SpkverError(f"{error} (or put {file} into {corpus})") from None


def read_vox1_trials(path: Path, published: PublishedTrials, known: Collection[str], partial: bool) -> Trials:
    """Read a list, hold it to its published counts, and every name to the utterances that there are.

    Args:
        path: of the list; LF or CRLF.
        published: what it should hold.
        known: utterance ids.
        partial: leave trials of missing utterances out and tell it, instead of an error.

    Raises:
        SpkverError: counts differ or utterances are missing without ``partial``; no trial is left.
    """
    trials = read_trials(path)
    if trials.labels is None:
        raise SpkverError(f"{path}: its lines have no label; expected '1|0 enroll test', as it is published")
    targets = int(trials.labels.sum())
    found = targets, len(trials) - targets
    if found != (published.targets, published.nontargets):
        expected = f"{published.targets:,} and {published.nontargets:,}"
        tell_incomplete(
            f"{path}: {found[0]:,} target and {found[1]:,} nontarget trials, published are {expected}", partial
        )
    names = trials.names.to_pylist()
    here = np.array([name in known for name in names])
    if here.all():
        return trials
    missing = [name for name, there in zip(names, here) if not there]
    tell_incomplete(f"{path}: {len(missing):,} of its utterances are not in the copy: {named(missing)}", partial)
    kept = np.flatnonzero(here[trials.enroll_index] & here[trials.test_index])
    if not kept.size:
        raise SpkverError(f"{path}: no trial is left, the copy has none of its pairs")
    return Trials(trials.names, trials.enroll_index[kept], trials.test_index[kept], trials.labels[kept])


def read_genders(path: Path) -> dict[str, str]:
    """Speaker -> ``m`` or ``f``, of ``vox1_meta.csv`` (tabs) or ``vox2_meta.csv`` (commas and blanks).

    Raises:
        SpkverError: names the line that is not as in these files.
    """
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    cells = [[cell.strip() for cell in line.replace("\t", ",").split(",")] for line in lines]
    if not cells or "Gender" not in cells[0]:
        raise SpkverError(f"{path}:1: no column 'Gender'; expected the file as VoxCeleb publishes it")
    column = cells[0].index("Gender")
    genders = {}
    for number, row in enumerate(cells[1:], start=2):
        if row == [""]:
            continue
        if len(row) <= column or row[column] not in ("m", "f"):
            raise SpkverError(f"{path}:{number}: no gender m or f in '{lines[number - 1].strip()}'")
        genders[row[0]] = row[column]
    return genders
