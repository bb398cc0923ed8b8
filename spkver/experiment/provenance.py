"""What stored embeddings and scores were made of, so that one set of recordings or trials never passes for another.

A data directory is known by the last name of its path, a trial list by its file's name: readable, and not unique.
So ``made_of.json`` lies beside what was made, and is compared whenever that is read, or would be replaced.

The contents decide, not the path. A folder that was moved is still the same, and two lists at one path are
not. Of the recordings a few are compared, spread over the list, by size and by their first and last bytes.
"""

import hashlib
import json
import os
from pathlib import Path

from spkver.data.containers import AudioError, open_regular
from spkver.data.shards import Location, located
from spkver.errors import SpkverError
from spkver.files import write_json

_KEYS = {"data": {"path", "ids", "list", "recordings"}, "trials": {"path", "digest"}}
_RECORDINGS_COMPARED, _BYTES_COMPARED = 16, 4096


def data_name(data: str | os.PathLike[str]) -> str:
    """The name by which an experiment knows a data directory: the last one of its path, links and ``..`` resolved.

    Raises:
        SpkverError: the root of the file system, which has no name.
    """
    name = Path(data).resolve().name
    if not name:
        raise SpkverError(f"{data}: the root of the file system cannot be a data directory; make a folder in it")
    return name


def data_record(data: str | os.PathLike[str]) -> dict:
    """What a data directory is: path, and digests of its ids, its list, and a few of its recordings.

    Raises:
        SpkverError: its list cannot be read.
    """
    data = Path(data).resolve()
    content = _content(data / "wav.scp")
    # There may be a million: lines stay whole, since a list for each would take longer than all else.
    lines = [line for line in content.splitlines() if line.strip()]
    ids = b"\n".join(line.split(None, 1)[0] for line in lines)
    chosen = {index * len(lines) // _RECORDINGS_COMPARED for index in range(_RECORDINGS_COMPARED)} if lines else ()
    recordings = [
        _ends(located(os.fsdecode(lines[index].split(None, 1)[-1].strip()), data)) for index in sorted(chosen)
    ]
    return {
        "path": str(data),
        "ids": _sha256(ids),
        "list": _sha256(content),
        "recordings": _sha256(b"\0".join(recordings)) if any(recordings) else None,
    }


def same_data(one: dict, other: dict) -> bool:
    """Whether two records of data directories are of the same recordings under the same ids."""
    if one["ids"] != other["ids"]:
        return False
    # Recordings may be on another machine by now: then the lists have to do.
    there = one["recordings"] is not None and other["recordings"] is not None
    return one["recordings"] == other["recordings"] if there else one["list"] == other["list"]


def file_record(path: str | os.PathLike[str]) -> dict:
    """What a trial list or a list of models is: path, and a digest of its content.

    Raises:
        SpkverError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while content := file.read(1 << 20):
                digest.update(content)
    except OSError as error:
        raise SpkverError(f"{path}: cannot be read ({error.strerror})") from None
    return {"path": str(Path(path).resolve()), "digest": digest.hexdigest()}


def read_record(path: Path, *parts: str) -> dict | None:
    """Read a record; None where there is none.

    Args:
        path: the file.
        parts: what it must hold, of "data", "trials" and "model".

    Raises:
        SpkverError: it is damaged.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        for part in parts:
            if not has_part(record, part):
                raise ValueError(f"'{part}' is not as it was written")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        found = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise SpkverError(f"{path}: is damaged ({found}); delete it, and run the stage that made it again") from None
    return record


def has_part(record: dict, part: str) -> bool:
    """Whether a record holds "data", "trials" or "model" as they are written.

    Raises:
        AttributeError, TypeError, KeyError: it is no dictionary, or lacks the part.
    """
    values = record[part] if part in _KEYS else {part: record[part]}
    return _KEYS.get(part, set()) <= set(values) and all(_is_text(value) for value in values.values())


def write_record(path: Path, record: dict) -> None:
    """Write a record, whole or not at all."""
    write_json(path, record)


def refuse_to_replace(place: Path, old: dict | None, new: dict, is_same: bool, what: str) -> None:
    """Keep what was made of one data directory or list from being replaced by that of another of the same name.

    Args:
        place: what would be replaced.
        old, new: records with a ``path``; there may be no old one.
        is_same: whether both are of the same content.
        what: such as "embeddings".

    Raises:
        SpkverError: both exist, are at two paths, and differ.
    """
    if old is None or is_same or old["path"] == new["path"] or not Path(old["path"]).exists():
        return
    raise SpkverError(
        f"{place}: holds the {what} of {old['path']}, and those of {new['path']} would replace them, as both have one "
        f"name; rename one of the two, take another experiment's folder, or delete what is there"
    )


def _ends(path: Location) -> bytes:
    """Size, first and last bytes of a file; nothing where it cannot be read."""
    try:
        with open_regular(path) as file:
            first = file.read(_BYTES_COMPARED)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - _BYTES_COMPARED, 0))
            return b"%d " % size + first + file.read(_BYTES_COMPARED)
    except (AudioError, OSError):
        return b""


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SpkverError(f"{path}: cannot be read ({error.strerror})") from None


def _is_text(value) -> bool:
    return value is None or isinstance(value, str)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
