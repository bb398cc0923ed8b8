"""CN-Celeb 1 and 2 (OpenSLR 82): 3,000 Chinese celebrities in eleven genres, from interviews to singing; public.

Fan et al., ICASSP 2020; Li et al., "CN-Celeb: multi-genre speaker recognition", Speech Communication 2022. A speaker
of the evaluation set is enrolled from several recordings: the corpus has them one by one (``enroll.map``) and joined
to one file (``eval/enroll``). Both give a trial list here. Genders are not published.

The lists name files ``.wav`` while the archives of version 2 hold ``.flac``; an utterance's id is its name
in the lists.
"""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from spkver.corpora.audio_tree import audio_tree
from spkver.corpora.download import download
from spkver.corpora.published import (
    Published,
    check_published,
    described,
    named,
    refuse_shared_speakers,
    tell_incomplete,
)
from spkver.corpora.unpack import unpack
from spkver.data.directory import DataDirectory, Utterance, write_data_directory
from spkver.data.text_tables import table_rows
from spkver.data.trials import Trials, write_trials
from spkver.errors import SpkverError
from spkver.files import atomic_write

URL = "https://www.openslr.org/resources/82"
ARCHIVES = {
    "CN-Celeb_flac": {"cn-celeb_v2.tar.gz": "7ab1b214028a7439e26608b2d5a0336c"},
    "CN-Celeb2_flac": {
        "cn-celeb2_v2.tar.gzaa": "4cdf738cff565ce35ad34274848659c3",
        "cn-celeb2_v2.tar.gzab": "4ff59a7009b79ef7043498ad3882b81b",
        "cn-celeb2_v2.tar.gzac": "3aa8e6e7f7ec4382f9926b1b31498228",
    },
}
"""Top folder -> the files of its archive with their MD5; the second one comes cut into three."""

COUNTS = {
    "cn1": Published(797, 107_953),
    "cn2": Published(1_996, 524_787),
    "enrolment": Published(196, 196),
    "test": Published(200, 17_777),
}
"""Of version 2, which OpenSLR has: what CNSRC 2022 calls CN-Celeb.T (the first two) and CN-Celeb.E."""

TRAINING_SETS = ("cn1+cn2", "cn1", "cn2")
CONCATENATED, SEVERAL = "eval_concatenated", "eval_several"
"""The trial lists: enrolment from one joined file, and from several, named in ``eval_several.enrolment``."""

_ROOTS = {"cn1": ("CN-Celeb_flac", "CN-Celeb", "CN-Celeb_wav"), "cn2": ("CN-Celeb2_flac", "CN-Celeb2", "CN-Celeb2_wav")}
_AUDIO = (".flac", ".wav")


def prepare_cnceleb(
    corpus: str | os.PathLike[str], folder: str | os.PathLike[str], train: str = "cn1+cn2", partial: bool = False
) -> str:
    """Write the data directories ``folder/train`` and ``folder/test``, both trial lists and the enrolment.

    Args:
        corpus: the folder that holds ``CN-Celeb_flac`` and, where it is trained on, ``CN-Celeb2_flac``.
        train: one of ``TRAINING_SETS``.
        partial: go on with an incomplete copy.

    Returns:
        What was written, in a few words.

    Raises:
        SpkverError: a part is missing or incomplete, a list is not as published.
    """
    if train not in TRAINING_SETS:
        raise SpkverError(f"--train {train}: unknown; choose one of {', '.join(TRAINING_SETS)}")
    corpus, folder = Path(corpus).absolute(), Path(folder)
    cn1 = _find(corpus, "cn1")
    training = []
    if "cn1" in train:
        training += _read_speakers(cn1, cn1 / "dev" / "dev.lst", "cn1", partial)
    if "cn2" in train:
        cn2 = _find(corpus, "cn2")
        training += _read_speakers(cn2, cn2 / "spk.lst", "cn2", partial)
    evaluation = _Evaluation(cn1, partial)
    train_data = DataDirectory(folder / "train", training)
    test_data = DataDirectory(folder / "test", evaluation.utterances)
    refuse_shared_speakers(folder, train_data, test_data)
    for data in (train_data, test_data):
        write_data_directory(data.path, data.utterances)
    for name in (CONCATENATED, SEVERAL):
        write_trials(test_data.path / name, evaluation.trials)
    with atomic_write(test_data.path / f"{SEVERAL}.enrolment") as file:
        file.writelines(f"{model} {' '.join(utts)}\n" for model, utts in evaluation.models.items())
    return (
        f"{described(train_data)} to train on, {described(test_data)} to test, {len(evaluation.trials):,} trials of "
        f"{len(evaluation.models)} models -> {folder}"
    )


def download_cnceleb(folder: str | os.PathLike[str], train: str = "cn1+cn2", url: str = URL) -> Path:
    """Fetch and unpack the corpus into ``folder``; what is there already is not fetched again.

    Args:
        train: CN-Celeb2 is fetched only if it is trained on.
        url: of OpenSLR's resource 82, or of a mirror.

    Returns:
        ``folder``, for ``prepare_cnceleb``.
    """
    folder = Path(folder)
    for top, files in ARCHIVES.items():
        if (folder / top).exists() or (top == "CN-Celeb2_flac" and "cn2" not in train):
            continue
        parts = [download(f"{url}/{file}", folder / file, checksum=md5) for file, md5 in files.items()]
        archive = parts[0] if len(parts) == 1 else _join(parts)
        unpack(archive, folder / top, top=top)
        if len(parts) > 1:
            archive.unlink()
    return folder


