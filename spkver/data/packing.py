"""Data directories of shards: ``spkver pack``.

``OUT`` is a data directory like any other, whose ``wav.scp`` names places in shards (`spkver.data.shards`). In
``OUT/shards/`` lie the tars, ``shard-000000.tar`` and so on, and of each an index ``shard-000000.tsv``: utterance,
speaker, offset, size, frames and sample rate. The index is written when its tar is whole: what has one is not made
again, and several processes may pack together.

Samples are the same bit for bit: what was lossless is coded anew without loss, anything else is taken as it is.
"""

import hashlib
import io
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from spkver.data.audio import audio_info, open_audio
from spkver.data.audio_check import Survey, write_survey
from spkver.data.containers import open_regular
from spkver.data.directory import DataDirectory, Utterance, read_columns, write_data_directory
from spkver.data.remote import is_address
from spkver.data.shards import Location, Member, shard_utterances, stamp
from spkver.data.shared_work import StopWork, share_work
from spkver.errors import SpkverError
from spkver.files import atomic_write, locked, read_json, write_json

# What codes the samples of each subtype without loss.
_LOSSLESS = {
    "flac": {
        "PCM_S8": "PCM_S8",
        "PCM_U8": "PCM_S8",
        "PCM_16": "PCM_16",
        "PCM_24": "PCM_24",
        "ULAW": "PCM_16",
        "ALAW": "PCM_16",
    },
    "wav": {
        "PCM_S8": "PCM_U8",
        "PCM_U8": "PCM_U8",
        "PCM_16": "PCM_16",
        "PCM_24": "PCM_24",
        "PCM_32": "PCM_32",
        "ULAW": "PCM_16",
        "ALAW": "PCM_16",
    },
}
FORMATS = tuple(_LOSSLESS)
# libsndfile's names of containers, where the usual suffix is another one.
_SUFFIXES = {"WAVEX": "wav", "RF64": "wav", "MPEG": "mp3", "AIFF": "aiff"}
_BLOCK = 512
_COLUMNS = "utterance speaker offset size frames rate"
_LISTS = {"wav.scp", "utt2spk", "spk2utt", "spk2gender", "utt2dur", "unusable", "segments", "shards.yaml"}


class Entry(NamedTuple):
    """A line of a shard's index."""

    utterance: str
    speaker: str
    offset: int
    size: int
    frames: int
    rate: int


def pack_directory(
    directory: DataDirectory, out: Path, utterances_per_shard: int, audio_format: str, workers: int
) -> str:
    """Pack the utterances of a data directory into shards; returns a line that says so.

    Args:
        directory: usable utterances with their durations, as `keep_usable` gives it. The other files of its folder,
            such as trial lists, are copied.
        out: the data directory to make; one that was begun is gone on with.
        utterances_per_shard: consecutive ones of the directory.
        audio_format: ``flac`` or ``wav``.
        workers: threads.

    Raises:
        SpkverError: ``out`` was begun with something else, or cannot be written; a file cannot be read.
    """
    utterances = directory.utterances
    firsts = range(0, len(utterances), utterances_per_shard)
    groups = [utterances[first : first + utterances_per_shard] for first in firsts]
    shards = [out / "shards" / f"shard-{number:06d}.tar" for number in range(len(groups))]
    listed = "\n".join(f"{u.id} {u.speaker} {u.path}" for u in utterances)
    plan = {
        "utterances": hashlib.sha256(listed.encode(errors="surrogateescape")).hexdigest(),
        "utterances_per_shard": utterances_per_shard,
        "format": audio_format,
    }

    def make(number: int, stop: threading.Event) -> list[Entry]:
        return _write_shard(shards[number], groups[number], audio_format, stop)

    found = _indexed(out, plan, shards, make, workers)
    with locked(out / ".lists.lock", "packing", wait_seconds=600):
        _write_lists(out, shards, found, directory.genders)
        write_survey(out, Survey(directory.utterances.ids, directory.utterances.seconds, []))
        _copy_companions(directory, out)
    n_bytes = sum(shard.stat().st_size for shard in shards)
    return f"{len(utterances)} utterances in {len(shards)} shards, {n_bytes / 1e9:.3g} GB -> {out}"


