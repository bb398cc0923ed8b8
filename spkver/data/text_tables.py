"""Tables of text, as trial lists and score files are, of any length and at the speed of the disk.

- Valid tables are parsed in blocks by Arrow, ids as numbers into the distinct ids of the block; ten million
  lines take seconds. What Arrow refuses is read again line by line, which finds the line to complain about.
- Columns are parted by any white space; UTF-8 with or without byte order mark, LF or CRLF. Quotes and
  backslashes are ordinary characters. Text is brought to Unicode's composed form, see `spkver.data.names`.
- A block knows where it ends in the file, so that a long job can go on there.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from spkver.data.names import composed
from spkver.errors import SpkverError

BLOCK_BYTES = 1 << 24
_MARK = b"\xef\xbb\xbf"
# What str.split() takes for white space within ASCII, beside the line end.
_BLANKS = bytes.maketrans(b"\t\r\x0b\x0c\x1c\x1d\x1e\x1f", b" " * 8)
_TEXT = pa.dictionary(pa.int32(), pa.string())


class Irregular(Exception):
    """A block that is no table of one width; its lines have to be looked at one by one."""


@dataclass(frozen=True)
class Block:
    """Some consecutive lines of a table.

    Attributes:
        columns: one array a column: dictionary-encoded strings, or numbers where asked for.
        end: the offset of the first byte behind them.
    """

    columns: list[pa.Array]
    end: int

    def __len__(self) -> int:
        return len(self.columns[0])

    def text(self, column: int) -> tuple[list[str], np.ndarray]:
        """The distinct strings of a column, and for each line the number of its string, (n_lines,) int32."""
        encoded = self.columns[column]
        return encoded.dictionary.to_pylist(), encoded.indices.to_numpy()


def read_blocks(
    path: str | os.PathLike[str],
    start: int = 0,
    numbers: Sequence[int] = (),
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[Block]:
    """Yield a table's lines in blocks; blank lines are passed over.

    Args:
        path: the file.
        start: the offset of a line's first byte.
        numbers: the columns that hold numbers, read as float32; the others are text.
        block_bytes: about as many bytes at a time; the lines are the same for any value.

    Raises:
        Irregular: lines of different widths, or text where a number is expected.
        SpkverError: the file cannot be read, or has no line that is not blank.
    """
    found = start > 0
    try:
        with Path(path).open("rb") as file:
            file.seek(start)
            for text, end in _whole_lines(file, block_bytes):
                text = _single_blanks(text)
                if not text.strip():
                    continue
                found = True
                yield Block(_parsed(text, numbers), end)
    except OSError as error:
        raise SpkverError(f"{path}: cannot be read ({error.strerror})") from None
    if not found:
        raise SpkverError(f"{path}: the list is empty")


def table_rows(path: str | os.PathLike[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield ``(line number, columns)`` for each line that is not blank: the careful way, line by line.

    Raises:
        SpkverError: the file cannot be read, is not UTF-8 (naming the line), or has no line that is not blank.
    """
    found = False
    try:
        with Path(path).open("rb") as file:
            # Not splitlines(): that also breaks at form feeds, and line numbers would differ from an editor's.
            for line, row in enumerate(file, start=1):
                try:
                    columns = composed(row.decode("utf-8-sig" if line == 1 else "utf-8")).split()
                except UnicodeDecodeError:
                    raise SpkverError(f"{path}:{line}: not UTF-8; convert the file (iconv -t UTF-8)") from None
                if b"\0" in row:
                    raise SpkverError(f"{path}:{line}: holds a NUL byte, the file is damaged; write it again")
                if columns:
                    found = True
                    yield line, columns
    except OSError as error:
        raise SpkverError(f"{path}: cannot be read ({error.strerror})") from None
    if not found:
        raise SpkverError(f"{path}: the list is empty")


def joined_lines(*columns: pa.Array) -> pa.Buffer:
    """Lines of columns parted by single blanks, as the bytes of a file."""
    parts = [part for column in columns for part in (column, pa.scalar(" "))]
    lines = pc.binary_join_element_wise(*parts[:-1], pa.scalar("\n"), pa.scalar(""))
    _, offsets, text = lines.buffers()
    ends = np.frombuffer(offsets, np.int32)[[lines.offset, lines.offset + len(lines)]]
    return text[ends[0] : ends[1]]


def line_number(path: str | os.PathLike[str], index: int) -> int:
    """The line on which entry ``index`` of a table stands: only looked up for a message."""
    return next(line for entry, (line, _) in enumerate(table_rows(path)) if entry == index)


def _whole_lines(file: BinaryIO, block_bytes: int) -> Iterator[tuple[bytes, int]]:
    """Blocks that end with a line's end, and the offset behind each."""
    while text := file.read(block_bytes):
        text += file.readline()
        yield text, file.tell()


def _single_blanks(text: bytes) -> bytes:
    """The same lines with one blank between columns, none around them, and no carriage return."""
    text = text.removeprefix(_MARK).replace(b"\r\n", b"\n")
    if b"\0" in text:
        raise Irregular
    if not text.isascii():
        try:
            text = re.sub(r"[^\S\n]", " ", composed(text.decode())).encode()
        except UnicodeDecodeError:
            raise Irregular from None
    text = text.translate(_BLANKS)
    if b"  " in text:
        text = re.sub(b" +", b" ", text)
    return text.replace(b" \n", b"\n").replace(b"\n ", b"\n").strip(b" ")


def _parsed(text: bytes, numbers: Sequence[int]) -> list[pa.Array]:
    width = text.lstrip(b"\n").split(b"\n", 1)[0].count(b" ") + 1
    names = [str(column) for column in range(width)]
    types = {name: pa.float32() if column in numbers else _TEXT for column, name in enumerate(names)}
    try:
        table = csv.read_csv(
            pa.BufferReader(text),
            # One block: its dictionaries need no merging.
            csv.ReadOptions(column_names=names, block_size=len(text) + 1, use_threads=False),
            csv.ParseOptions(delimiter=" ", quote_char=False, ignore_empty_lines=True),
            csv.ConvertOptions(column_types=types, null_values=[], strings_can_be_null=False),
        )
    except pa.ArrowInvalid:
        raise Irregular from None
    return [column.combine_chunks() if column.num_chunks != 1 else column.chunk(0) for column in table.columns]
