"""Where the time of a step goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class StageTimer:
    """Seconds spent in each named part.

    A GPU works on while Python goes ahead: parts of it are right only when ``exact`` is set, which waits for it at
    each border and so slows it down.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.exact = False
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Add the time of the block to ``part``."""
        self._wait()
        start = time.perf_counter()
        try:
            yield
        finally:
            self._wait()
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start

    def _wait(self) -> None:
        if self.exact and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