def index_shards(shards: Sequence[Path | str], out: Path, workers: int) -> str:
    """Make a data directory of shards that are there, which stay as they are; returns a line that says so.

    Args:
        shards: tars of ``KEY.wav`` (or another audio file) and ``KEY.spk``, as WeSpeaker makes; paths, addresses.
        out: the data directory to make; one that was begun is gone on with.
        workers: threads.

    Raises:
        SpkverError: a shard cannot be read, an utterance is in two places, or ``out`` cannot be written.
    """
    plan = {"shards": [[str(shard), *_stamp(shard)] for shard in shards]}

    def make(number: int, stop: threading.Event) -> list[Entry]:
        entries = []
        for one in shard_utterances(shards[number]):
            if stop.is_set():
                raise StopWork
            rate, frames, _ = audio_info(Member(shards[number], one.offset, one.size))
            entries.append(Entry(*one, frames, rate))
        return entries

    found = _indexed(out, plan, shards, make, workers)
    with locked(out / ".lists.lock", "indexing", wait_seconds=600):
        n = _write_lists(out, shards, found)
    return f"{n} utterances in {len(shards)} shards -> {out}"


def shards_of(source: Path) -> list[Path | str]:
    """The shards in a folder, by name, or those that a file lists, one a line, as WeSpeaker's ``shard.list`` does.

    A line may be an address, such as ``https://host/shard.tar``.

    Raises:
        SpkverError: there are none, or one is not there.
    """
    if source.is_dir():
        shards: list[Path | str] = [*sorted(source.absolute().glob("*.tar"))]
        if not shards:
            raise SpkverError(f"{source}: neither a data directory (wav.scp) nor a folder of shards (*.tar)")
        return shards
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SpkverError(f"{source}: no list of shards can be read ({error})") from None
    shards = []
    for line, text in enumerate(lines, start=1):
        name = text.strip()
        if not name:
            continue
        path = source.absolute().parent / name
        if not name.endswith(".tar") or not (is_address(name) or path.is_file()):
            raise SpkverError(f"{source}:{line}: no shard {path}; expected the path or the address of a .tar")
        shards.append(name if is_address(name) else path)
    if not shards:
        raise SpkverError(f"{source}: the list of shards is empty")
    return shards


def _indexed(
    out: Path,
    plan: dict,
    shards: Sequence[Path | str],
    make: Callable[[int, threading.Event], list[Entry]],
    workers: int,
) -> list[list[Entry]]:
    """What is in each shard; what has no index yet is made."""
    folder = out / "shards"
    _begin(folder / "plan.json", plan)

    def index(number: int) -> Path:
        return folder / f"shard-{number:06d}.tsv"

    def make_whole(number: int, stop: threading.Event) -> list[Entry]:
        entries = make(number, stop)
        with atomic_write(index(number)) as file:
            file.write(_COLUMNS.replace(" ", "\t") + "\n")
            file.writelines("\t".join(map(str, entry)) + "\n" for entry in entries)
        return entries

    numbers = range(len(shards))
    parts = share_work(
        numbers,
        lambda number: _read_index(index(number), shards[number]),
        make_whole,
        lambda number: folder / f".shard-{number:06d}.lock",
        workers,
    )
    found = {number: entries for number, entries, _ in parts}
    return [found[number] for number in numbers]


def _stamp(shard: Path | str) -> tuple[int, int]:
    return (-1, -1) if isinstance(shard, str) else stamp(shard)


def _begin(path: Path, plan: dict) -> None:
    if path.is_file() and read_json(path, "delete the folder and pack again") != plan:
        raise SpkverError(
            f"{path.parent}: holds shards of another list or form; give another folder, or delete this one"
        )
    write_json(path, plan)


