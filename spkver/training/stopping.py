"""Ctrl-C and SIGTERM as a wish to stop, granted after the current step."""

import signal
from types import TracebackType


class Stopped(Exception):
    """Training was asked to stop; its state is saved. ``signal_number`` says by what."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number


class StopRequest:
    """While entered, the first SIGINT or SIGTERM is only noted in ``signal_number``; a second one acts at once.

    A signal that the process was started to ignore (``nohup``, a script's background job) stays ignored.
    """

    signal_number: int | None = None

    def __enter__(self) -> "StopRequest":
        obeyed = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._note) for number in obeyed}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()

    def _note(self, number: int, frame) -> None:
        self.signal_number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
