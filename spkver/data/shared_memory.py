"""Memory that a training process shares with its data workers.

A container has 64 MiB of ``/dev/shm`` unless asked for more, and torch takes all that is shared from there. What is
allocated here before the workers are forked is anonymous memory, of which there is as much as of any other. What a
worker makes later has to go through ``/dev/shm``; where that is full it is sent through a pipe, which is slower.
"""

import mmap
import multiprocessing
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


def shared_zeros(n: int, dtype: torch.dtype) -> Tensor:
    """``(n,)`` zeros that workers see and change as this process does; memory is taken as it is written to.

    Raises:
        OSError: there is not so much.
    """
    if _workers_are_forked():
        return torch.frombuffer(mmap.mmap(-1, max(n, 1) * dtype.itemsize), dtype=dtype, count=max(n, 1))[:n]
    try:
        return torch.zeros(n, dtype=dtype).share_memory_()
    except RuntimeError as error:
        raise OSError(str(error)) from None


class Piped(NamedTuple):
    """Tensors that found no room in shared memory, as arrays, which go from process to process by a pipe."""

    arrays: tuple[np.ndarray, ...]

    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(array) for array in self.arrays)


def ready_to_send(tensors: Sequence[Tensor]) -> tuple[Tensor, ...] | Piped:
    """Tensors of a worker in shared memory, or `Piped` where that is full.

    Left to itself, torch shares them in a thread of its own: one that fails there loses the batch, for which the
    training process then waits for ever.
    """
    try:
        return tuple(tensor.share_memory_() for tensor in tensors)
    except RuntimeError:
        return Piped(tuple(tensor.numpy() for tensor in tensors))


def _workers_are_forked() -> bool:
    return (multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]) == "fork"
