"""The batches of each epoch, from data workers that may hang, be killed, or find no room in shared memory."""

import contextlib
import multiprocessing
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling

from spkver.data.augment import Augmenter
from spkver.data.dataset import Collate, SpeakerCrops
from spkver.data.sampler import SpeakerBatchSampler
from spkver.data.shared_memory import Packed
from spkver.errors import SpkverError
from spkver.models.device import full_float32
from spkver.training.stopping import StopRequest, ignore_interrupts, signals_held

# A worker that has not ended by then is killed.
_SECONDS_TO_END = 2.0
_WHY = {
    "SIGKILL": "the system does so when memory runs out; lower data.workers, data.cache_gigabytes or the batch",
    "SIGBUS": "shared memory ran out; give the machine more of /dev/shm, or lower data.workers",
    "SIGSEGV": "a library that decodes audio crashed, or memory is faulty",
}


class WorkerDied(BaseException):
    """A data worker ended by itself; the message says how and guesses why."""


def build_loader(
    dataset: SpeakerCrops, sampler: SpeakerBatchSampler, augmenter: Augmenter, workers: int, prefetch: int
) -> DataLoader:
    """A loader for `Batches`, whose workers outlive an epoch: each epoch is that which the sampler is set to then.

    Crops for a CPU are augmented by the workers, those for a GPU there.

    Args:
        workers: processes; 0: this one does all.
        prefetch: batches that each of them reads ahead.
    """
    on_gpu = augmenter.device.type != "cpu"
    # Arrow keeps the memory that lists were read with, 200 MiB for a million utterances, and workers would have it too.
    pa.default_memory_pool().release_unused()
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=Collate(dataset.crop_samples, None if on_gpu else augmenter),
        worker_init_fn=ignore_interrupts,
        prefetch_factor=prefetch if workers else None,
        persistent_workers=workers > 0,
        pin_memory=on_gpu,
    )


class Batches:
    """Iterates over the epochs of a loader whose items are batches or errors.

    It is a context: at its end no worker is left. A signal is obeyed while a batch is waited for. A worker that died
    is reported then, too, and never in the middle of a step, as torch does it: half a step could not be saved.

    Args:
        loader: see `build_loader`.
        stop_request: entered, or None where no signal is waited for.
        augmenter: on a GPU, to which batches go to be augmented; None: they are ready.

    Raises:
        SpkverError: from ``next``: a file cannot be read.
        StopNow, WorkerDied: from ``next``.
    """

    _said = False  # once in a process

    def __init__(self, loader: DataLoader, stop_request: StopRequest | None = None, augmenter: Augmenter | None = None):
        self._loader = loader
        self._augmenter = augmenter
        self._device = torch.device("cpu") if augmenter is None else augmenter.device
        self._at_once = contextlib.nullcontext if stop_request is None else stop_request.at_once
        self._waiting = False
        self._workers: list[BaseProcess] = []
        self._iterator: Iterator = iter(())
        self._begun, self._ended = False, True
        self._before = signal.getsignal(signal.SIGCHLD) or signal.SIG_DFL

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._end_workers()
        finally:  # only now: torch's own would raise for a worker that is killed there
            signal.signal(signal.SIGCHLD, self._before)

    @property
    def between_passes(self) -> bool:
        """Whether the next batch is the first of another pass: where the sampler may be set to one."""
        return self._ended

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

    def _begin_epoch(self) -> None:
        if self._begun:
            self._iterator = iter(self._loader)  # the workers are those of the epoch before
        else:
            others = multiprocessing.active_children()
            with signals_held():
                self._iterator = iter(self._loader)
            self._workers = [child for child in multiprocessing.active_children() if child not in others]
            signal.signal(signal.SIGCHLD, self._child_ended)
        self._begun, self._ended = True, False

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> tuple[Tensor, ...]:
        """The next batch; after the last one of an epoch, the first of the next."""
        try:
            batch = self._wait()
        except (RuntimeError, EOFError, OSError) as error:
            self._explain(error)
            raise
        if batch is None:
            self._ended = True
            raise StopIteration
        if isinstance(batch, SpkverError):
            raise batch
        return self._ready(batch)

    def _wait(self) -> Any:
        self._waiting = True
        try:
            self._check_workers()
            if self._ended:
                self._begin_epoch()
            with self._at_once():
                return next(self._iterator, None)
        finally:
            self._waiting = False

    def _ready(self, batch: Any) -> tuple[Tensor, ...]:
        if isinstance(batch, Packed):
            self._tell_of_pipe(batch)
            batch = batch.unpacked(self._device)
        if self._augmenter is None:
            return batch
        with full_float32():
            return self._augmenter(batch)

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
    def _tell_of_pipe(cls, batch: Packed) -> None:
        if batch.piped and not cls._said:
            cls._said = True
            print(
                "/dev/shm is too small for the batches: they come by a pipe, which is slower; "
                "give it more (docker run --shm-size=2g)",
                file=sys.stderr,
            )

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
