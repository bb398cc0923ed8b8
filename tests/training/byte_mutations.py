"""Damaged copies of a file's bytes, the same ones every time."""

from collections.abc import Iterator

import numpy as np

_WHAT = (b"\0", b"\xff", b"-1", b"9" * 30, b'"', b"{", b"]", b"\n", b": ", b"null", b"NaN", b"1e999")


def mutations(content: bytes, n: int, seed: int = 0) -> Iterator[bytes]:
    """``n`` of them: nothing, cut short, zeros at the end, bytes flipped, inserted, removed, doubled or swapped."""
    rng = np.random.default_rng(seed)
    yield b""
    for _ in range(n - 1):
        yield _one(content, rng)


def _one(content: bytes, rng: np.random.Generator) -> bytes:
    place, other = sorted(int(at) for at in rng.integers(0, len(content) + 1, 2))
    other = min(other, place + 40)
    kind = rng.integers(8)
    if kind == 0:
        return content[:place]
    if kind == 1:
        return content[:place] + b"\0" * (len(content) - place)
    if kind == 2:
        return content[:place] + _WHAT[rng.integers(len(_WHAT))] + content[place:]
    if kind == 3:
        return content[:place] + content[other:]
    if kind == 4:
        return content[:other] + content[place:]
    if kind == 5:
        return content[:place] + rng.bytes(other - place) + content[other:]
    damaged = bytearray(content)
    for at in rng.integers(0, len(content), 1 if kind == 6 else 8):
        damaged[at] ^= 1 << int(rng.integers(8))
    return bytes(damaged)
