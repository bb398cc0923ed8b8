"""Recordings with their speakers as people have them: a tree of folders, a table, a Kaldi data directory.

In a tree a folder is a speaker. By default that is the first folder below the root (``anna/monday/1.wav`` is anna's,
as in VoxCeleb), since what lies below a speaker is sessions more often than what lies above is speakers; another
level is named by its number: 2 for ``train/anna/1.wav``, -1 for the folder directly above each file.

Ids are relative paths, so that two files named ``1.wav`` never meet. What an id cannot hold (white space, ``%``, bytes
that are no UTF-8) is written as ``%20``.
"""

import csv
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from spkver.data.directory import Utterance, read_data_directory
from spkver.errors import SpkverError

AUDIO = frozenset(["wav", "flac", "ogg", "oga", "opus", "mp3", "aif", "aiff", "au", "caf", "sph", "w64", "rf64"])
"""Suffixes of files that libsndfile reads."""

NOT_READ = frozenset(["m4a", "aac", "mp4", "wma", "webm", "amr", "3gp", "mkv", "mov", "avi"])
"""Suffixes of speech that libsndfile does not read; reported rather than passed over."""

_TABLES: dict[str, tuple[str, Literal[0, 3]]] = {".csv": (",", csv.QUOTE_MINIMAL), ".tsv": ("\t", csv.QUOTE_NONE)}
_UNKNOWN_GENDERS = frozenset(["", "-", "?", "u", "unknown", "other", "o", "na", "n/a", "nan", "none", "null"])


@dataclass
class Found:
    """What a source holds.

    Attributes:
        utterances: with unique ids; whether they can be decoded is not known yet.
        rule: who is a speaker, in words.
        genders: speaker -> ``f``, ``m`` or another word, of those that are known.
        left_out: ``(path, reason)``.
        speakers_at: level -> number of folders that would be speakers there, of a tree.
    """

    utterances: list[Utterance]
    rule: str
    genders: dict[str, str] = field(default_factory=dict)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    speakers_at: dict[int, int] = field(default_factory=dict)


def find_recordings(source: Path, speaker_level: int = 1, ignore: Path | None = None) -> Found:
    """List the recordings of a source, by what it is.

    Args:
        source: a folder with ``wav.scp``, another folder, or a ``.csv`` or ``.tsv`` file.
        speaker_level: of a tree: which folder is the speaker; 1 is the first below the root, -1 the last.
        ignore: a folder below the root to pass over.

    Raises:
        SpkverError: there is no such source, it holds no audio file, or a table or data directory is at fault.
    """
    if source.suffix.lower() in _TABLES and source.is_file():
        return _read_table(source)
    if not source.is_dir():
        raise SpkverError(
            f"{source}: no such folder; give a folder of audio, a .csv or .tsv table, or a Kaldi directory"
        )
    if (source / "wav.scp").is_file():
        data = read_data_directory(source, check_files=False)
        genders = {speaker: known_gender(word) for speaker, word in data.genders.items()}
        known = {speaker: gender for speaker, gender in genders.items() if gender}
        return Found(list(data.utterances), "utt2spk of a data directory names the speakers", known)
    return _read_tree(source, speaker_level, ignore)


def known_gender(word: str) -> str | None:
    """``f`` and ``m`` for all words that begin so, another word as it is, None for one that says nothing."""
    word = word.strip().lower()
    if word in _UNKNOWN_GENDERS:
        return None
    return word[0] if word[0] in "fm" else encoded(word)


def encoded(name: str) -> str:
    """A name without white space or control characters; different names stay different."""
    if name.isprintable() and " " not in name and "%" not in name:  # nearly all, of a million files
        return name
    return "".join(
        quote(letter, safe="", errors="surrogateescape") if letter == "%" or not _plain(letter) else letter
        for letter in name
    )


def _plain(letter: str) -> bool:
    return letter.isprintable() and not letter.isspace()


