"""Work in parts that any number of threads, processes and machines with a common folder share.

The result of a part is a file that appears whole. Whoever makes it holds a lock of its own meanwhile, which the system
frees when its process ends, however it ends: so each part is made once, and that of a dead process is taken over by
those who still work. A file system without locks lets all of them make all parts, and the results are the same.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TypeVar

from spkver.files import claimed

Made = TypeVar("Made")
_TRY_AGAIN_SECONDS = 0.2


class StopWork(Exception):
    """The run ends; a part that is not finished is left."""


def share_work(
    parts: Sequence[int],
    read: Callable[[int], Made | None],
    make: Callable[[int, threading.Event], Made],
    lock_of: Callable[[int], Path],
    workers: int,
    is_over: Callable[[], bool] = lambda: False,
    begin_thread: Callable[[], object] = lambda: None,
) -> Iterator[tuple[int, Made, bool]]:
    """Bring all parts about, those that nobody else makes by this process.

    Args:
        parts: their numbers.
        read: gives a part that is there, else None.
        make: makes a part, keeps it where ``read`` finds it, and gives it; looks at the event, and raises `StopWork`
            when it is set. Called in one of several threads.
        lock_of: the lock file of a part.
        workers: threads.
        is_over: whether another process has meanwhile taken all parts together, and perhaps removed them: then nothing
            more is made.
        begin_thread: called in each thread first.

    Yields:
        ``(number, part, is_new)`` of all parts as they are there; ``is_new`` are those that this call made.
    """
    stop = threading.Event()

    def attempt(number: int) -> tuple[Made, bool] | None:
        """The part, and whether it was made here; None where another process is at it."""
        part = read(number)
        if part is not None:
            return part, False
        if stop.is_set():
            raise StopWork
        with claimed(lock_of(number), "work in parts") as is_mine:
            if not is_mine or is_over():
                return None
            part = read(number)  # finished by another since
            return (make(number, stop), True) if part is None else (part, False)

    left = list(parts)
    with ThreadPoolExecutor(workers, initializer=begin_thread) as pool:
        try:
            while left and not is_over():
                futures = {pool.submit(attempt, number): number for number in left}
                left = []
                for future in as_completed(futures):
                    # Popped, so that what was taken can be freed.
                    number, found = futures.pop(future), future.result()
                    if found is None:
                        left.append(number)
                    else:
                        yield number, *found
                if left:
                    time.sleep(_TRY_AGAIN_SECONDS)
        finally:
            # Also when the consumer goes away: Ctrl-C is obeyed after what is being done.
            stop.set()
            pool.shutdown(cancel_futures=True)
