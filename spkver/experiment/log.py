"""``log.jsonl``: a record a step and a record an epoch; the same to TensorBoard when it is installed.

A resumed run cuts the log back to its checkpoint, so the log reads as if nothing had happened.
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from spkver.errors import SpkverError

# What lies beyond is damage: pictures make room for so many epochs.
_MOST_EPOCHS, _MOST = 10**6, 10**15


class Log:
    """Appends records to a file.

    Args:
        path: of the log.
        size: its length in bytes to go on from; what lies behind is cut off. 0 begins a new log.

    Raises:
        SpkverError: it cannot be written.
    """

    def __init__(self, path: Path, size: int = 0):
        self._path = path
        with self._one_line():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "ab")  # noqa: SIM115 (open as long as the run)
            self._file.truncate(self._length_to_keep(size))
            self._board = _tensorboard(path.parent / "tensorboard")

    def write(self, kind: str, place: int, record: dict) -> None:
        """Append ``record`` of a ``kind`` (``step`` or ``epoch``); ``place`` is its x in TensorBoard."""
        with self._one_line():
            self._file.write(json.dumps({"kind": kind, **record}).encode() + b"\n")
            self._file.flush()
            if self._board is not None:
                for key, value in record.items():
                    if isinstance(value, int | float) and key not in ("epoch", "step"):
                        self._board.add_scalar(f"{kind}/{key}", value, place)

    def sync(self) -> int:
        """Bring everything to the disk; returns the length of the log in bytes."""
        with self._one_line():
            self._file.flush()
            os.fsync(self._file.fileno())
            return self._file.tell()

    def close(self) -> None:
        # What could not be written was reported then, and is not in any checkpoint.
        with contextlib.suppress(OSError):
            self._file.close()
        if self._board is not None:
            with contextlib.suppress(OSError):
                self._board.close()

    def _length_to_keep(self, size: int) -> int:
        length = self._file.tell()
        if length >= size:
            return size
        # Somebody cut it: `truncate` would fill the gap with zeros.
        print(f"{self._path}: {size - length} bytes of earlier records are missing, going on without", file=sys.stderr)
        return self._path.read_bytes().rfind(b"\n") + 1

    @contextlib.contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SpkverError(
                f"{self._path}: cannot be written ({error.strerror or error}); mend that and go on with --resume"
            ) from None


def _tensorboard(folder: Path):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(folder)


def read_log(path: Path, kind: str) -> list[dict]:
    """The records of a kind, each of numbers only.

    What a stop or a power loss left at the end is left out: half a line, or the zeros of a file system.

    Raises:
        SpkverError: it cannot be read, or something else stands between records, with its line.
    """
    records, strange = [], None
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                line = line.lstrip(b"\0")
                if not line.strip():
                    continue
                record = _record(line)
                if record is None:
                    strange = strange or number
                elif strange:
                    raise SpkverError(f"{path}:{strange}: no record of a training, and others follow; delete the line")
                elif record.pop("kind") == kind:
                    records.append(record)
    except OSError as error:
        raise SpkverError(f"{path}: cannot be read ({error.strerror})") from None
    return records


def _record(line: bytes) -> dict | None:
    """What a line says; None where it is none of ours."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
        return None
    numbers = [value for key, value in record.items() if key != "kind"]
    if not all(isinstance(value, float) or (isinstance(value, int) and abs(value) <= _MOST) for value in numbers):
        return None
    epoch, step = record.get("epoch"), record.get("step", 1)
    counted = type(epoch) is int and type(step) is int and 1 <= epoch <= _MOST_EPOCHS and step >= 1
    return record if counted else None
