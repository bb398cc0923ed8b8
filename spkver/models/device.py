"""Where an encoder computes, and in which precision."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from spkver.data.machine import usable_memory
from spkver.errors import SpkverError


def choose_device(name: str, key: str = "training.device") -> torch.device:
    """``auto``: a GPU when there is one; ``cpu``, ``cuda`` or ``cuda:N``.

    Where no GPU is named, a process that torchrun started takes that of its place on the machine.

    Args:
        name: what was asked for.
        key: where, for the message.

    Raises:
        SpkverError: a GPU is asked for and there is none of that number, or the name is none of these.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise SpkverError(f"{key} is {name!r}; use auto, cpu, cuda or cuda:N")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise SpkverError(f"{key} is {name}, but torch sees no GPU; use auto or cpu")
    device = torch.device(name)
    count = torch.cuda.device_count()
    if device.index is None and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]) % count)
    if device.index is not None and device.index >= count:
        raise SpkverError(f"{key} is {name}, but torch sees {count} GPU{'s' * (count > 1)}, counted from cuda:0")
    return device


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """``auto``: bfloat16 where the hardware multiplies it; elsewhere it would be emulated and slower.

    A GPU without it (V100, T4) takes float16, a CPU float32.
    """
    if precision != "auto":
        return getattr(torch, precision)
    if _has_bfloat16(device):
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" else torch.float32


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Public since torch 2.6 only under these names; a torch without them trains in float32.
    checks = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return any(check() for check in checks if check is not None)


def allow_tf32(allowed: bool) -> None:
    """Whether a GPU may multiply float32 as TF32, with 10 bits of mantissa; for the whole process."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed


@contextmanager
def full_float32() -> Iterator[None]:
    """While entered, float32 on a GPU is float32; torch's own default for convolutions is TF32."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    allow_tf32(False)
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def memory_of(device: torch.device) -> int:
    """Bytes of a GPU's memory, or of the main memory that this process may use."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else usable_memory()
