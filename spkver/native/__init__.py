"""Kernels in C for the passes over activations that torch makes one by one on a CPU.

Compiled when the package is installed, if there is a C compiler with OpenMP; without one, or with SPKVER_NATIVE=0 in
the environment, torch does the same in more time. Each caller has both ways, and the tests hold them together.

A kernel knows nothing of a tensor but where its memory begins. A caller that is given what a kernel cannot
take (another type, shape or place) goes torch's way, which computes it or raises torch's own error; and whatever
reaches a kernel is held to the list below first, so that none reads or writes beside its tensors.
"""

import ctypes
import importlib.util
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

# As in kernels.h.
_VERSION = 3
_ACTIVATIONS = (torch.float32, torch.bfloat16)
_TYPES = {
    "f32": torch.float32,
    "f64": torch.float64,
    "i64": torch.int64,
    "bf16": torch.bfloat16,
    "bool": torch.bool,
}
_NUMBERS: "dict[str, type[ctypes._SimpleCData[Any]]]" = {"": ctypes.c_int64, "float": ctypes.c_float}

# What each kernel takes, in the order of its arguments in C. With brackets: a tensor of these sizes, in the order of
# its memory, of one of the types above or `act`, that of the activations; with `?`, there may be none. Without: a
# number, which is a size where a tensor has one of that name. Behind them come the type of the activations and the
# threads.
_KERNELS = {
    "depthwise_convolve": """
        act[batch,steps,channels] act[batch,steps,channels] f32[kernel,channels] f32?[channels]
        batch steps channels kernel""",
    "depthwise_taps_gradient": """
        act[batch,steps,channels] act[batch,steps,channels] f32[kernel,channels]
        batch steps channels kernel""",
    "group_norm_relu_forward": """
        act[batch,frames,bins,channels] act[batch,frames,bins,channels] bool?[batch,frames]
        f32[channels] f32[channels] f32[batch,groups] f32[batch,groups]
        batch frames bins channels groups eps:float""",
    "group_norm_relu_backward": """
        act[batch,frames,bins,channels] act[batch,frames,bins,channels] act[batch,frames,bins,channels]
        f32[channels] f32[channels] f32[batch,groups] f32[batch,groups] f32[batch,channels] f32[batch,channels]
        batch frames bins channels groups""",
    "head_forward": """
        act[rows,batch] f32?[rows] f32?[classes] i64[batch]
        f32[batch] f32[threads,batch,k] i64[threads,batch,k] f32[threads,batch] f64[threads,batch]
        first classes rows_per_class batch k""",
    "head_backward": """
        act[rows,batch] f32?[rows] f32?[classes] f32[batch] f32[batch]
        f32[singles] i64[offsets] i64[singles] f32[rows] f32?[classes]
        classes rows_per_class batch""",
    "head_finish": "act[rows,dim] f32[rows,dim] f32[rows] f32[rows,dim] rows dim",
    "head_prepare": "f32[rows,dim] f32?[rows] bf16?[rows,dim] rows dim",
    "log_mel": """
        f32[batch,samples] f32[frame_length] f32[2,half] f32[banks,mels,bins] i64[banks,mels,2] i64?[batch]
        f32[batch,frames,mels]
        batch samples frames frame_length frame_shift n_fft mels""",
}


class _Tensor(NamedTuple):
    type: str
    optional: bool
    sizes: tuple[str, ...]


def _arguments(written: str) -> tuple[list[_Tensor], list[tuple[str, str]]]:
    """Tensors and numbers (name and kind) of a kernel."""
    tensors, numbers = [], []
    for word in written.split():
        found = re.fullmatch(r"(\w+)(\?)?\[(.+)\]", word)
        if found:
            tensors.append(_Tensor(found[1], bool(found[2]), tuple(found[3].split(","))))
        else:
            name, _, kind = word.partition(":")
            numbers.append((name, kind))
    return tensors, numbers


_ARGUMENTS = {kernel: _arguments(written) for kernel, written in _KERNELS.items()}


