"""Random numbers of a batch that is divided among processes, or computed piece by piece.

What is random in a step (dropout, SpecAugment) is drawn for the whole batch, and each part takes its slice: so the
masks, and the losses, are the same however a batch is divided. Another seed for each process would make a run depend on
their number, and the same seed would give all of them the same masks.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn


class BatchPart(NamedTuple):
    """One of so many equal ``parts`` of a batch, in its order."""

    number: int = 0  # counted from 0
    parts: int = 1


_present = BatchPart()


@contextmanager
def computing(part: BatchPart) -> Iterator[None]:
    """While entered, what is drawn for a batch is drawn for the whole of which it is ``part``."""
    global _present
    before, _present = _present, part
    try:
        yield
    finally:
        _present = before


def drawn(make: Callable[[int], Tensor], batch: int, dim: int = 0) -> Tensor:
    """What ``make(n)`` draws for all ``n`` items of the whole batch, of which the ``batch`` items of the part are kept.

    Args:
        make: number of items -> random values, items along ``dim``.
    """
    number, parts = _present
    return make(batch * parts).narrow(dim, number * batch, batch)


def kept(batch: int, *shape: int, share: float, device: torch.device) -> Tensor:
    """Ones, and zeros but for a ``share``: ``(batch, *shape)`` float32, see `drawn`."""
    return drawn(lambda n: torch.empty(n, *shape, device=device).bernoulli_(share), batch)


class BatchDropout(nn.Module):
    """Dropout of ``(batch, ..)``, see `drawn`; in training, what is kept is scaled up.

    Args:
        probability: of a value to become 0.
    """

    def __init__(self, probability: float):
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return x
        share = 1 - self.probability
        return x * (kept(*x.shape, share=share, device=x.device) / share).to(x.dtype)
