"""VoxCeleb1 and VoxCeleb2: interviews of 7,363 celebrities, the field's usual training and test set.

Nagrani et al., Interspeech 2017; Chung et al., "VoxCeleb2: Deep Speaker Recognition", Interspeech 2018. An
utterance's id is its name in the published lists, ``id10270/x6uYqmx31kE/00001.wav``, whatever form its file has.

Speakers' ids tell the parts apart (``id1....`` is VoxCeleb1, ``id0....`` VoxCeleb2; id10270 to id10309 are
the test speakers), so the folders between a copy's root and its speakers may be called as people call them.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from spkver.corpora.audio_tree import audio_tree
from spkver.corpora.convert import FORMATS, convert
from spkver.corpora.published import (
    Published,
    check_published,
    described,
    named,
    refuse_shared_speakers,
    tell_incomplete,
)
from spkver.corpora.voxceleb_lists import META, TRIALS, find_list, read_genders, read_vox1_trials
from spkver.data.directory import DataDirectory, Utterance, write_data_directory
from spkver.data.trials import write_trials
from spkver.errors import SpkverError

ASK_AT = "https://mm.kaist.ac.kr/datasets/voxceleb/"
COUNTS = {
    "vox1_dev": Published(1_211, 148_642),
    "vox1_test": Published(40, 4_874),
    "vox2": Published(5_994, 1_092_009),
}
TRAINING_SETS = ("vox2", "vox1+vox2", "vox1")

_SPEAKER = {"vox1": re.compile(r"id1[01]\d{3}"), "vox2": re.compile(r"id0\d{4}")}
_ROOT = re.compile(r"vox(celeb)?_?[12]?", re.IGNORECASE)
_SPLITS = {"vox1": ("", "dev", "test"), "vox2": ("", "dev")}
_AUDIO_FOLDERS = ("", "flac", "wav", "aac", "m4a")


def prepare_voxceleb(
    corpus: str | os.PathLike[str] | None,
    folder: str | os.PathLike[str],
    train: str = "vox2",
    lists: Sequence[str] | None = None,
    downloads: str | os.PathLike[str] = "downloads/voxceleb",
    converted: str | os.PathLike[str] | None = None,
    audio_format: str = "flac",
    jobs: int | None = None,
    partial: bool = False,
) -> str:
    """Write the data directories ``folder/train`` and ``folder/test`` and the trial lists in the latter.

    Vox1-E and Vox1-H take all speakers of VoxCeleb1. With VoxCeleb1 in the training set only Vox1-O is possible, on
    its 40 test speakers; without it the test directory holds all of VoxCeleb1.

    Args:
        corpus: folder with VoxCeleb1 and, where it is trained on, VoxCeleb2.
        train: one of ``TRAINING_SETS``; of each the development part.
        lists: of ``TRIALS``; None: all that the training set allows.
        downloads: where lists that the copy does not have are downloaded to.
        converted: where ``.m4a`` files are converted to; None: ``folder/vox2``.
        audio_format: ``flac`` (half the room) or ``wav``.
        jobs: conversions at a time; None: one a core.
        partial: go on with an incomplete copy.

    Returns:
        What was written, in a few words.

    Raises:
        SpkverError: there is no copy, it is incomplete, a list cannot be had, ffmpeg is missing or fails, or a list
            needs speakers that are trained on.
    """
    folder, downloads = Path(folder), Path(downloads)
    lists = _lists_for(train, lists)
    if audio_format not in FORMATS:
        raise SpkverError(f"--format {audio_format}: unknown; choose one of {', '.join(FORMATS)}")
    if corpus is None:
        raise SpkverError(
            f"voxceleb: its audio is not public any more; ask for it at {ASK_AT}, unpack vox1_dev_wav.zip to "
            "DIR/voxceleb1/dev, vox1_test_wav.zip to DIR/voxceleb1/test and vox2_aac.zip to DIR/voxceleb2, and give "
            "--corpus DIR"
        )
    corpus = Path(corpus).absolute()
    vox1 = _utterances(_find_audio(corpus, "vox1"))
    test = [utterance for utterance in vox1 if is_test_speaker(utterance.speaker)]
    dev = [utterance for utterance in vox1 if not is_test_speaker(utterance.speaker)]
    takes_all = train == "vox2" and any(TRIALS[name].all_speakers for name in lists)
    check_published(f"{corpus} (VoxCeleb1 test)", test, COUNTS["vox1_test"], partial=partial)
    if takes_all or "vox1" in train:
        check_published(f"{corpus} (VoxCeleb1 dev)", dev, COUNTS["vox1_dev"], partial=partial)
    training = dev if "vox1" in train else []
    # What can be had is known before hours of conversion.
    paths = {name: find_list(corpus, downloads, TRIALS[name].file, TRIALS[name].md5) for name in lists}
    genders: dict[str, str] = {}
    for part in ("vox1", "vox2"):
        if part == "vox1" or part in train:
            genders |= read_genders(find_list(corpus, downloads, META[part]))
    test_data = _directory(folder / "test", vox1 if takes_all else test, genders)
    known = {utterance.id for utterance in test_data.utterances}
    trials = {name: read_vox1_trials(path, TRIALS[name], known, partial) for name, path in paths.items()}
    if "vox2" in train:
        audio = _find_audio(corpus, "vox2")
        check_published(f"{corpus} (VoxCeleb2 dev)", _utterances(audio), COUNTS["vox2"], partial=partial)
        audio = _readable(audio, Path(converted or folder / "vox2").absolute(), audio_format, jobs, partial)
        training = training + _utterances(audio)
    train_data = _directory(folder / "train", training, genders)
    refuse_shared_speakers(folder, train_data, test_data)
    for data in (train_data, test_data):
        write_data_directory(data.path, data.utterances, data.genders)
    for name in lists:
        write_trials(test_data.path / name, trials[name])
    made = ", ".join(f"{name} ({len(trials[name]):,} trials)" for name in lists)
    return f"{described(train_data)} to train on, {described(test_data)} to test, {made} -> {folder}"


def is_test_speaker(speaker: str) -> bool:
    """Whether a speaker of VoxCeleb1 is one of the 40 of Vox1-O."""
    return "id10270" <= speaker <= "id10309"


def _lists_for(train: str, lists: Sequence[str] | None) -> list[str]:
    if train not in TRAINING_SETS:
        raise SpkverError(f"--train {train}: unknown; choose one of {', '.join(TRAINING_SETS)}")
    possible = [name for name, trials in TRIALS.items() if train == "vox2" or not trials.all_speakers]
    if lists is None:
        return possible
    for name in lists:
        if name not in TRIALS:
            raise SpkverError(f"--lists {name}: unknown; choose of {', '.join(TRIALS)}")
        if name not in possible:
            raise SpkverError(
                f"--lists {name}: takes all speakers of VoxCeleb1, so none of them may be trained on; "
                f"train on VoxCeleb2 alone (--train vox2), or leave it out"
            )
    return list(lists)


def _find_audio(corpus: Path, part: str) -> dict[str, Path]:
    """Name such as ``id10001/1zcIwhmdeo4/00001`` -> file, of one part wherever it lies below ``corpus``."""
    if not corpus.is_dir():
        raise SpkverError(f"{corpus}: no such folder; give the one that holds voxceleb1 and voxceleb2")
    roots = [corpus, *sorted(child for child in corpus.iterdir() if child.is_dir() and _ROOT.match(child.name))]
    found: dict[str, Path] = {}
    for root in roots:
        # What libsndfile reads comes last and so is taken before .m4a.
        for place in (root / split / audio for audio in reversed(_AUDIO_FOLDERS) for split in _SPLITS[part]):
            for speaker in _speaker_folders(place, part):
                files = audio_tree(speaker, 1, (".flac", ".wav", ".m4a"))
                found |= {f"{speaker.name}/{name}": path for name, path in files.items()}
    if not found:
        example = {"vox1": "voxceleb1/dev/wav/id10001", "vox2": "voxceleb2/dev/aac/id00012"}[part]
        raise SpkverError(
            f"{corpus}: no VoxCeleb{part[-1]} here; looked for speakers such as {example}; "
            f"its audio is asked for at {ASK_AT}"
        )
    return dict(sorted(found.items()))


def _speaker_folders(place: Path, part: str) -> list[Path]:
    if not place.is_dir():
        return []
    return sorted(child for child in place.iterdir() if _SPEAKER[part].fullmatch(child.name))


def _readable(
    audio: dict[str, Path], converted: Path, audio_format: str, jobs: int | None, partial: bool
) -> dict[str, Path]:
    """The same names, with every ``.m4a`` converted; those that cannot be are left out with ``partial``."""
    target = {
        name: converted / f"{name}.{audio_format}" for name, path in audio.items() if path.suffix.lower() == ".m4a"
    }
    failed = convert(((audio[name], path) for name, path in target.items()), jobs=jobs)
    if failed:
        first = next(iter(failed))
        more = f"; so do {named([str(path) for path in failed if path != first])}" if len(failed) > 1 else ""
        tell_incomplete(f"{first}: cannot be converted, {failed[first]}{more}", partial)
    return {name: target.get(name, path) for name, path in audio.items() if path not in failed}


def _utterances(audio: dict[str, Path]) -> list[Utterance]:
    return [Utterance(f"{name}.wav", path, name.partition("/")[0]) for name, path in audio.items()]


def _directory(path: Path, utterances: list[Utterance], genders: dict[str, str]) -> DataDirectory:
    data = DataDirectory(path, utterances)
    data.genders = {speaker: genders[speaker] for speaker in data.speakers if speaker in genders}
    return data
