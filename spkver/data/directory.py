"""Kaldi-style data directories: ``wav.scp``, ``utt2spk``, ``spk2utt`` and optional companions.

Everything that comes after trusts what is read here, so a list is checked once, at this border, and
a fault is named by ``file:line``. Ids hold no white space; paths may. UTF-8, LF or CRLF is read, LF is
written. Relative paths in ``wav.scp`` are relative to the data directory, not to where one stands. Audio inside of a
shard is listed as ``SHARD.tar:OFFSET:SIZE`` (`spkver.data.shards`).

Ids are brought to Unicode's composed form (NFC), as every reader of lists here does, because macOS writes
``ü`` as two characters and others as one. Paths stay as they are on the disk, bytes that are no UTF-8 included.
"""

import contextlib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from spkver.data.lookup import check_ids
from spkver.data.names import composed, is_utf8
from spkver.data.shards import Location, is_there, listed, located, stamp
from spkver.data.utterance_table import Utterance, UtteranceTable, find, map_table
from spkver.errors import SpkverError
from spkver.files import atomic_write, is_file, locked

_KEPT = ".utterances.arrow"
# Of a ``wav.scp`` from which on what was read is kept: shorter ones are read in a moment.
_KEPT_FROM_BYTES = 4_000_000
_LISTS = ("wav.scp", "utt2spk", "spk2utt", "utt2dur")
# White space beside blanks and tabs, and what is refused in any list.
_NOT_PLAIN = b"\0\x01\r\x0b\x0c\x1c\x1d\x1e\x1f"

_MAKE_ONE = "`spkver prepare folder DATA --audio RECORDINGS` makes one of recordings"


class DataDirectory:
    """What a data directory says.

    Args:
        path: the folder, absolute.
        utterances: in the order of ``wav.scp``.
        genders: speaker -> gender as ``spk2gender`` writes it; empty without that file.
        durations: utterance -> seconds, in place of what the utterances say.

    Attributes:
        utterances: a sequence of `Utterance`, held as arrays.
    """

    def __init__(
        self,
        path: Path,
        utterances: Iterable[Utterance],
        genders: Mapping[str, str] | None = None,
        durations: Mapping[str, float] | None = None,
    ):
        self.path = path
        self.utterances = UtteranceTable.of(path, utterances, durations)
        self.genders = dict(genders or {})

    @property
    def speakers(self) -> list[str]:
        """Sorted; the position in this list is the speaker's class index."""
        return self.utterances.speakers

    @property
    def durations(self) -> dict[str, float]:
        """Utterance -> seconds of those whose length is known; made anew each time, so not for a million."""
        seconds = self.utterances.seconds
        known = ~np.isnan(seconds)
        return dict(zip(self.utterances.ids.filter(pa.array(known)).to_pylist(), seconds[known].tolist()))

    def subset(
        self, speakers: Collection[str] | None = None, utterances: Collection[str] | None = None
    ) -> "DataDirectory":
        """The same directory with these speakers, or these utterance ids, only; the order stays.

        Raises:
            SpkverError: a name is not in the directory, or nothing is left.
        """
        kept = np.ones(len(self.utterances), bool)
        if speakers is not None:
            place = {speaker: index for index, speaker in enumerate(self.speakers)}
            self._refuse_unknown([name for name in speakers if name not in place], "speaker")
            chosen = np.zeros(len(place), bool)
            chosen[[place[name] for name in speakers]] = True
            kept &= chosen[self.utterances.speaker_index]
        if utterances is not None:
            names = list(utterances)
            places = self.utterances.find(names)
            self._refuse_unknown([names[index] for index in np.flatnonzero(places < 0)], "utterance")
            chosen = np.zeros(len(kept), bool)
            chosen[places] = True
            kept &= chosen
        return self.at(kept)

    def at(self, places: np.ndarray) -> "DataDirectory":
        """The same directory with the utterances at these places, (n,) integers or booleans, only.

        Raises:
            SpkverError: nothing is left.
        """
        left = self.utterances.take(places)
        if not len(left):
            raise SpkverError(f"{self.path}: no utterance is left of {len(self.utterances)}")
        speakers = set(left.speakers)
        return DataDirectory(self.path, left, {s: gender for s, gender in self.genders.items() if s in speakers})

    def with_seconds(self, seconds: np.ndarray) -> "DataDirectory":
        """The same directory with other lengths of its utterances, (n,) float64."""
        return DataDirectory(self.path, self.utterances.with_seconds(seconds), self.genders)

    def _refuse_unknown(self, unknown: list[str], what: str) -> None:
        if unknown:
            raise SpkverError(f"{self.path}: no {what} '{min(unknown)}' ({len(unknown)} unknown in all)")


