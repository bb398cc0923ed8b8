"""Memory that a training process shares with its data workers.

A container has 64 MiB of ``/dev/shm`` unless asked for more, and torch takes all that is shared from there. What is
allocated here before the workers are forked is anonymous memory, of which there is as much as of any other. What a
worker makes later has to go through ``/dev/shm``; where that is full it is sent through a pipe, which is slower.
"""

import contextlib
import mmap
import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

# Of each tensor in packed memory, in bytes: the width of the widest registers.
_ALIGNMENT = 64


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


class Packed(NamedTuple):
    """A batch whose tensors lie in one piece of memory: one to share, to pin and to copy to a GPU."""

    memory: Tensor | np.ndarray
    """``(n_bytes,)``; an array goes from process to process by a pipe."""
    batch: Any
    """The batch, with a `Part` of the memory in place of each tensor."""

    @property
    def piped(self) -> bool:
        return isinstance(self.memory, np.ndarray)

    def unpacked(self, device: torch.device) -> Any:
        """The batch with its tensors on a device; nothing waits until those of pinned memory are there."""
        memory = torch.as_tensor(self.memory).to(device, non_blocking=True)
        return _in_all(self.batch, Part, lambda part: part.of(memory))


class Part(NamedTuple):
    """Where a tensor lies."""

    begin: int
    n_bytes: int
    dtype: torch.dtype
    shape: Sequence[int]

    def of(self, memory: Tensor) -> Tensor:
        return memory[self.begin : self.begin + self.n_bytes].view(self.dtype).view(*self.shape)


def pack(batch: Any) -> Packed:
    """A batch, a structure of tuples (named or not) and lists, ready to be sent: in shared memory, if that is not full.

    Left to itself, torch shares tensors in a thread of its own: one that fails there loses the batch, for which the
    training process then waits for ever. Each tensor would take an open file, too.
    """
    end, parts = 0, []

    def place(tensor: Tensor) -> Part:
        nonlocal end
        part = Part(end, tensor.nbytes, tensor.dtype, tuple(tensor.shape))
        parts.append((part, tensor))
        end += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
        return part

    placed = _in_all(batch, Tensor, place)
    memory = torch.empty(end, dtype=torch.uint8)
    with contextlib.suppress(RuntimeError):
        memory = memory.share_memory_()
    for part, tensor in parts:
        part.of(memory).copy_(tensor)
    return Packed(memory if memory.is_shared() else memory.numpy(), placed)


def _in_all(batch: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """Change everything of a kind in a structure of tuples and lists; the rest stays as it is."""
    if isinstance(batch, kind):
        return change(batch)
    if isinstance(batch, tuple | list):
        parts = [_in_all(part, kind, change) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch


def _workers_are_forked() -> bool:
    return (multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]) == "fork"
