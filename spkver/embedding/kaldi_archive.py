"""Vectors in Kaldi's archives: ``.ark`` (binary or text) and ``.scp`` (where in which archive each one begins).

The forms are those of Kaldi's ``Vector::Read`` and ``Matrix::Read`` (https://kaldi-asr.org/doc/io.html).

- The package kaldiio (2.18) is not used: embeddings come from strangers, and it runs a line of an scp that ends
  with ``|`` as a shell command and unpickles whatever follows ``PKL`` in an archive, which no argument forbids. It
  also takes a truncated vector for a shorter one, and guesses integers from a text vector's first value.
- A relative path in an scp is relative to the current directory, as in Kaldi, and only if no file is there, to
  the folder of the scp.
- An archive is mapped, not read, and an scp's archives are gone through one after the other.
"""

import mmap
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from spkver.data.directory import read_columns
from spkver.data.lookup import check_ids
from spkver.embedding.rows import Where, stacked
from spkver.errors import SpkverError
from spkver.files import atomic_write

_KEY = re.compile(rb"\s*(\S+)[ \t]")
_REST_IS_BLANK = re.compile(rb"\s*\Z")
# A vector, or a matrix whose number of rows is 1, up to its number of columns. Kaldi is little-endian throughout.
_BINARY = re.compile(rb"\0B([FD])(?:V |M \x04\x01\0\0\0)\x04(.{4})", re.DOTALL)
_BINARY_MATRIX = re.compile(rb"\0B[FD]M \x04(.{4})\x04(.{4})", re.DOTALL)
_TEXT = re.compile(rb"[ \t]*\[([^\]]*)\][ \t\r]*(?:\n|\Z)")
_TYPES: dict[bytes, np.dtype] = {b"F": np.dtype("<f4"), b"D": np.dtype("<f8")}
_OFFSET = re.compile(r"(.+):([0-9]+)", re.DOTALL)
_RANGE = re.compile(r".*\[[0-9:,\s]*\]", re.DOTALL)


class NoVector(Exception):
    """What stands at a place of an archive is not one vector; the text says what it is."""


def starts_entry(content: bytes) -> bool:
    """Whether a file that begins like this is an archive: an id, then a vector's or a matrix's first bytes."""
    key = _KEY.match(content)
    return key is not None and (content.startswith(b"\0B", key.end()) or content[key.end() :].lstrip()[:1] == b"[")


def read_ark(path: str | os.PathLike[str]) -> tuple[np.ndarray, list[str]]:
    """Read all vectors of an archive, in its order.

    Returns:
        ``(embeddings, utts)``: (N, D) float32 and N ids.

    Raises:
        SpkverError: naming file, byte and utterance: what is no vector, a truncated one, dimensions that differ, a
            row that is NaN, infinite or zero, an id there twice; or an empty or unreadable file.
    """
    data = _mapped(Path(path), str(path))
    utts, vectors, offsets, at = [], [], [], 0
    while not _REST_IS_BLANK.match(data, at):
        key = _KEY.match(data, at)
        if key is None:
            raise SpkverError(f"{path} at byte {at}: no utterance id with a vector behind it; is it cut off?")
        try:
            utts.append(key[1].decode())
            vector, at = _vector(data, key.end())
        except UnicodeDecodeError:
            raise SpkverError(f"{path} at byte {key.start(1)}: the id {key[1][:40]!r} is not UTF-8") from None
        except NoVector as fault:
            raise SpkverError(f"{path} at byte {key.end()}: '{utts[-1]}' {fault}") from None
        vectors.append(vector)
        offsets.append(key.start(1))

    def where(index: int) -> str:
        return f"{path} at byte {offsets[index]}"

    if not utts:
        raise SpkverError(f"{path}: there are no embeddings")
    check_ids(utts, where)
    return stacked(enumerate(vectors), utts, where), utts


def read_scp(path: str | os.PathLike[str]) -> tuple[np.ndarray, list[str]]:
    """Read the vectors that an scp lists, in its order; a line is ``utt FILE:BYTE``, or ``utt FILE`` for byte 0.

    Returns:
        ``(embeddings, utts)``: (N, D) float32 and N ids.

    Raises:
        SpkverError: naming ``file:line``: a pipe, a range, no such archive, an offset beyond its end or where no
            vector begins, dimensions that differ, a row that is NaN, infinite or zero, an id there twice; or an
            empty or unreadable list.
    """
    path = Path(path)
    lines, utts, entries = [], [], []
    try:
        for line, utt, location in read_columns(path):
            lines.append(line)
            utts.append(utt)
            entries.append(_parsed(location, f"{path}:{line}: '{utt}'"))
    except OSError as error:
        raise SpkverError(f"{path}: cannot be read ({error.strerror})") from None

    def where(index: int) -> str:
        return f"{path}:{lines[index]}"

    if not utts:
        raise SpkverError(f"{path}: the list is empty")
    check_ids(utts, where)
    vectors = _listed_vectors(entries, path.parent, lambda index: f"{where(index)}: '{utts[index]}'")
    return stacked(vectors, utts, where), utts


