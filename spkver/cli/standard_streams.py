"""Standard streams that are closed, as after ``2>&-`` and in some services."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from spkver.experiment.progress import Progress


def open_closed_streams() -> None:
    """Let standard streams that are closed lead nowhere.

    Python has None for them, which progress bars stumble over. And the next file that is opened, say a checkpoint,
    would have a closed stream's number, so that a library's messages would be written into it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  # for as long as it runs


@contextmanager
def silence() -> Iterator[None]:
    """A process for which another one speaks: nothing on standard output, no progress; errors are still told."""
    before, Progress.quiet = Progress.quiet, True
    try:
        with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
            yield
    finally:
        Progress.quiet = before
