"""``log.jsonl``: a record a step and a record an epoch; the same to TensorBoard when it is installed.

A resumed run cuts the log back to its checkpoint, so the log reads as if nothing had happened.
"""

import json
import os
from pathlib import Path


class Log:
    """Appends records to a file.

    Args:
        path: of the log.
        size: its length in bytes to go on from; what lies behind is cut off. 0 begins a new log.
    """

    def __init__(self, path: Path, size: int = 0):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "ab")  # noqa: SIM115 (open as long as the run)
        self._file.truncate(size)
        self._board = _tensorboard(path.parent / "tensorboard")

    def write(self, kind: str, place: int, record: dict) -> None:
        """Append ``record`` of a ``kind`` (``step`` or ``epoch``); ``place`` is its x in TensorBoard."""
        self._file.write(json.dumps({"kind": kind, **record}).encode() + b"\n")
        self._file.flush()
        if self._board is not None:
            for key, value in record.items():
                if isinstance(value, int | float) and key not in ("epoch", "step"):
                    self._board.add_scalar(f"{kind}/{key}", value, place)

    def sync(self) -> int:
        """Bring everything to the disk; returns the length of the log in bytes."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def _tensorboard(folder: Path):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(folder)


def read_log(path: Path, kind: str) -> list[dict]:
    """The records of a kind; a last line that a stop cut short is left out."""
    records = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            if not line.endswith("\n"):
                break
            record = json.loads(line)
            if record.pop("kind") == kind:
                records.append(record)
    return records
