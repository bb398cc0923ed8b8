"""Shards in object storage or behind a web server, through fsspec: bytes of one, or a copy of it in a local cache.

A folder with lists says in ``shards.yaml`` where its shards lie and how they are read (`spkver.config.schema.Shards`);
keys and end points of the storage are fsspec's own configuration. An interrupted read is tried again.

The cache is filled with whole shards until it has the given size, and of the others the bytes are read that are needed:
crops are drawn from all shards at random, so that any is worth as much as another, and to replace one costs a download.
"""

import hashlib
import os
import re
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO, TypeVar

from spkver.config import load_config
from spkver.config.schema import Shards
from spkver.errors import SpkverError
from spkver.files import atomic_write, claimed, locked

Answer = TypeVar("Answer")
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_AT_ONCE = 1 << 24
_BEHIND_THE_END = 416  # HTTP's status for a range that is not there
_LASTING = (FileNotFoundError, PermissionError, NotImplementedError, ValueError, ImportError)


def is_address(place: str) -> bool:
    """Whether a shard is named by an address, such as ``https://`` or ``s3://``, and not by a path."""
    return _ADDRESS.match(place) is not None


@lru_cache(maxsize=64)
def settings_of(folder: Path) -> Shards:
    """What ``shards.yaml`` of a folder with lists says; the defaults without it.

    Raises:
        SpkverError: as `load_config`.
    """
    path = folder / "shards.yaml"
    return load_config(path, (), Shards) if path.is_file() else Shards()


def read_range(address: str, offset: int, size: int, settings: Shards) -> bytes:
    """Some bytes of a shard; fewer where it ends.

    Raises:
        SpkverError: it cannot be reached, or read, also after some tries; fsspec is missing.
    """

    def read() -> bytes:
        files, path = _file_system(address)
        try:
            content: bytes = files.cat_file(path, start=offset, end=offset + size)
        except Exception as error:
            if getattr(error, "status", None) != _BEHIND_THE_END:
                raise
            return b""
        if len(content) < size and offset + len(content) < int(files.size(path)):
            raise OSError(f"{len(content)} of {size} bytes came")
        if len(content) > size:
            raise NotImplementedError("the server sends all of the file and no range of it; set cache in shards.yaml")
        return content

    return _tried(address, settings, read)


def cached(address: str, settings: Shards) -> Path | None:
    """The copy of a shard in the cache, downloaded where there is room for it; None where there is none (yet).

    Raises:
        SpkverError: as `read_range`, or the cache cannot be written.
    """
    if settings.cache is None:
        return None
    folder = Path(settings.cache)
    name = f"{hashlib.sha256(address.encode()).hexdigest()[:16]}-{PurePosixPath(address).name}"
    if (folder / name).is_file():
        return folder / name
    if not _has_room(folder, 1, settings):
        return None
    with claimed(folder / f".{name}.lock", "the cache of shards") as is_mine:
        # While another process downloads it, bytes are read at their place.
        if not is_mine or not ((folder / name).is_file() or _downloaded(address, folder / name, settings)):
            return None
    return folder / name


def open_shard(address: str, settings: Shards) -> BinaryIO:
    """A shard, opened for reading from its beginning.

    Raises:
        SpkverError: as `read_range`.
    """

    def opened() -> BinaryIO:
        files, path = _file_system(address)
        file: BinaryIO = files.open(path, "rb", block_size=1 << 20)
        return file

    return _tried(address, settings, opened)


def _downloaded(address: str, target: Path, settings: Shards) -> bool:
    """Download a shard; False where there is no room for it."""

    def size_of() -> int:
        files, path = _file_system(address)
        return int(files.size(path))

    size = _tried(address, settings, size_of)
    try:
        with atomic_write(target, "wb") as file:
            with locked(target.parent / ".room.lock", "the cache of shards", wait_seconds=60):
                if not _has_room(target.parent, size, settings):
                    raise _NoRoom
                file.flush()
                file.truncate(size)  # from now on other processes count it
            for offset in range(0, size, _AT_ONCE):
                file.write(read_range(address, offset, min(_AT_ONCE, size - offset), settings))
    except _NoRoom:
        return False
    return True


class _NoRoom(Exception):
    """The cache is full."""


def _has_room(folder: Path, n_bytes: int, settings: Shards) -> bool:
    if not folder.is_dir():
        return n_bytes <= settings.cache_gigabytes * 1e9
    used = 0
    for entry in os.scandir(folder):
        try:
            used += entry.stat().st_size
        except FileNotFoundError:
            continue
    return used + n_bytes <= settings.cache_gigabytes * 1e9


def _tried(address: str, settings: Shards, read: Callable[[], Answer]) -> Answer:
    """What a read gives, tried again where it is interrupted, each time after twice the wait."""
    for attempt in range(settings.tries):
        try:
            return read()
        except _LASTING as error:
            raise SpkverError(f"{address}: {_reason(error)}") from None
        except Exception as error:  # each storage has errors of its own
            fault = error
        if attempt + 1 < settings.tries:
            time.sleep(settings.wait_seconds * 2**attempt)
    raise SpkverError(
        f"{address}: cannot be read, tried {settings.tries} times ({_reason(fault)}); is the storage reachable? "
        "shards.yaml may raise tries and wait_seconds"
    )


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such shard"
    return " ".join(str(error).split()) or type(error).__name__


def _file_system(address: str):
    """The file system of an address, and the path within it; fsspec keeps one a process, also after a fork."""
    try:
        import fsspec
    except ImportError:
        raise SpkverError(
            f"{address}: fsspec is not installed, which this needs; pip install 'spkver[remote]'"
        ) from None
    return fsspec.core.url_to_fs(address)
