"""The batches of an epoch, from data workers that may hang, be killed, or find no room in shared memory."""

import contextlib
import multiprocessing
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing.connection import wait
from types import TracebackType

from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling

from spkver.data.shared_memory import Piped
from spkver.errors import SpkverError
from spkver.training.stopping import StopRequest

# A worker that has not ended by then is killed.
_SECONDS_TO_END = 2.0
_WHY = {
    "SIGKILL": "the system does so when memory runs out; lower data.workers, data.cache_gigabytes or the batch",
    "SIGBUS": "shared memory ran out; give the machine more of /dev/shm, or lower data.workers",
    "SIGSEGV": "a library that decodes audio crashed, or memory is faulty",
}


class WorkerDied(BaseException):
    """A data worker ended by itself; the message says how and guesses why."""


class Batches:
    """Iterates once over a loader whose items are batches or errors.

    It is a context: at its end no worker is left. A signal is obeyed while a batch is waited for. A worker that died
    is reported then, too, and never in the middle of a step, as torch does it: half a step could not be saved.

    Args:
        loader: of the epoch, or of what is left of it.
        stop_request: entered, or None where no signal is waited for.

    Raises:
        SpkverError: from ``next``: a file cannot be read.
        StopNow, WorkerDied: from ``next``.
    """

    _said = False  # once in a process, whatever the number of epochs

    def __init__(self, loader: DataLoader, stop_request: StopRequest | None = None):
        self._at_once = contextlib.nullcontext if stop_request is None else stop_request.at_once
        self._waiting = False
        others = multiprocessing.active_children()
        self._before = signal.getsignal(signal.SIGCHLD) or signal.SIG_DFL
        self._iterator = iter(loader)
        self._workers = [child for child in multiprocessing.active_children() if child not in others]
        signal.signal(signal.SIGCHLD, self._child_ended)

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._end_workers()
        finally:  # only now: torch's own would raise for a worker that is killed there
            signal.signal(signal.SIGCHLD, self._before)

    def _end_workers(self) -> None:
        if not self._workers:
            return
        # torch asks every worker to end, and would wait long for one that hangs.
        killer = threading.Timer(_SECONDS_TO_END, self._kill)
        killer.start()
        self._iterator._shutdown_workers()  # type: ignore[attr-defined]  # of the iterator with workers
        for worker in self._workers:
            worker.join()
        killer.cancel()

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return self

    def __next__(self) -> tuple[Tensor, ...]:
        with self._at_once():
            self._waiting = True
            try:
                self._check_workers()
                batch = next(self._iterator, None)
            except (RuntimeError, EOFError, OSError) as error:
                self._explain(error)
                raise
            finally:
                self._waiting = False
        if batch is None:
            raise StopIteration
        if isinstance(batch, SpkverError):
            raise batch
        return self._unpacked(batch) if isinstance(batch, Piped) else batch

    def _explain(self, error: Exception) -> None:
        """Raise what an error of torch's comes from, where that is known."""
        # What a worker had shared is lost with it, a moment before the system says that it died.
        ended = wait([worker.sentinel for worker in self._workers], timeout=_SECONDS_TO_END)
        for worker in self._workers:
            if worker.sentinel in ended:
                worker.join()
        self._check_workers()
        if "Too many open files" in str(error):
            raise SpkverError("too many open files; raise `ulimit -n`, or lower data.workers") from None

    @classmethod
    def _unpacked(cls, batch: Piped) -> tuple[Tensor, ...]:
        if not cls._said:
            cls._said = True
            print(
                "/dev/shm is too small for the batches: they come by a pipe, which is slower; "
                "give it more (docker run --shm-size=2g)",
                file=sys.stderr,
            )
        return batch.tensors()

    def _child_ended(self, number: int, frame) -> None:
        if self._waiting:
            self._check_workers()
        # Not torch's own, where a loader without this left it: it raises in the middle of a step.
        if callable(self._before) and getattr(self._before, "__module__", None) != signal_handling.__name__:
            self._before(number, frame)

    def _check_workers(self) -> None:
        for worker in self._workers:
            if worker.exitcode:
                raise WorkerDied(_how_it_died(worker.pid, worker.exitcode))

    def _kill(self) -> None:
        for worker in self._workers:
            worker.kill()


def _how_it_died(pid: int | None, exitcode: int) -> str:
    """``exitcode``: as `multiprocessing.Process` has it, negative for a signal."""
    if exitcode > 0:
        return f"data worker (process {pid}) ended with status {exitcode}"
    name = signal.Signals(-exitcode).name
    why = f": {_WHY[name]}" if name in _WHY else ""
    return f"data worker (process {pid}) was killed by {name}{why}"
