"""How the libraries below use memory, for work that has its own needs."""

import ctypes
import os
import platform

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_OWN_SETTINGS = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def tune_malloc() -> bool:
    """Let the C library keep what is freed for the next tensor, instead of giving it back to the system.

    glibc takes every block of more than 32 MiB from the system and returns it, and returns the end of its heap
    whenever much of that is free, which is so in each training step. The pages come back one by one and zeroed:
    embedding took about a third more of a CPU's time (and a fifth less memory).

    Returns:
        Whether it does: not without glibc, and not where the environment has settings of its own (``MALLOC_..``).
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in _OWN_SETTINGS):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, -1))


def hold_memory_flat() -> None:
    """Keep memory from growing with the number of batches, where each batch is of another shape.

    oneDNN, which computes convolutions, keeps the programs that it compiles for a shape, 1,024 of them, although none
    is used again; and glibc gives each thread a heap, in each of which blocks of other sizes leave other holes. Of
    both there is one small set here. Embedding 6,000 files of 0.4 to 4 s, of which 640 take 905 MB, then takes 905 MB,
    in the same time; it took 1,250 MB.

    To be called before the first convolution and before threads are started. What the environment sets stays.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")
    if platform.libc_ver()[0] == "glibc" and not {"MALLOC_ARENA_MAX", "GLIBC_TUNABLES"} & set(os.environ):
        ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)
