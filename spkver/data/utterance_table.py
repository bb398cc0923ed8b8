"""The utterances of a data directory as arrays, of which a million take a hundred megabytes once a machine.

Python objects would be ten times as large, and every data worker that so much as counts their references would get a
copy of its own. Arrays are shared by processes that are forked, and by any that map the same file. An `Utterance` is
made when it is asked for.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from spkver.data.shards import Location, Member, listed, located
from spkver.files import atomic_write

_AT_ONCE = 4096
_LISTS, _SPEAKERS = b"lists", b"speakers"


@dataclass(frozen=True)
class Utterance:
    """One recording of one speaker.

    Attributes:
        id: its name, unique in its data directory.
        path: absolute: a file, or its place in a shard.
        speaker: who speaks.
        seconds: how long it is, where that is known.
    """

    id: str
    path: Location
    speaker: str
    seconds: float | None = field(default=None, compare=False)


class _Columns(NamedTuple):
    """What is said of each utterance of a whole directory."""

    folder: Path  # what the locations are relative to
    ids: pa.StringArray
    locations: pa.BinaryArray  # as `wav.scp` has them
    speakers: list[str]  # sorted
    speaker_index: np.ndarray  # (n,) int32, into these
    seconds: np.ndarray  # (n,) float64, NaN where they are not known


class UtteranceTable(Sequence[Utterance]):
    """A sequence of utterances, all of a directory's or some of them.

    It is equal to any sequence of the same utterances.

    Attributes:
        speakers: of these utterances, sorted; the position in this list is the speaker's class index.
        speaker_index: (n,) int32, the class index of each utterance's speaker.
    """

    def __init__(self, columns: _Columns, rows: np.ndarray | None = None):
        self._columns, self._rows = columns, rows
        self.speakers, self.speaker_index = columns.speakers, columns.speaker_index
        if rows is not None:
            present, self.speaker_index = _renumbered(columns.speaker_index[rows], len(columns.speakers))
            self.speakers = [columns.speakers[place] for place in present]

    @classmethod
    def of(
        cls, folder: Path, utterances: Iterable[Utterance], durations: Mapping[str, float] | None = None
    ) -> "UtteranceTable":
        """A table of utterances.

        Args:
            folder: of the data directory, absolute.
            utterances: in their order.
            durations: utterance -> seconds, in place of what the utterances say.
        """
        if isinstance(utterances, UtteranceTable):
            if durations is None:
                return utterances
            return utterances.with_durations(durations, np.fromiter(durations.values(), np.float64))
        utterances = list(utterances)
        names = sorted({utterance.speaker for utterance in utterances})
        place = {name: index for index, name in enumerate(names)}
        known = (utterance.seconds if durations is None else durations.get(utterance.id) for utterance in utterances)
        columns = _Columns(
            folder,
            pa.array([utterance.id for utterance in utterances], pa.string()),
            pa.array([os.fsencode(listed(utterance.path, folder)) for utterance in utterances], pa.binary()),
            names,
            np.array([place[utterance.speaker] for utterance in utterances], np.int32),
            np.array([np.nan if seconds is None else seconds for seconds in known], np.float64),
        )
        return cls(columns)

    @classmethod
    def of_columns(
        cls, folder: Path, ids: pa.StringArray, locations: pa.Array, speakers: pa.StringArray
    ) -> "UtteranceTable":
        """A table of columns, each with a value for every utterance, and no lengths yet."""
        encoded = speakers.dictionary_encode()
        order = pc.array_sort_indices(encoded.dictionary).to_numpy()
        place = np.empty(len(order), np.int32)
        place[order] = np.arange(len(order))
        names = encoded.dictionary.take(pa.array(order)).to_pylist()
        index = place[encoded.indices.to_numpy()]
        return cls(_Columns(folder, ids, locations.cast(pa.binary()), names, index, np.full(len(ids), np.nan)))

    @property
    def ids(self) -> pa.StringArray:
        """The names of the utterances."""
        return self._columns.ids if self._rows is None else self._columns.ids.take(pa.array(self._rows))

    @property
    def seconds(self) -> np.ndarray:
        """(n,) float64, how long each is; NaN where that is not known."""
        return self._columns.seconds if self._rows is None else self._columns.seconds[self._rows]

    def __len__(self) -> int:
        return len(self._columns.ids) if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Utterance: ...

    @overload
    def __getitem__(self, index: slice) -> "UtteranceTable": ...

    def __getitem__(self, index: int | slice) -> "Utterance | UtteranceTable":
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        row = range(len(self))[index] if self._rows is None else int(self._rows[index])
        columns = self._columns
        location, speaker = columns.locations[row].as_py(), columns.speakers[columns.speaker_index[row]]
        return _utterance(columns.folder, columns.ids[row].as_py(), location, speaker, float(columns.seconds[row]))

    def __iter__(self) -> Iterator[Utterance]:
        columns = self._columns
        for first in range(0, len(self), _AT_ONCE):
            last = min(first + _AT_ONCE, len(self))
            rows = self._rows_between(first, last)
            ids, locations = (column.take(rows).to_pylist() for column in (columns.ids, columns.locations))
            for row, name, location in zip(rows.to_numpy(), ids, locations):
                speaker = columns.speakers[columns.speaker_index[row]]
                yield _utterance(columns.folder, name, location, speaker, float(columns.seconds[row]))

    def _rows_between(self, first: int, last: int) -> pa.Array:
        return pa.array(np.arange(first, last, dtype=np.int32) if self._rows is None else self._rows[first:last])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(one == another for one, another in zip(self, other))

    __hash__ = None  # type: ignore[assignment]  # as a list's

    def files(self) -> Iterator[bytes]:
        """The path of each audio file, and of each shard once where its utterances follow one another.

        Shards at addresses are left out.
        """
        folder, shard = os.fsencode(self._columns.folder), b""
        for first in range(0, len(self), _AT_ONCE):
            rows = self._rows_between(first, min(first + _AT_ONCE, len(self)))
            for text in self._columns.locations.take(rows).to_pylist():
                if b".tar:" not in text:
                    yield os.path.join(folder, text)
                elif not shard or not text.startswith(shard):
                    path = located(os.fsdecode(text), self._columns.folder)
                    shard = text[: text.rindex(b".tar:") + 5] if isinstance(path, Member) else b""
                    file = path.shard if isinstance(path, Member) else path
                    if isinstance(file, Path):
                        yield os.fsencode(file)

    def take(self, places: np.ndarray) -> "UtteranceTable":
        """The utterances at these places, (n,) integers or booleans, as a table."""
        rows = np.arange(len(self), dtype=np.int32) if self._rows is None else self._rows
        return UtteranceTable(self._columns, rows[places])

    def places_by_speaker(self) -> list[np.ndarray]:
        """For each speaker where its utterances stand, ascending."""
        order = np.argsort(self.speaker_index, kind="stable")
        return np.split(order, np.cumsum(np.bincount(self.speaker_index))[:-1])

    def find(self, names: Iterable[str]) -> np.ndarray:
        """The place of each named utterance, int64; -1 where it is not here."""
        return find(names if isinstance(names, pa.Array) else pa.array(list(names), pa.string()), self.ids)

    def with_seconds(self, seconds: np.ndarray) -> "UtteranceTable":
        """The same utterances with other lengths, (n,) float64."""
        every = self._columns.seconds
        if self._rows is not None:
            every = np.full(len(every), np.nan)
            every[self._rows] = seconds
        return UtteranceTable(self._columns._replace(seconds=seconds if self._rows is None else every), self._rows)

    def with_durations(self, names: Iterable[str], seconds: np.ndarray) -> "UtteranceTable":
        """The same with the lengths of named utterances; the others have none, and other names are passed over."""
        known, places = np.full(len(self), np.nan), self.find(names)
        known[places[places >= 0]] = seconds[places >= 0]
        return self.with_seconds(known)

    def write(self, path: Path, lists: object) -> None:
        """Write the whole directory's columns as a file that `map_table` maps.

        Args:
            path: the file.
            lists: what they were read from, which JSON can hold.

        Raises:
            SpkverError: it cannot be written.
        """
        columns = self._columns
        table = pa.table(
            {
                "id": columns.ids,
                "location": columns.locations,
                "speaker": pa.array(columns.speaker_index, pa.int32()),
                "seconds": pa.array(columns.seconds, pa.float64()),
            }
        ).combine_chunks()
        table = table.replace_schema_metadata({_LISTS: json.dumps(lists), _SPEAKERS: json.dumps(columns.speakers)})
        with atomic_write(path, "wb") as file, pa.ipc.new_file(file, table.schema) as sink:
            sink.write_table(table)


def map_table(path: Path, lists: object) -> UtteranceTable | None:
    """Map a table that `UtteranceTable.write` wrote; None where there is none of these lists, or it is damaged."""
    try:
        with pa.memory_map(os.fspath(path)) as file:
            table = pa.ipc.open_file(file).read_all()
        metadata = table.schema.metadata or {}
        if json.loads(metadata[_LISTS]) != lists:
            return None
        table.validate(full=True)
        ids, locations, index, seconds = (table.column(name).chunk(0) for name in table.column_names)
        names = [str(name) for name in json.loads(metadata[_SPEAKERS])]
        codes = index.to_numpy()
        if codes.dtype != np.int32 or not 0 <= codes.min() <= codes.max() < len(names):
            return None
        return UtteranceTable(_Columns(path.parent, ids, locations, names, codes, seconds.to_numpy()))
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError, IndexError):
        return None


def find(names: pa.StringArray, known: pa.StringArray) -> np.ndarray:
    """The place of each name among the known ones, int64; -1 where it is none of them."""
    if names.equals(known):
        return np.arange(len(names))
    return pc.fill_null(pc.index_in(names, value_set=known), -1).to_numpy().astype(np.int64)


def _utterance(folder: Path, name: str, location: bytes, speaker: str, seconds: float) -> Utterance:
    path = located(os.fsdecode(location), folder)
    return Utterance(name, path, speaker, None if np.isnan(seconds) else seconds)


def _renumbered(codes: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Those of ``n`` codes that are used, ascending, and for each its place among these, int32."""
    is_used = np.zeros(n, bool)
    is_used[codes] = True
    return np.flatnonzero(is_used), (np.cumsum(is_used, dtype=np.int32) - 1)[codes].astype(np.int32, copy=False)
