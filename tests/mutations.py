"""Damaged copies of a file's content, the same ones for a seed."""

import random
from collections.abc import Iterator

_JUNK = [
    *(bytes([byte]) for byte in b"\0\r\n\t\x0b\"',*| {]=\\\xc3\xff"),
    *(b"\n\n", b"\xff\xfe", b"\xef\xbb\xbf", b"\xcc\x88", b"u\xcc\x88", b"\xed\xa0\x80", b"\xe2\x80\xa8"),
    *(b"nan", b"-inf", b"1e999", b"-1", b"0", b"1", b"9" * 400, b"null", b"true", b"[]", b"{}"),
    *(b"target", b"enroll", b"score"),
]


def mutants(content: bytes, n: int, seed: int) -> Iterator[bytes]:
    """``n`` copies of a file, each damaged in one to three places."""
    rng = random.Random(seed)
    for _ in range(n):
        damaged = content
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            damaged = rng.choice(_WAYS)(rng, damaged)
        yield damaged


def _place(rng: random.Random, content: bytes) -> int:
    return rng.randrange(len(content) + 1)


def _flip(rng: random.Random, content: bytes) -> bytes:
    at = _place(rng, content)
    return content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :]


def _insert(rng: random.Random, content: bytes) -> bytes:
    at = _place(rng, content)
    return content[:at] + rng.choice(_JUNK) + content[at:]


def _cut(rng: random.Random, content: bytes) -> bytes:
    return content[: _place(rng, content)]


def _lose(rng: random.Random, content: bytes) -> bytes:
    begin, end = sorted((_place(rng, content), _place(rng, content)))
    return content[:begin] + content[end:]


def _zero(rng: random.Random, content: bytes) -> bytes:
    """As a disk leaves a file after a loss of power."""
    begin, end = sorted((_place(rng, content), _place(rng, content)))
    return content[:begin] + b"\0" * (end - begin) + content[end:]


def _replace_word(rng: random.Random, content: bytes) -> bytes:
    words = content.split(b" ")
    words[rng.randrange(len(words))] = rng.choice(_JUNK)
    return b" ".join(words)


def _change_lines(rng: random.Random, content: bytes) -> bytes:
    lines = content.splitlines(keepends=True) or [b""]
    a, b = (rng.randrange(len(lines)) for _ in range(2))
    lines[a] = rng.choice([lines[b], lines[a] + lines[b], b"", lines[a].replace(b"\n", b" ")])
    return b"".join(lines)


_WAYS = [_flip, _insert, _insert, _cut, _lose, _zero, _replace_word, _change_lines]
