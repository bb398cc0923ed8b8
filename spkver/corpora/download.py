"""A public file onto the disk, by a download that goes on where it broke.

The file grows as ``NAME.part``, beside a record of which version of the remote file it is a part of
(``NAME.part.json``), and gets its name when it is whole and its checksum is right.
"""

import contextlib
import errno
import hashlib
import http.client
import json
import shutil
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from spkver.errors import SpkverError
from spkver.whole_file import whole_file

_BLOCK = 1 << 20
_RETRY_STATUS = {408, 425, 429, 500, 502, 503, 504}


class _Broken(Exception):
    """The connection failed in a way that another attempt may cure."""


def download(
    url: str,
    path: str | Path,
    checksum: str | None = None,
    size: int | None = None,
    retries: int = 5,
    timeout_seconds: float = 30.0,
    backoff_seconds: float = 1.0,
) -> Path:
    """Fetch ``url`` to ``path``; an interrupted download goes on from ``path.part`` at the next call.

    The parts of one file are joined only if the server says that it is still the same file (its ETag or
    date through If-Range, and its size); otherwise, and where the server knows no Range, it starts over.
    A file that is already at ``path`` is checked against ``checksum`` and ``size`` and kept.

    Args:
        url: ``https``, ``http`` or ``file``.
        checksum: 64 hex digits (SHA-256) or 32 (MD5), with or without ``sha256:`` / ``md5:`` in front.
        size: the expected bytes.
        retries: attempts after a break; counted anew whenever bytes have come in.
        timeout_seconds: how long a silent connection is waited for.
        backoff_seconds: the wait before the second attempt; it doubles with each one, up to 30 s.

    Raises:
        SpkverError: no network, a refusal such as 404, a wrong size or checksum, a full disk.
    """
    path = Path(path)
    digest = _digest(checksum)
    if urllib.parse.urlsplit(url).scheme not in ("https", "http", "file"):
        raise SpkverError(f"{url}: not an https, http or file URL")
    if path.exists():
        _verify(path, url, digest, size, kept=True)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    attempt = 0
    while True:
        before = _length(part)
        try:
            _fetch(url, part, size, timeout_seconds)
            break
        except _Broken as broken:
            attempt = 1 if _length(part) > before else attempt + 1
            if attempt > retries:
                raise SpkverError(
                    f"{url}: {broken}; gave up after {retries} retries with {_length(part)} bytes in {part}: "
                    "check the network and run again, it goes on from there"
                ) from None
            wait = min(30.0, backoff_seconds * 2 ** (attempt - 1))
            tqdm.write(f"{path.name}: {broken}; again in {wait:.0f} s")
            time.sleep(wait)
    _verify(part, url, digest, size, kept=False)
    part.replace(path)
    _about(part).unlink(missing_ok=True)
    return path


@dataclass(frozen=True)
class _Source:
    """What tells one version of a remote file from another; kept beside the part."""

    url: str
    validator: str | None
    total: int | None


def _fetch(url: str, part: Path, size: int | None, timeout_seconds: float) -> None:
    """One attempt: append to ``part``, or write it anew, until the source says that it is whole."""
    known = _known(part, url)
    start = _length(part) if known else 0
    if known and start and start == known.total:
        return
    headers = {"User-Agent": "spkver", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if known.validator:
            headers["If-Range"] = known.validator
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout_seconds) as response:
            first, source = _position(response, url)
            if first and (first != start or source != known):
                _forget(part)
                raise _Broken("the file changed at its source while it was fetched, starting over")
            if size is not None and source.total is not None and source.total != size:
                raise SpkverError(
                    f"{url}: is {source.total} bytes, expected {size}: the file at its source has changed"
                )
            _make_room(part, source, first)
            _append(response, part, source, first)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the part is longer than the file is now
            _forget(part)
            raise _Broken("the file changed at its source, starting over") from None
        if error.code in _RETRY_STATUS:
            raise _Broken(f"the server answers {error.code} {error.reason}") from None
        raise SpkverError(f"{url}: the server answers {error.code} {error.reason}; check the address") from None
    except (OSError, http.client.HTTPException) as error:
        raise _told(error, url, part) from None


