"""Many inputs, each read in a process with limits of memory and time, and what became of them.

A process reads one input after the other, which is fast; where one ends it, or is stopped for its time, the next
process goes on behind that input.
"""

import contextlib
import json
import os
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from spkver.errors import SpkverError

MOST_BYTES = 2 << 30
MOST_SECONDS = 20.0
MOST_CHARACTERS = 500
_KEPT_OF_A_KIND = 3

OUTCOMES = ("accepted", "clean errors", "tracebacks", "hangs", "crashes")
BAD = OUTCOMES[2:]


@dataclass
class Tally:
    """What became of the inputs of one format."""

    counts: Counter = field(default_factory=Counter)
    kinds: Counter = field(default_factory=Counter)  # of what must not be: the place in the code -> how often
    slowest_seconds: float = 0.0
    most_megabytes: int = 0

    @property
    def faults(self) -> int:
        return sum(self.counts[name] for name in BAD)


def run_inputs(
    name: str, make: Callable[[Random, Path], None], read: Callable[[Path], None], n: int, work: Path, kept: Path
) -> Tally:
    """Make and read ``n`` inputs of a format.

    Args:
        name: of the format; with an input's number it is the seed.
        make: puts an input into an empty folder.
        read: reads it.
        work: gets one input at a time.
        kept: gets each input that must not be, and beside it what happened.
    """
    tally = Tally()
    number = 0
    while number < n:
        number = _one_process(name, make, read, number, n, work, kept, tally)
    return tally


def _one_process(name, make, read, first: int, n: int, work: Path, kept: Path, tally: Tally) -> int:
    """Read from an input on, as far as one process comes; returns the number of the next one."""
    receiving, sending = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process == 0:
        os.close(receiving)
        _work(name, make, read, range(first, n), work, kept, sending)
    os.close(sending)
    number, place = first, work / f"{name}-{process}"
    try:
        with os.fdopen(receiving, "rb", buffering=0) as answers:
            rest = b""
            until = time.monotonic() + MOST_SECONDS + 10  # the first has to start, too
            while True:
                ready, _, _ = select.select([answers], [], [], max(0.0, until - time.monotonic()))
                got = answers.read(1 << 16) if ready else None
                if not got:
                    break
                *lines, rest = (rest + got).split(b"\n")
                for line in lines:
                    _count(tally, name, number, json.loads(line), kept, place)
                    number += 1
                    until = time.monotonic() + MOST_SECONDS
        if number < n:
            hung = not ready
            what = "hangs" if hung else "crashes"
            os.kill(process, signal.SIGKILL)
            _, status = os.waitpid(process, 0)
            kind = f"over {MOST_SECONDS:.0f} s" if hung else f"status {status}"
            _count(tally, name, number, {"outcome": what, "kind": kind}, kept, place)
            return number + 1
        os.waitpid(process, 0)
        return number
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _count(tally: Tally, name: str, number: int, answer: dict, kept: Path, place: Path) -> None:
    tally.counts["inputs"] += 1
    tally.counts[answer["outcome"]] += 1
    tally.slowest_seconds = max(tally.slowest_seconds, answer.get("seconds", 0.0))
    tally.most_megabytes = max(tally.most_megabytes, answer.get("megabytes", 0))
    if answer["outcome"] not in BAD:
        return
    tally.kinds[answer["kind"]] += 1
    if answer["outcome"] in ("hangs", "crashes") and not (kept / f"{name}-{number}").exists():
        _keep(place / "input", kept / f"{name}-{number}", answer["kind"])


def _keep(folder: Path, target: Path, what_happened: str) -> None:
    with contextlib.suppress(shutil.Error):
        shutil.copytree(folder, target, dirs_exist_ok=True, symlinks=True)
    target.mkdir(parents=True, exist_ok=True)
    (target / "what-happened.txt").write_text(what_happened, errors="backslashreplace")


def _work(name, make, read, numbers: range, work: Path, kept: Path, sending: int) -> None:
    """In the child: never returns."""
    status = 1
    seen = Counter()
    try:
        place = work / f"{name}-{os.getpid()}"
        folder = place / "input"
        place.mkdir(parents=True)
        _quiet(place / "said")
        _limit()
        for number in numbers:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(Random(f"{name} {number}"), folder)
            answer = _judged(read, folder, place / "said")
            if answer["outcome"] in BAD:
                seen[answer["kind"]] += 1
                if seen[answer["kind"]] <= _KEPT_OF_A_KIND:
                    _keep(folder, kept / f"{name}-{number}", f"{answer['kind']}\n{answer.pop('text')}")
            os.write(sending, json.dumps(answer).encode() + b"\n")
        status = 0
    except BaseException:
        _keep(folder, kept / f"{name}-{number}", f"the campaign itself: {traceback.format_exc()}")
    finally:
        os._exit(status)


def _quiet(said: Path) -> None:
    """What the program prints goes to a file; standard input is empty."""
    for descriptor, path, flags in ((0, os.devnull, os.O_RDONLY), (1, os.devnull, os.O_WRONLY)):
        os.dup2(os.open(path, flags), descriptor)
    os.dup2(os.open(said, os.O_RDWR | os.O_CREAT | os.O_APPEND), 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115


def _limit() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _judged(read, folder: Path, said: Path) -> dict:
    os.truncate(said, 0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory begins anew
    before = _peak_kilobytes()
    start = time.monotonic()
    answer = {"outcome": "accepted"}
    try:
        read(folder)
    except SpkverError as error:
        text = str(error)
        clean = len(text) < MOST_CHARACTERS and text.isprintable()
        answer = {"outcome": "clean errors"} if clean else _fault("long or of several lines", text[:2000])
    except Exception as error:
        answer = _fault(_where(error), traceback.format_exc())
    sys.stderr.flush()
    printed = said.read_text(errors="replace")
    if "Traceback" in printed and answer["outcome"] not in BAD:
        answer = _fault("a traceback that was printed", printed[-4000:])
    answer["seconds"] = time.monotonic() - start
    answer["megabytes"] = (_peak_kilobytes() - before) >> 10
    return answer


def _fault(kind: str, text: str) -> dict:
    return {"outcome": "tracebacks", "kind": kind, "text": text}


def _where(error: Exception) -> str:
    """The error's type, and the last place in spkver that it went through."""
    places = [place for place in traceback.extract_tb(error.__traceback__) if "/spkver/" in place.filename]
    last = places[-1] if places else traceback.extract_tb(error.__traceback__)[-1]
    file = last.filename.rpartition("/spkver/")[2]
    return f"{type(error).__name__} in {file}:{last.lineno} {last.name}"


def _peak_kilobytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0
