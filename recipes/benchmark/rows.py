"""Rows of a long benchmark: each is a process with cores of its own, kept in a file and not measured again."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from spkver.errors import SpkverError
from spkver.files import atomic_write


def measure_side_by_side(tasks: dict[Path, list[str]], n_cores: int) -> list[dict | None]:
    """What each task's process makes, as many of them at once as there are ``n_cores`` for; see ``measure``."""
    cores, free = sorted(os.sched_getaffinity(0)), SimpleQueue()
    for first in range(0, max(len(cores) - n_cores, 0) + 1, n_cores):
        free.put(cores[first : first + n_cores])

    def one(task: tuple[Path, list[str]]) -> dict | None:
        mine = free.get()
        try:
            return measure(*task, mine)
        finally:
            free.put(mine)

    with ThreadPoolExecutor(free.qsize()) as pool:
        return list(pool.map(one, tasks.items()))


def measure(path: Path, words: list[str], cores: list[int]) -> dict | None:
    """What this script, run again with ``words`` on ``cores``, prints as JSON; kept in ``path``, None is not.

    Raises:
        SpkverError: that process failed.
    """
    if not path.exists():
        print(f"{path.stem}: begins", file=sys.stderr, flush=True)
        command = ["taskset", "-c", ",".join(map(str, cores)), sys.executable, sys.argv[0], *words]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise SpkverError(f"{path.stem} stopped with an error, which stands above; rows that are done are kept")
        if json.loads(done.stdout) is None:
            return None
        with atomic_write(path) as file:
            file.write(done.stdout)
    return json.loads(path.read_text(encoding="utf-8"))