def read_data_directory(path: str | os.PathLike[str], check_files: bool = True) -> DataDirectory:
    """Read and check a data directory.

    ``utt2spk`` and ``spk2utt`` say the same; one of them is enough. ``spk2gender`` and ``utt2dur``
    are read where they exist, and lines about speakers or utterances that are not here are ignored.

    A large directory is kept as arrays in ``.utterances.arrow`` beside its lists, which the processes of a machine map
    together; it is made anew when a list has changed.

    Args:
        path: the folder.
        check_files: whether every audio file must exist (one ``stat`` each: minutes for a million
            files on a network disk; one a shard).

    Raises:
        SpkverError: with ``file:line`` of the first fault.
    """
    folder = Path(path).absolute()
    if is_file(folder):
        raise SpkverError(f"{folder}: a file, expected a data directory (wav.scp, utt2spk); {_MAKE_ONE}")
    if not is_file(folder / "wav.scp"):
        raise SpkverError(f"{folder}: not a data directory, it has no wav.scp; {_MAKE_ONE}")
    if (folder / "segments").exists():
        raise SpkverError(
            f"{folder / 'segments'}: segments are not supported; write each one to its own audio file first"
        )
    utterances = _kept_table(folder, check_files)
    if check_files and not all(map(os.path.isfile, utterances.files())):
        read_path_list(folder / "wav.scp")  # says which line
    genders = read_pairs(folder / "spk2gender") if (folder / "spk2gender").exists() else {}
    speakers = set(utterances.speakers)
    return DataDirectory(folder, utterances, {s: gender for s, gender in genders.items() if s in speakers})


def _kept_table(folder: Path, check_files: bool) -> UtteranceTable:
    """What the lists of a folder say, mapped from the table that is kept of them if they are long."""
    lists = [list(stamp(folder / name)) for name in _LISTS]
    n_bytes, _ = lists[0]
    kept = map_table(folder / _KEPT, lists)
    if kept is not None:
        return kept
    if n_bytes < _KEPT_FROM_BYTES or not os.access(folder, os.W_OK):
        return _read_lists(folder, check_files)
    with locked(folder / ".utterances.lock", "reading the lists", wait_seconds=600):
        kept = map_table(folder / _KEPT, lists)  # that another process has written meanwhile
        if kept is not None:
            return kept
        read = _read_lists(folder, check_files)
        with contextlib.suppress(SpkverError):  # a full disk: then each process has its own
            read.write(folder / _KEPT, lists)
        return map_table(folder / _KEPT, lists) or read


def _read_lists(folder: Path, check_files: bool) -> UtteranceTable:
    """What the lists say; those that are not plain are read line by line, which finds the line to complain about."""
    table = _plain_table(folder)
    if table is None:
        audio = read_path_list(folder / "wav.scp", check_files)
        speaker_of = _read_speakers(folder, audio)
        table = UtteranceTable.of(folder, (Utterance(utt, path, speaker_of[utt]) for utt, path in audio.items()))
    return table.with_durations(*read_durations(folder / "utt2dur")) if (folder / "utt2dur").exists() else table


def _plain_table(folder: Path) -> UtteranceTable | None:
    """What lists of plain ASCII without a fault say, by Arrow; None where they have to be looked at line by line."""
    audio, speakers = _plain_pairs(folder / "wav.scp"), _plain_pairs(folder / "utt2spk")
    if audio is None or speakers is None:
        return None
    ids, locations = audio
    names = _aligned(speakers, ids)
    is_command = pc.any(pc.ends_with(locations, "|")).as_py()
    if names is None or is_command or pc.count_distinct(ids).as_py() < len(ids) or _has_blanks(names):
        return None
    if (folder / "spk2utt").exists() and not _agrees(folder / "spk2utt", ids, names):
        return None
    return UtteranceTable.of_columns(folder, ids, locations, names)


