"""Where training computes, and in which precision."""

import signal

import torch

from spkver.errors import SpkverError
from spkver.training.stopping import SIGNALS


def choose_device(name: str) -> torch.device:
    """``auto``: a GPU when there is one.

    Raises:
        SpkverError: a GPU is asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise SpkverError("training.device is cuda, but torch sees no GPU; use auto or cpu")
    return torch.device(name)


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """``auto``: bfloat16 where the hardware multiplies it; elsewhere it would be emulated and slower."""
    if precision != "auto":
        return getattr(torch, precision)
    return torch.bfloat16 if _has_bfloat16(device) else torch.float32


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Public since torch 2.6 only under these names; a torch without them trains in float32.
    checks = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return any(check() for check in checks if check is not None)


def ignore_interrupts(worker: int) -> None:
    """In a data worker: one thread, and being stopped is the main process's business.

    A terminal's ctrl-C and a scheduler's SIGTERM reach the workers too; one that died of it would
    take away the batch that the main process waits for before it saves. Workers end with their parent.
    """
    torch.set_num_threads(1)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
