"""Commands in processes of their own, which need not load torch again."""

import contextlib
import os

from spkver.cli import main


def started(words: list[str]) -> int:
    """Begin a command in a process group of its own; its process id."""
    process = os.fork()
    if process:
        with contextlib.suppress(OSError):  # the child did it before
            os.setpgid(process, process)
        return process
    try:
        os.setpgid(0, 0)
        silent = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(silent, descriptor)
        os._exit(main(words))
    finally:
        os._exit(9)


def ended(process: int) -> int:
    """Wait for it; its exit status, below 0 that of a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