def _plain_pairs(path: Path) -> tuple[pa.StringArray, pa.StringArray] | None:
    """First column and the rest of each line; None where some line is not as plain as nearly all are."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if not content.isascii() or content.translate(None, _NOT_PLAIN) != content or not content.strip():
        return None
    lines = csv.read_csv(
        pa.BufferReader(content),
        csv.ReadOptions(column_names=["line"], block_size=len(content) + 1, use_threads=False),
        # No line has this character: a line is one column.
        csv.ParseOptions(delimiter="\x01", quote_char=False, ignore_empty_lines=True),
        csv.ConvertOptions(column_types={"line": pa.string()}, null_values=[], strings_can_be_null=False),
    )["line"]
    pairs = pc.extract_regex(lines, r"^(?P<key>[^ \t]+)[ \t]+(?P<rest>[^ \t](?:.*[^ \t])?)[ \t]*$").combine_chunks()
    return None if pairs.null_count or not len(pairs) else (pairs.field("key"), pairs.field("rest"))


def _aligned(pairs: tuple[pa.StringArray, pa.StringArray], ids: pa.StringArray) -> pa.StringArray | None:
    """The second column in the order of ``ids``; None where the first one is not a permutation of them."""
    keys, values = pairs
    if keys.equals(ids):
        return values
    places = find(ids, keys)
    return values.take(pa.array(places)) if len(keys) == len(ids) and (places >= 0).all() else None


def _has_blanks(names: pa.StringArray) -> bool:
    return bool(pc.any(pc.match_substring_regex(names, "[ \t]")).as_py())


def _agrees(spk2utt: Path, ids: pa.StringArray, names: pa.StringArray) -> bool:
    """Whether ``spk2utt`` gives each utterance the speaker that it has in ``names``."""
    pairs = _plain_pairs(spk2utt)
    if pairs is None or pc.count_distinct(pairs[0]).as_py() < len(pairs[0]):
        return False
    groups = pc.ascii_split_whitespace(pairs[1])
    grouped = groups.flatten(), pairs[0].take(pc.list_parent_indices(groups))
    spoken = _aligned(grouped, ids)
    return spoken is not None and spoken.equals(names)


def write_data_directory(
    path: str | os.PathLike[str],
    utterances: Iterable[Utterance],
    genders: Mapping[str, str] | None = None,
    durations: Mapping[str, float] | None = None,
) -> None:
    """Write ``wav.scp``, ``utt2spk``, ``spk2utt``, and ``spk2gender`` / ``utt2dur`` where given.

    Audio inside the folder is listed by its relative path, so that the folder can be moved. Companion
    files of an earlier list that are not given now are removed: they would describe other audio.

    Args:
        path: the folder; made where missing.
        utterances: in the order to write.
        genders: speaker -> gender.
        durations: utterance -> seconds.

    Raises:
        SpkverError: no utterance, an id twice, an id with white space, a path that a line cannot hold.
    """
    folder = Path(path).absolute()
    utterances = list(utterances)
    _check_writable(folder, utterances)
    by_speaker: dict[str, list[str]] = {}
    for utterance in utterances:
        by_speaker.setdefault(utterance.speaker, []).append(utterance.id)

    for stale in ("spk2gender", "utt2dur", "unusable"):
        (folder / stale).unlink(missing_ok=True)
    _write_lines(folder / "wav.scp", (f"{u.id} {listed(u.path, folder)}" for u in utterances))
    _write_lines(folder / "utt2spk", (f"{u.id} {u.speaker}" for u in utterances))
    _write_lines(folder / "spk2utt", (f"{s} {' '.join(by_speaker[s])}" for s in sorted(by_speaker)))
    if genders:
        _write_lines(folder / "spk2gender", (f"{s} {g}" for s, g in sorted(genders.items())))
    if durations is not None:
        write_durations(folder / "utt2dur", durations.items())


def write_durations(path: Path, durations: Iterable[tuple[str, float]]) -> None:
    """Write ``utt2dur``: utterances and their seconds, with all the digits that give the same float back."""
    _write_lines(path, (f"{utt} {float(seconds)!r}" for utt, seconds in durations))


def read_durations(path: Path) -> tuple[pa.StringArray, np.ndarray]:
    """Read ``utt2dur``: utterances, and the seconds of each, (n,) float64, all positive.

    Raises:
        SpkverError: as `read_columns`; a value that is no duration, with its line.
    """
    plain = _plain_pairs(path)
    if plain is not None and pc.count_distinct(plain[0]).as_py() == len(plain[0]):
        with contextlib.suppress(pa.ArrowInvalid):
            seconds = plain[1].cast(pa.float64()).to_numpy()
            if ((seconds > 0) & (seconds < np.inf)).all():
                return plain[0], seconds
    durations = {}
    for line, utt, text in read_columns(path):
        try:
            durations[utt] = float(text)
        except ValueError:
            durations[utt] = -1.0
        if not 0 < durations[utt] < float("inf"):
            raise SpkverError(f"{path}:{line}: '{text}' is no duration in seconds")
    return pa.array(list(durations), pa.string()), np.array(list(durations.values()), np.float64)


def read_path_list(path: str | os.PathLike[str], check_files: bool = True) -> dict[str, Location]:
    """Read a list of ``id path`` lines (``wav.scp``, a noise list); paths relative to the list's folder.

    Returns:
        id -> absolute path, or place in a shard, in file order.

    Raises:
        SpkverError: no such list, an empty list, an id twice, a line with one column, a Kaldi pipe, a
            missing audio file; each with ``file:line``.
    """
    path = Path(path).absolute()
    if not path.is_file():
        raise SpkverError(f"{path}: no such list")
    paths: dict[str, Location] = {}
    for line, name, location in _rows(path):
        name = _text(name, path, line)
        if name in paths:
            raise SpkverError(f"{path}:{line}: '{name}' is listed twice")
        if location.endswith("|"):
            raise SpkverError(
                f"{path}:{line}: '{name}' is a command (`... |`), which is never run from a list; "
                "convert the audio to files first"
            )
        paths[name] = located(location, path.parent)
        if is_utf8(location) and not check_files:
            continue
        if not is_there(paths[name]):
            advice = "" if is_utf8(location) else "; the list is not UTF-8, save it as UTF-8"
            raise SpkverError(f"{path}:{line}: no audio file {paths[name]}{advice}")
    if not paths:
        raise SpkverError(f"{path}: the list is empty")
    return paths


def read_pairs(path: Path) -> dict[str, str]:
    """Read ``key value`` lines of two columns; a key twice or a third column is an error."""
    pairs: dict[str, str] = {}
    for line, key, value in read_columns(path):
        if key in pairs:
            raise SpkverError(f"{path}:{line}: '{key}' is listed twice")
        if len(value.split()) > 1:
            raise SpkverError(f"{path}:{line}: expected two columns, found '{key} {value}'")
        pairs[key] = value
    return pairs


def read_columns(path: Path) -> Iterator[tuple[int, str, str]]:
    """Line number, first column and the rest of each line that is not blank, of a UTF-8 file; both in NFC.

    Raises:
        SpkverError: the file cannot be read, or a line is not UTF-8 or has one column only.
    """
    for line, first, rest in _rows(path):
        yield line, _text(first, path, line), _text(rest, path, line)


def _rows(path: Path) -> Iterator[tuple[int, str, str]]:
    """As `read_columns`, but text as it stands; bytes that are no UTF-8 become lone surrogates, as in file names."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SpkverError(f"{path}: cannot be read ({error.strerror})") from None
    # Not splitlines(), which also breaks at characters that a path may hold.
    for line, row in enumerate(content.decode("utf-8-sig", "surrogateescape").split("\n"), start=1):
        columns = row.strip().split(None, 1)
        if not columns:
            continue
        if "\0" in row:
            raise SpkverError(f"{path}:{line}: holds a NUL byte, the list is damaged; write it again")
        if len(columns) == 1:
            raise SpkverError(f"{path}:{line}: one column only, {columns[0]!r}; expected two or more")
        yield line, columns[0], columns[1]