def _load() -> ctypes.CDLL | None:
    compiled = importlib.util.find_spec("spkver.native._kernels")
    if compiled is None or os.environ.get("SPKVER_NATIVE") == "0":
        return None
    # After torch, whose OpenMP library it then shares: two pools of threads would wait for the same cores.
    library = ctypes.CDLL(compiled.origin)
    return library if library.version() == _VERSION else None


_LIBRARY = _load()
AVAILABLE = _LIBRARY is not None


def usable(*activations: Tensor) -> bool:
    """Whether kernels can work on these: real ones that are not empty, on a CPU, all float32 or all bfloat16."""
    return (
        AVAILABLE
        and all(_is_plain(tensor) and tensor.numel() > 0 for tensor in activations)
        and activations[0].dtype in _ACTIVATIONS
        and all(tensor.dtype == activations[0].dtype for tensor in activations)
        and not torch.jit.is_tracing()
        and not torch.compiler.is_compiling()
    )


def fits(tensor: Tensor | None, shape: Sequence[int], *types: torch.dtype) -> bool:
    """Whether a kernel could read this beside the activations: of a CPU, this shape, and one of these types."""
    return tensor is not None and _is_plain(tensor) and tensor.shape == tuple(shape) and tensor.dtype in types


def mask_fits(mask: Tensor | None, batch: int, n_frames: int) -> bool:
    """Whether a kernel could read this mask: none, or ``(batch, n_frames)`` bool."""
    return mask is None or fits(mask, (batch, n_frames), torch.bool)


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is what stands in a CPU's memory, in some order."""
    return (
        type(tensor) in (Tensor, Parameter) and tensor.is_cpu and tensor.layout == torch.strided and not tensor.is_neg()
    )


def call(kernel: str, *tensors: Tensor | None, dtype: torch.dtype, **numbers: float) -> None:
    """Run a kernel on tensors that are contiguous in the order of `_KERNELS`, and on the numbers that these do not say.

    Args:
        kernel: its name.
        tensors: what it reads and writes.
        dtype: of the activations.
        numbers: by their names in `_KERNELS`.

    Raises:
        ValueError: a tensor or number is not what the kernel takes.
        MemoryError: the kernel found none.
    """
    taken, names = _ARGUMENTS[kernel]
    sizes = dict(numbers)
    if len(tensors) != len(taken):
        raise ValueError(f"{kernel}: takes {len(taken)} tensors, not {len(tensors)}")
    for place, (tensor, wanted) in enumerate(zip(tensors, taken)):
        _check(kernel, place, tensor, wanted, dtype, sizes)
    values = [_NUMBERS[kind](sizes[name]) for name, kind in names]
    # Where every thread has a part of a tensor, no more of them than parts.
    n_threads = int(sizes.get("threads", torch.get_num_threads()))
    values += [ctypes.c_int64(dtype == torch.bfloat16), ctypes.c_int64(n_threads)]
    if getattr(_LIBRARY, kernel)(*map(_address, tensors), *values):
        raise MemoryError(f"no memory for {kernel}")


def _check(
    kernel: str, place: int, tensor: Tensor | None, wanted: _Tensor, dtype: torch.dtype, sizes: dict[str, float]
) -> None:
    """Raise unless a tensor is what a kernel takes there; ``sizes`` are those known so far, and get the new ones."""
    if tensor is None and wanted.optional:
        return
    of_type = dtype if wanted.type == "act" else _TYPES[wanted.type]
    if (
        tensor is not None
        and tensor.dtype == of_type
        and tensor.dim() == len(wanted.sizes)
        and _is_plain(tensor)
        and tensor.is_contiguous()
        and all(_size(name, size, sizes) == size for name, size in zip(wanted.sizes, tensor.shape))
    ):
        return
    is_there = "none" if tensor is None else f"{tuple(tensor.shape)} of {tensor.dtype} on {tensor.device}"
    needed = ", ".join(f"{name} {sizes[name]}" if name in sizes else name for name in wanted.sizes)
    raise ValueError(f"{kernel}: tensor {place + 1} must be contiguous ({needed}) of {of_type}, and is {is_there}")


def _size(name: str, found: int, sizes: dict[str, float]) -> float:
    return int(name) if name.isdigit() else sizes.setdefault(name, found)


def _address(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
