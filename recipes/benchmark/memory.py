"""The memory of a process and of those that it started."""

import multiprocessing
import os
from pathlib import Path


def proportional_mebibytes(pid: int) -> float:
    """The proportional set size of a process: what several share counts for each of them by its part."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def mebibytes_with_workers() -> float:
    """Of this process and its data workers together."""
    workers = multiprocessing.active_children()
    return sum(proportional_mebibytes(pid) for pid in (os.getpid(), *(worker.pid for worker in workers)))