def write_ark(
    embeddings: np.ndarray, utts: Sequence[str], ark_path: str | os.PathLike[str], scp_path: str | os.PathLike[str]
) -> None:
    """Write checked rows as a binary archive of float vectors, and its scp, which has ``ark_path`` as given.

    Raises:
        SpkverError: a line of an scp cannot hold ``ark_path``, or both paths are one.
    """
    ark, scp = os.fspath(ark_path), Path(scp_path)
    if ark != ark.strip() or "\n" in ark or ark.startswith("|"):
        raise SpkverError(f"{ark!r}: such a path does not fit on a line of an scp; rename it")
    if Path(ark).absolute() == scp.absolute():
        raise SpkverError(f"{ark}: archive and scp must be two files")
    count = len(embeddings[0]).to_bytes(4, "little")
    at = 0
    # The scp goes away first and comes back last: no stop leaves one that points into another archive.
    with atomic_write(scp) as lines, atomic_write(ark, "wb") as archive:
        for utt, row in zip(utts, embeddings):
            key = utt.encode() + b" "
            entry = b"".join((key, b"\0BFV \4", count, row.astype("<f4").tobytes()))
            lines.write(f"{utt} {ark}:{at + len(key)}\n")
            archive.write(entry)
            at += len(entry)
        lines.flush()
        archive.flush()
        scp.unlink(missing_ok=True)


def _parsed(location: str, who: str) -> tuple[str, int]:
    """File and byte of a line of an scp."""
    if location.startswith("|") or location.endswith("|"):
        raise SpkverError(f"{who} is a command (`... |`), which is never run from a list; write an archive first")
    if _RANGE.fullmatch(location):
        raise SpkverError(f"{who} is a range of a matrix ('{location}'); an embedding is a whole vector")
    offset = _OFFSET.fullmatch(location)
    return (offset[1], int(offset[2])) if offset else (location, 0)


def _listed_vectors(entries: list[tuple[str, int]], folder: Path, who: Where) -> Iterator[tuple[int, np.ndarray]]:
    """The row and the vector of each entry, one archive after the other."""
    of_archive: dict[str, list[int]] = {}
    for index, (archive, _) in enumerate(entries):
        of_archive.setdefault(archive, []).append(index)
    for archive, indices in of_archive.items():
        here = Path(archive)
        data = _mapped(here if here.is_file() else folder / archive, f"{who(indices[0])}: {archive}")
        for index in indices:
            offset = entries[index][1]
            if offset >= len(data):
                raise SpkverError(f"{who(index)} is at byte {offset} of {archive}, which has {len(data)} bytes")
            try:
                yield index, _vector(data, offset)[0]
            except NoVector as fault:
                raise SpkverError(f"{who(index)}, byte {offset} of {archive}, {fault}") from None


def _mapped(path: Path, name: str) -> mmap.mmap:
    """A file's bytes; the map goes away with the last vector that looks into it."""
    if not path.is_file():
        raise SpkverError(f"{name}: no such file")
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:
        raise SpkverError(f"{name}: the file is empty") from None
    except OSError as error:
        raise SpkverError(f"{name}: cannot be read ({error.strerror})") from None


def _vector(data: mmap.mmap, at: int) -> tuple[np.ndarray, int]:
    """The vector that begins at a byte, binary or text, and the byte behind it."""
    header = _BINARY.match(data, at)
    if header is None:
        return _text_vector(data, at)
    kind, count = _TYPES[header[1]], int.from_bytes(header[2], "little", signed=True)
    start, end = header.end(), header.end() + count * kind.itemsize
    if count <= 0:
        raise NoVector(f"is a vector of {count} values")
    if end > len(data):
        raise NoVector(f"is cut off: it has {count} values, and the file ends {end - len(data)} bytes too early")
    return np.frombuffer(data, kind, count, start), end


def _text_vector(data: mmap.mmap, at: int) -> tuple[np.ndarray, int]:
    found = _TEXT.match(data, at)
    if found is None:
        raise NoVector(_what_stands_there(data, at))
    rows = [row for row in re.split(rb"[\n;]", found[1]) if row.strip()]
    if len(rows) != 1:
        raise NoVector(f"is a matrix of {len(rows)} rows, not a vector" if rows else "has no values")
    try:
        values = [float(value) for value in rows[0].split()]
    except ValueError as error:
        raise NoVector(f"is no vector of numbers ({error}); is it cut off?") from None
    with np.errstate(over="ignore"):  # named as infinite later
        return np.array(values).astype(np.float32), found.end()


def _what_stands_there(data: mmap.mmap, at: int) -> str:
    """Why neither a binary nor a text vector begins at a byte."""
    matrix = _BINARY_MATRIX.match(data, at)
    if matrix:
        rows, columns = (int.from_bytes(number, "little", signed=True) for number in matrix.groups())
        return f"is a matrix of {rows} x {columns}, not a vector; are these features?"
    begin = data[at : at + 8]
    if begin.startswith(b"\0B"):
        return f"is cut off, or no vector of floats (it begins with {begin!r})"
    if begin.lstrip(b" \t").startswith(b"["):
        return "has no line that ends with ']'; is it cut off?"
    return f"is no vector, neither binary (\\0B) nor text ([ ... ]); it begins with {begin!r}"
