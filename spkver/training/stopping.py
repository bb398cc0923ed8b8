"""Signals as a wish to stop, granted after the current step or while nothing is changed."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import torch

# Seconds in which what is waited for may still come: leaving in the middle of a transfer makes the other end complain.
_PATIENCE = 1.0

# What a scheduler takes for "try again" (EX_TEMPFAIL of sysexits.h).
TRY_AGAIN = 75

# SIGHUP comes when a terminal or an ssh connection closes.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


def ignore_interrupts(worker: int) -> None:
    """In a data worker: one thread, and being stopped is the main process's business.

    A terminal's ctrl-C and a scheduler's SIGTERM reach the workers too; one that died of it would
    take away the batch that the main process waits for before it saves. Workers end with their parent.
    """
    torch.set_num_threads(1)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def signals_held() -> Iterator[None]:
    """While entered, ``SIGNALS`` wait; a process that is started meanwhile is never told of them.

    Before a data worker comes to `ignore_interrupts`, it would die of them.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Stopped(Exception):
    """Training ended before its last epoch, with its state saved; ``status`` is the exit status that tells why."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


class StopNow(BaseException):
    """Raised in a block that may be left at any place; no ``except Exception`` of a library stops it."""

    def __init__(self, signal_number: int):
        super().__init__()
        self.signal_number = signal_number


class StopRequest:
    """While entered, the first of ``SIGNALS`` is only noted in ``signal_number``; a second one acts at once.

    A signal that the process was started to ignore (``nohup``, a script's background job) stays ignored.
    """

    signal_number: int | None = None
    _may_leave = False

    def __enter__(self) -> "StopRequest":
        obeyed = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._note) for number in obeyed}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._restore()

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """A block that is left where it stands a moment after a signal, such as a wait for data that may never come.

        Raises:
            StopNow: then, and at once for a signal that was noted before.
        """
        self._may_leave = True
        try:
            if self.signal_number is not None:
                raise StopNow(self.signal_number)
            yield
        finally:
            self._may_leave = False

    def _note(self, number: int, frame) -> None:
        self.signal_number = number
        self._restore()
        self._before = {signal.SIGALRM: signal.signal(signal.SIGALRM, self._leave)}
        signal.setitimer(signal.ITIMER_REAL, _PATIENCE)

    def _leave(self, number: int, frame) -> None:
        if self._may_leave and self.signal_number is not None:
            raise StopNow(self.signal_number)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