def _join(parts: list[Path]) -> Path:
    """The parts of a cut archive as one file beside them."""
    archive = parts[0].with_suffix(".gz")
    with atomic_write(archive, "wb") as out:
        for part in parts:
            with open(part, "rb") as file:
                while block := file.read(1 << 20):
                    out.write(block)
    return archive


def _find(corpus: Path, part: str) -> Path:
    for root in (corpus, *(corpus / name for name in _ROOTS[part])):
        if (root / "data").is_dir() and (root / "eval").is_dir() == (part == "cn1"):
            return root
    raise SpkverError(
        f"{corpus}: no {_ROOTS[part][0]} here (a folder with data/{' and eval/' if part == 'cn1' else ''}); "
        "give the folder that holds it, or leave --corpus away to download it"
    )


def _read_speakers(root: Path, speaker_list: Path, part: str, partial: bool) -> list[Utterance]:
    """The recordings ``data/SPEAKER/GENRE-SESSION-NNN`` of the listed speakers."""
    wanted = [columns[0] for _, columns in _rows(speaker_list, 1)]
    utterances, missing = [], []
    for speaker in wanted:
        audio = audio_tree(root / "data" / speaker, 0, _AUDIO)
        utterances += [Utterance(f"{speaker}/{name}.wav", path, speaker) for name, path in audio.items()]
        if not audio:
            missing.append(speaker)
    check_published(root / "data", utterances, COUNTS[part], missing, partial)
    return utterances


class _Evaluation:
    """The evaluation set of CN-Celeb1: recordings, models and trials, without what the copy does not have."""

    def __init__(self, root: Path, partial: bool) -> None:
        self.partial, lists = partial, root / "eval" / "lists"
        joined = self._found(root / "eval", ((m, f) for _, (m, f) in _rows(lists / "enroll.lst", 2)))
        check_published(root / "eval" / "enroll", joined, COUNTS["enrolment"], partial=partial)
        audio = audio_tree(root / "eval" / "test", 0, _AUDIO)
        test = [Utterance(f"test/{name}.wav", path, name.partition("-")[0]) for name, path in audio.items()]
        check_published(root / "eval" / "test", test, COUNTS["test"], partial=partial)

        listed = {columns[0]: columns[1:] for _, columns in _rows(lists / "enroll.map")}
        wanted = dict.fromkeys(utt for utts in listed.values() for utt in utts)
        single = self._found(root / "data", ((_as_wav(utt), utt) for utt in wanted))
        here = {utterance.id for utterance in single}
        models = {model: [utt for utt in map(_as_wav, utts) if utt in here] for model, utts in listed.items()}
        known = {utterance.id for utterance in joined}
        self.models = {model: utts for model, utts in models.items() if utts and model in known}
        self.utterances = test + joined + single
        self.trials = self._trials(lists / "trials.lst", {utterance.id for utterance in test})

    def _found(self, folder: Path, named_files: Iterable[tuple[str, str]]) -> list[Utterance]:
        """Utterances of an id and a listed file each, where the file is there under either suffix."""
        found, missing = [], []
        for utt, file in named_files:
            path = next((p for suffix in _AUDIO if (p := (folder / file).with_suffix(suffix)).is_file()), None)
            if path is None or path.stat().st_size == 0:
                missing.append(file)
            else:
                speaker = utt.partition("/")[0].partition("-")[0]
                found.append(Utterance(utt, path, speaker))
        if missing:
            tell_incomplete(f"{folder}: {len(missing):,} listed files are missing: {named(missing)}", self.partial)
        return found

    def _trials(self, path: Path, tests: set[str]) -> Trials:
        """``MODEL test/FILE 1|0`` a line."""
        enroll, test, labels, missing = [], [], [], set()
        for line, (model, file, label) in _rows(path, 3):
            if label not in ("0", "1"):
                raise SpkverError(f"{path}:{line}: unknown label '{label}'; expected 'MODEL test/FILE 1|0'")
            file = _as_wav(file)
            lacking = {name for name, there in ((model, model in self.models), (file, file in tests)) if not there}
            missing |= lacking
            if not lacking:
                enroll.append(model)
                test.append(file)
                labels.append(label == "1")
        if missing:
            tell_incomplete(
                f"{path}: {len(missing):,} of its names are not in the copy: {named(missing)}", self.partial
            )
        if not enroll:
            raise SpkverError(f"{path}: no trial is left, the copy has none of its pairs")
        return Trials.of(enroll, test, np.array(labels, np.int8))


def _rows(path: Path, columns: int | None = None) -> Iterable[tuple[int, list[str]]]:
    """The lines of a list, with their numbers; each of so many columns, or of two or more."""
    if not path.is_file():
        raise SpkverError(f"{path}: missing; the copy is incomplete, unpack it again")
    for line, row in table_rows(path):
        if len(row) != columns and (columns is not None or len(row) < 2):
            raise SpkverError(f"{path}:{line}: {len(row)} columns; expected {columns or 'two or more'}")
        yield line, row


def _as_wav(name: str) -> str:
    return str(Path(name).with_suffix(".wav").as_posix())
