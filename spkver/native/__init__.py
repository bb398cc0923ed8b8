"""Kernels in C for the passes over activations that torch makes one by one on a CPU.

Compiled when the package is installed, if there is a C compiler with OpenMP; without one, or with SPKVER_NATIVE=0 in
the environment, torch does the same in more time. Each caller has both ways, and the tests hold them together.
"""

import ctypes
import importlib.util
import os

import torch
from torch import Tensor
from torch.nn import Parameter

# As in kernels.h.
_VERSION = 2
_TYPES = (torch.float32, torch.bfloat16)


def _load() -> ctypes.CDLL | None:
    compiled = importlib.util.find_spec("spkver.native._kernels")
    if compiled is None or os.environ.get("SPKVER_NATIVE") == "0":
        return None
    # After torch, whose OpenMP library it then shares: two pools of threads would wait for the same cores.
    library = ctypes.CDLL(compiled.origin)
    return library if library.version() == _VERSION else None


_LIBRARY = _load()
AVAILABLE = _LIBRARY is not None


def usable(*tensors: Tensor) -> bool:
    """Whether kernels can work on these activations: real ones, on a CPU, all float32 or all bfloat16."""
    return (
        AVAILABLE
        and all(type(tensor) in (Tensor, Parameter) and tensor.device.type == "cpu" for tensor in tensors)
        and tensors[0].dtype in _TYPES
        and all(tensor.dtype == tensors[0].dtype for tensor in tensors)
        and not torch.jit.is_tracing()
        and not torch.compiler.is_compiling()
    )


def call(kernel: str, *arguments: Tensor | int | float | None, dtype: torch.dtype) -> None:
    """Run a kernel: tensors by their memory, then the type of the activations and the number of threads.

    Raises:
        MemoryError: the kernel found none.
    """
    arguments = (*arguments, int(dtype == torch.bfloat16), torch.get_num_threads())
    if getattr(_LIBRARY, kernel)(*map(_as_c, arguments)):
        raise MemoryError(f"no memory for {kernel}")


def _as_c(argument: Tensor | int | float | None) -> ctypes.c_void_p | ctypes.c_int64 | ctypes.c_float:
    if argument is None:
        return ctypes.c_void_p()
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    return ctypes.c_float(argument) if isinstance(argument, float) else ctypes.c_int64(argument)
