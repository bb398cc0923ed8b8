"""Arrays in ``.npy`` and ``.npz`` files that anybody may have written.

Nothing is ever unpickled, and what a header claims is compared with what is there before memory is taken.
"""

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from spkver.errors import SpkverError


@contextmanager
def readable(name: str | os.PathLike[str], advice: str) -> Iterator[None]:
    """One line for what a damaged file makes numpy, zipfile, zlib or tokenize raise, which is no closed list.

    Args:
        name: of the file, or of the array in it; the message begins with it.
        advice: what to do, at the end of the message.
    """
    try:
        yield
    except SpkverError:
        raise
    except FileNotFoundError:
        raise SpkverError(f"{name}: is not there; {advice}") from None
    except Exception as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise SpkverError(f"{name}: cannot be read as arrays ({reason or type(error).__name__}); {advice}") from None


def read_npy(path: str | os.PathLike[str], advice: str) -> np.ndarray:
    """Read the array of a ``.npy`` file.

    Raises:
        SpkverError: it is missing, damaged, holds objects, or has more or less data than its header claims.
    """
    with readable(path, advice), open(path, "rb") as file:
        return read_array(file, os.fstat(file.fileno()).st_size)


def read_npz(path: str | os.PathLike[str], advice: str) -> dict[str, np.ndarray]:
    """Read the arrays of a ``.npz`` file by name.

    Raises:
        SpkverError: as `read_npy`; or the file is encrypted, or holds something else or an array twice.
    """
    with readable(path, advice), zipfile.ZipFile(path) as archive:
        arrays: dict[str, np.ndarray] = {}
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name == member.filename or name in arrays:
                raise ValueError(f"{member.filename!r} is no array, or is there twice")
            arrays[name] = read_member(archive, member.filename)
        return arrays


def read_member(archive: zipfile.ZipFile, member: str) -> np.ndarray:
    """Read one array of an opened ``.npz`` file; what is wrong raises what numpy and zipfile raise."""
    with archive.open(member) as file:
        return read_array(file, archive.getinfo(member).file_size)


def read_array(file: IO[bytes], n_bytes: int) -> np.ndarray:
    """Read an array that is all that a file of ``n_bytes`` holds from its present place on.

    Raises:
        ValueError: it is damaged, holds objects, or its header claims another size.
    """
    start = file.tell()
    major, _ = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never loaded")
    claimed, there = dtype.itemsize, n_bytes - (file.tell() - start)
    for length in shape:
        claimed *= length
    if min(shape, default=0) < 0 or claimed != there:
        raise ValueError(f"its header claims {claimed} bytes for {dtype} {shape}, and {there} are there")
    data = file.read(claimed)
    if len(data) != claimed:
        raise ValueError("it is cut off")
    if not claimed:
        return np.empty(shape, dtype)
    # A copy, since what a buffer holds cannot be written to.
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C").copy()


def map_npy(path: str | os.PathLike[str], advice: str) -> np.memmap:
    """Map the array of a ``.npy`` file: it takes memory only as far as it is looked at.

    Raises:
        SpkverError: it is missing, damaged, or holds objects.
    """
    with readable(path, advice):
        return np.lib.format.open_memmap(Path(path), "r")