def _read_tree(root: Path, level: int, ignore: Path | None) -> Found:
    if level == 0:
        raise SpkverError("--speaker-level 0: levels count from 1, the first folder below DIR, or from -1, the last")
    rule = f"folder {level} below it is a speaker" if level > 1 else "the first folder below it is a speaker"
    found = Found([], rule if level > 0 else f"folder {-level} above a file is a speaker")
    folders_at: dict[int, set[tuple[str, ...]]] = {}
    for path in _files(root, ignore):
        suffix = path.suffix[1:].lower()
        relative = path.relative_to(root)
        if suffix in NOT_READ:
            found.left_out.append(
                (str(path), f"{suffix} is not read; convert it, as by `ffmpeg -i IN.{suffix} OUT.flac`")
            )
        if suffix not in AUDIO:
            continue
        folders = relative.parts[:-1]
        for depth in range(1, len(folders) + 1):
            folders_at.setdefault(depth, set()).add(folders[:depth])
        n = level if level > 0 else len(folders) + 1 + level
        if not 1 <= n <= len(folders):
            found.left_out.append((str(path), "no folder at the level of the speakers"))
            continue
        speaker = encoded("/".join(folders[:n]))
        found.utterances.append(Utterance(encoded(relative.as_posix()), path.absolute(), speaker))
    found.speakers_at = {depth: len(folders) for depth, folders in folders_at.items()}
    if not found.utterances:
        why = f"; {found.left_out[0][0]}: {found.left_out[0][1]}" if found.left_out else ""
        raise SpkverError(
            f"{root}: no audio file in a speaker's folder ({', '.join(sorted(AUDIO))} are looked for){why}"
        )
    return found


def _files(root: Path, ignore: Path | None) -> Iterator[Path]:
    """Files below a folder in sorted order, through links but not in circles, without hidden ones."""
    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        at = os.stat(folder)
        if (at.st_dev, at.st_ino) in seen or (ignore is not None and Path(folder).resolve() == ignore.resolve()):
            folders.clear()
            continue
        seen.add((at.st_dev, at.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(files) if not name.startswith("."))


def _read_table(table: Path) -> Found:
    """A table with the columns path, speaker and perhaps gender; paths are relative to its folder."""
    found = Found([], "column 'speaker' of a table names the speakers")
    speaker_of: dict[str, str] = {}
    for line, row in _rows(table):
        where = f"{table}:{line}"
        location, speaker = row["path"].strip(), encoded(row["speaker"].strip())
        if not location or not speaker:
            raise SpkverError(f"{where}: its path or speaker is empty; fill it in, or remove the line")
        path = Path(os.path.normpath(table.parent.absolute() / location))
        utt = _table_id(path, table.parent.absolute())
        if speaker_of.setdefault(utt, speaker) != speaker:
            raise SpkverError(
                f"{where}: {location} is of speaker '{speaker}', an earlier line says '{speaker_of[utt]}'"
            )
        gender = known_gender(row.get("gender") or "")
        if gender and found.genders.setdefault(speaker, gender) != gender:
            earlier = found.genders[speaker]
            raise SpkverError(f"{where}: gender '{gender}' of speaker '{speaker}', an earlier line says '{earlier}'")
        found.utterances.append(Utterance(utt, path, speaker))
    counts = Counter(utterance.id for utterance in found.utterances)
    found.left_out = [(utt, f"listed {n} times, taken once") for utt, n in counts.items() if n > 1]
    found.utterances = list({utterance.id: utterance for utterance in found.utterances}.values())
    if not found.utterances:
        raise SpkverError(f"{table}: the table is empty")
    return found


def _rows(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line and row of a table, by column names in small letters."""
    delimiter, quoting = _TABLES[table.suffix.lower()]
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter=delimiter, quoting=quoting)
            reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or []]
            missing = next((name for name in ("path", "speaker") if name not in reader.fieldnames), None)
            if missing:
                there = ", ".join(reader.fieldnames) or "none"
                raise SpkverError(
                    f"{table}:1: no column '{missing}' (columns: {there}); the header must name path and speaker, "
                    "and gender where it is known"
                )
            for row in reader:
                if None in row or None in row.values():
                    raise SpkverError(f"{table}:{reader.line_num}: has another number of columns than the header")
                yield reader.line_num, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise SpkverError(f"{table}: is no UTF-8 table ({error})") from None


def _table_id(path: Path, folder: Path) -> str:
    """The path below the table's folder where it lies there, the whole one otherwise; no id begins with a slash."""
    inside = path.relative_to(folder) if path.is_relative_to(folder) else path
    return encoded(inside.as_posix().lstrip("/"))