def _text(words: str, path: Path, line: int) -> str:
    """Words in NFC; refused where they are not UTF-8."""
    if words.isascii():
        return words
    if not is_utf8(words):
        raise SpkverError(f"{path}:{line}: not UTF-8; save the list as UTF-8")
    return composed(words)


def _read_speakers(folder: Path, audio: Mapping[str, Location]) -> dict[str, str]:
    """Utterance -> speaker, from ``utt2spk``, ``spk2utt`` or both, checked against ``wav.scp``."""
    utt2spk, spk2utt = folder / "utt2spk", folder / "spk2utt"
    if not utt2spk.exists() and not spk2utt.exists():
        raise SpkverError(f"{folder}: neither utt2spk nor spk2utt says who speaks")
    grouped = _read_spk2utt(spk2utt, audio) if spk2utt.exists() else {}
    source, speaker_of = (utt2spk, read_pairs(utt2spk)) if utt2spk.exists() else (spk2utt, grouped)

    unknown = next((utt for utt in speaker_of if utt not in audio), None)
    if unknown is not None:
        raise SpkverError(f"{_where(source, unknown)}: utterance '{unknown}' is not in wav.scp")
    missing = next((utt for utt in audio if utt not in speaker_of), None)
    if missing is not None:
        where = _where(folder / "wav.scp", missing)
        raise SpkverError(f"{where}: utterance '{missing}' has no speaker in {source.name}")
    if not spk2utt.exists() or grouped == speaker_of:
        return speaker_of
    utt = next(utt for utt in speaker_of if grouped.get(utt) != speaker_of[utt])
    other = f"lists it under '{grouped[utt]}'" if utt in grouped else "does not list it"
    raise SpkverError(
        f"{_where(utt2spk, utt)}: utterance '{utt}' is of speaker '{speaker_of[utt]}', but spk2utt {other}; "
        "correct one of them, or delete spk2utt (it is derived)"
    )