def _read_index(path: Path, shard: Path | str) -> list[Entry] | None:
    """A shard's index; None where there is none, or the shard is not whole."""
    if not path.is_file():
        return None
    entries = []
    for line, utterance, rest in read_columns(path):
        if line == 1:
            continue
        speaker, *numbers = rest.split()
        if len(numbers) != 4 or not all(number.isdecimal() for number in numbers):
            raise SpkverError(f"{path}:{line}: expected '{_COLUMNS}'; delete the file, it is made again")
        entries.append(Entry(utterance, speaker, *map(int, numbers)))
    end = max((entry.offset + entry.size for entry in entries), default=0)
    return entries if isinstance(shard, str) or stamp(shard)[0] >= end else None


def _write_shard(shard: Path, utterances: Sequence[Utterance], audio_format: str, stop: threading.Event) -> list[Entry]:
    entries = []
    with atomic_write(shard, "wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
        for utterance in utterances:
            if stop.is_set():
                raise StopWork
            suffix, content, frames, rate = _coded(utterance.path, audio_format)
            _add(tar, f"{utterance.id}.spk", utterance.speaker.encode())
            offset = _add(tar, f"{utterance.id}.{suffix}", content)
            entries.append(Entry(utterance.id, utterance.speaker, offset, len(content), frames, rate))
    return entries


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> int:
    """Append a file, the same bytes at any time and for anybody; where its content begins."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
    return tar.offset - -(-len(content) // _BLOCK) * _BLOCK


def _coded(path: Location, audio_format: str) -> tuple[str, bytes, int, int]:
    """Suffix and bytes that give the samples of a file, its frames and its rate.

    Raises:
        AudioError: it cannot be read.
    """
    with open_audio(path) as file:
        suffix = _SUFFIXES.get(file.format, file.format.lower())
        frames, rate, subtype = file.n_frames, file.samplerate, _LOSSLESS[audio_format].get(file.subtype)
        coded = None if suffix == audio_format or subtype is None else _lossless(file, audio_format, subtype)
    if coded is not None:
        return audio_format, coded, frames, rate
    with open_regular(path) as content:
        return suffix, b"".join(iter(partial(content.read, 1 << 24), b"")), frames, rate


def _lossless(file, audio_format: str, subtype: str) -> bytes | None:
    """An opened file in another format, None where that would change a sample."""
    samples = file.read(file.n_frames, dtype="int32", always_2d=True)
    content = io.BytesIO()
    try:
        soundfile.write(content, samples, file.samplerate, subtype, format=audio_format.upper())
    except soundfile.LibsndfileError:  # more channels, or a higher rate, than the format has
        return None
    content.seek(0)
    again, rate = soundfile.read(content, dtype="int32", always_2d=True)
    is_same = rate == file.samplerate and len(samples) == file.n_frames and np.array_equal(again, samples)
    return content.getvalue() if is_same else None


def _write_lists(
    out: Path,
    shards: Sequence[Path | str],
    found: Iterable[Sequence[Entry]],
    genders: dict[str, str] | None = None,
) -> int:
    utterances = [
        Utterance(entry.utterance, Member(shard, entry.offset, entry.size), entry.speaker)
        for shard, entries in zip(shards, found)
        for entry in entries
    ]
    place: dict[str, Location] = {}
    for utterance in utterances:
        if utterance.id in place:
            raise SpkverError(
                f"{utterance.path}: '{utterance.id}' is also in {place[utterance.id]}; ids must be unique"
            )
        place[utterance.id] = utterance.path
    write_data_directory(out, utterances, genders)
    return len(utterances)


def _copy_companions(directory: DataDirectory, out: Path) -> None:
    """Trial lists, enrolment models and what else lies beside the lists, but for audio."""
    audio = {utterance.path for utterance in directory.utterances}
    for path in sorted(directory.path.iterdir()):
        if path.name in _LISTS or path.name.startswith(".") or path in audio or not path.is_file():
            continue
        try:
            shutil.copyfile(path, out / path.name)
        except OSError as error:
            raise SpkverError(f"{out / path.name}: cannot be copied ({error.strerror})") from None