def _position(response, url: str) -> tuple[int, _Source]:
    """The byte at which a response begins, and which version of the file it is."""
    headers = response.headers
    etag = headers.get("ETag")
    strong = etag if etag and not etag.startswith("W/") else None  # If-Range takes no weak ETag
    validator = strong or headers.get("Last-Modified")
    if getattr(response, "status", None) == 206:
        bounds, _, total = headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        first = bounds.partition("-")[0]
        if not (first.isdigit() and total.isdigit()):
            raise SpkverError(
                f"{url}: the server sends a part without saying which (Content-Range); use another mirror"
            )
        return int(first), _Source(url, validator, int(total))
    length = headers.get("Content-Length", "")
    return 0, _Source(url, validator, int(length) if length.isdigit() else None)


def _append(response, part: Path, source: _Source, start: int) -> None:
    if start == 0:
        part.unlink(missing_ok=True)  # before the record, so that old bytes never pass for the new version's
    with whole_file(_about(part)) as file:
        json.dump(vars(source), file)
    name = part.name.removesuffix(".part")
    with (
        open(part, "ab") as file,
        tqdm(desc=name, total=source.total, initial=start, unit="B", unit_scale=True, disable=None) as bar,
    ):
        while block := response.read(_BLOCK):
            file.write(block)
            bar.update(len(block))
    if source.total is not None and _length(part) < source.total:
        raise _Broken(f"the connection broke at {_length(part)} of {source.total} bytes")


def _told(error: Exception, url: str, part: Path) -> Exception:
    """A low-level failure as the exception to raise: worth another attempt, or told to the user."""
    cause = getattr(error, "reason", error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return SpkverError(f"{url}: its certificate is not trusted ({cause.verify_message}); check clock and proxy")
    if isinstance(cause, socket.gaierror):
        host = urllib.parse.urlsplit(url).hostname
        return SpkverError(f"{url}: no address found for {host}; check the network, or fetch the file by other means")
    if getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return SpkverError(f"{part}: the disk is full; make room and run again, it goes on from there")
    if url.startswith("file:") or isinstance(cause, PermissionError | IsADirectoryError):
        return SpkverError(f"{url}: {cause}")
    return _Broken(f"connection failed ({cause or type(cause).__name__})")


def _make_room(part: Path, source: _Source, start: int) -> None:
    free = shutil.disk_usage(part.parent).free + (_length(part) - start)
    if source.total is not None and source.total - start > free:
        raise SpkverError(f"{part.parent}: {source.total - start} bytes are needed and {free} are free; make room")


def _digest(checksum: str | None) -> tuple[str, str] | None:
    """The algorithm and the lower-case hex digits of a checksum."""
    if checksum is None:
        return None
    name, _, digits = checksum.strip().lower().rpartition(":")
    algorithm = {64: "sha256", 32: "md5"}.get(len(digits))
    if algorithm is None or name not in ("", algorithm) or set(digits) - set("0123456789abcdef"):
        raise SpkverError(f"checksum '{checksum}': give 64 hex digits (SHA-256) or 32 (MD5)")
    return algorithm, digits


def _verify(path: Path, url: str, digest: tuple[str, str] | None, size: int | None, kept: bool) -> None:
    """Refuse a file whose bytes are not the expected ones; a fresh download (not ``kept``) is removed."""
    found = None
    if size is not None and path.stat().st_size != size:
        found, expected = f"{path.stat().st_size} bytes", f"{size}"
    elif digest is not None:
        algorithm, expected = digest
        computed = hashlib.new(algorithm, usedforsecurity=False)
        with open(path, "rb") as file:
            while block := file.read(_BLOCK):
                computed.update(block)
        found = None if computed.hexdigest() == expected else f"{algorithm} {computed.hexdigest()}"
    if found is None:
        return
    if kept:
        raise SpkverError(f"{path}: has {found}, expected {expected}; remove it to get it again")
    _forget(path)
    raise SpkverError(
        f"{url}: fetched {found}, expected {expected}; removed; run again; if it repeats, check the source"
    )


def _about(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _known(part: Path, url: str) -> _Source | None:
    """The version that ``part`` is a part of; None where that cannot be told."""
    try:
        source = _Source(**json.loads(_about(part).read_text("utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    same = source.url == url and source.total is not None
    return source if same else None


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _about(part).unlink(missing_ok=True)


def _length(part: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return part.stat().st_size
    return 0