def _read_spk2utt(path: Path, audio: Mapping[str, Location]) -> dict[str, str]:
    """Utterance -> speaker from ``spk2utt``."""
    speaker_of: dict[str, str] = {}
    speakers = set()
    for line, speaker, utts in read_columns(path):
        if speaker in speakers:
            raise SpkverError(f"{path}:{line}: speaker '{speaker}' has two lines")
        speakers.add(speaker)
        for utt in utts.split():
            if utt in speaker_of:
                raise SpkverError(f"{path}:{line}: utterance '{utt}' is listed twice")
            if utt not in audio:
                raise SpkverError(f"{path}:{line}: utterance '{utt}' is not in wav.scp")
            speaker_of[utt] = speaker
    return speaker_of


def _where(path: Path, key: str) -> str:
    """``file:line`` of a key; only looked up for an error, so that reading need not keep line numbers."""
    return f"{path}:{next(line for line, name, _ in read_columns(path) if name == key)}"


def _check_writable(folder: Path, utterances: list[Utterance]) -> None:
    if not utterances:
        raise SpkverError(f"{folder}: no utterance to write")
    for names in ([composed(u.id) for u in utterances], sorted({u.speaker for u in utterances})):
        check_ids(names, lambda _: folder)
    for utterance in utterances:
        if "\n" in str(utterance.path) or str(utterance.path) != str(utterance.path).strip():
            raise SpkverError(f"{folder}: the path {str(utterance.path)!r} does not fit on a line")


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    with atomic_write(path, "wb") as file:
        file.writelines(f"{line}\n".encode("utf-8", "surrogateescape") for line in lines)


def dealt_by_gender(speakers: Sequence[str], genders: Mapping[str, str]) -> list[str]:
    """Speakers in an order of which any beginning has the genders in the shares that they have of all.

    Args:
        speakers: in the order that those of one gender keep.
        genders: speaker -> gender; those whose gender is not known count as one more.
    """
    places: dict[str | None, int] = {}
    ranked = []
    for speaker in speakers:
        gender = genders.get(speaker)
        places[gender] = places.get(gender, 0) + 1
        ranked.append((places[gender], gender))
    # How far along its own gender each one stands.
    shares = [(place - 0.5) / places[gender] for place, gender in ranked]
    return [speakers[index] for index in sorted(range(len(speakers)), key=shares.__getitem__)]
