"""A public file onto the disk, by a download that goes on where it broke.

The file grows as ``NAME.part``, beside a record of which version of the remote file it is a part of
(``NAME.part.json``), and gets its name when it is whole and its checksum is right. One process fetches it at a time.
"""

import contextlib
import errno
import hashlib
import http.client
import json
import os
import shutil
import socket
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from spkver.errors import SpkverError
from spkver.files import atomic_write, locked, remove_leftovers

MOST_BYTES = 100 << 30
"""Of a file that has no expected size: more than any archive of the corpora that spkver knows has."""

_BLOCK = 1 << 20
_KEPT_FREE = 1 << 30  # bytes of the disk that a file without a length leaves free
_PROGRESS = 1 << 16  # bytes that an attempt must bring so that the next one counts as the first
_SLOWEST = 500  # bytes a second below which a connection counts as broken
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
    allow_http: bool = False,
    most_bytes: int = MOST_BYTES,
) -> Path:
    """Fetch ``url`` to ``path``; an interrupted download goes on from ``path.part`` at the next call.

    The parts of one file are joined only if the server says that it is still the same file (its ETag or
    date through If-Range, and its size); otherwise, and where the server knows no Range, it starts over.
    A file that is already at ``path`` is checked against ``checksum`` and ``size`` and kept.

    Args:
        url: ``https`` or ``file``; ``http`` where it is allowed.
        checksum: 64 hex digits (SHA-256) or 32 (MD5), with or without ``sha256:`` / ``md5:`` in front.
        size: the expected bytes.
        retries: attempts after a break; counted anew whenever more than a few bytes have come in.
        timeout_seconds: how long a silent connection is waited for, and over which a slow one is measured.
        backoff_seconds: the wait before the second attempt; it doubles with each one, up to 30 s.
        allow_http: take ``http``, also where ``https`` is redirected to it: anybody on the way can change the file.
        most_bytes: that a file without a ``size`` may have, whatever its source says.

    Raises:
        SpkverError: no network, a refusal such as 404, a wrong size or checksum, a full disk, another process that
            fetches the same file.
    """
    path = Path(path)
    digest = _digest(checksum)
    _check_address(url, allow_http)
    try:
        if path.exists():
            _verify(path, url, digest, size, kept=True)
            return path
        with locked(path.with_name(f".{path.name}.lock"), f"the download of {path.name}"):
            if path.exists():  # another process has fetched it just now
                return path
            remove_leftovers(path.parent)
            part = path.with_name(path.name + ".part")
            opener = urllib.request.build_opener(_Redirects(allow_http))
            limit = most_bytes if size is None else size
            _fetch_with_retries(_Wanted(url, part, size, limit, timeout_seconds, opener), retries, backoff_seconds)
            _verify(part, url, digest, size, kept=False)
            part.replace(path)
            _about(part).unlink(missing_ok=True)
    except OSError as error:
        raise SpkverError(f"{error.filename or path}: {error.strerror or error}; give another folder") from None
    return path


def _check_address(url: str, allow_http: bool) -> None:
    try:
        scheme = urllib.parse.urlsplit(url).scheme
    except ValueError as error:
        raise SpkverError(f"{url}: not an address ({error})") from None
    if scheme == "http" and not allow_http:
        raise SpkverError(f"{url}: http can be changed by anybody on the way; give an https address, or allow it")
    if scheme not in ("https", "http", "file"):
        raise SpkverError(f"{url}: not an https, http or file URL")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only to addresses that could have been asked for."""

    def __init__(self, allow_http: bool):
        self.allow_http = allow_http

    def redirect_request(self, request, file, code, message, headers, new_url):
        try:
            _check_address(new_url, self.allow_http)
        except SpkverError as error:
            raise SpkverError(f"{request.full_url}: is redirected to {error}") from None
        return super().redirect_request(request, file, code, message, headers, new_url)


@dataclass(frozen=True)
class _Source:
    """What tells one version of a remote file from another; kept beside the part."""

    url: str
    validator: str | None
    total: int | None


@dataclass(frozen=True)
class _Wanted:
    """What every attempt to fetch a file is given."""

    url: str
    part: Path
    size: int | None
    limit: int  # bytes
    timeout_seconds: float
    opener: urllib.request.OpenerDirector


def _fetch_with_retries(wanted: _Wanted, retries: int, backoff_seconds: float) -> None:
    """Attempt after attempt until the part is whole."""
    part = wanted.part
    attempt = 0
    while True:
        before = _length(part)
        try:
            return _fetch(wanted)
        except _Broken as broken:
            attempt = 1 if _length(part) >= before + _PROGRESS else attempt + 1
            if attempt > retries:
                raise SpkverError(
                    f"{wanted.url}: {broken}; gave up after {retries} retries with {_length(part)} bytes in {part}: "
                    "check the network and run again, it goes on from there"
                ) from None
            wait = min(30.0, backoff_seconds * 2 ** (attempt - 1))
            tqdm.write(f"{part.name.removesuffix('.part')}: {broken}; again in {wait:.0f} s", file=sys.stderr)
            time.sleep(wait)


def _fetch(wanted: _Wanted) -> None:
    """One attempt: append to the part, or write it anew, until the source says that it is whole."""
    url, part, size = wanted.url, wanted.part, wanted.size
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
        request = urllib.request.Request(url, headers=headers)
        with wanted.opener.open(request, timeout=wanted.timeout_seconds) as response:
            first, source = _position(response, url)
            if first and (first != start or source != known):
                _forget(part)
                raise _Broken("the file changed at its source while it was fetched, starting over")
            if size is not None and source.total is not None and source.total != size:
                raise SpkverError(
                    f"{url}: is {source.total} bytes, expected {size}: the file at its source has changed"
                )
            if (source.total or 0) > wanted.limit:
                raise SpkverError(f"{url}: is {source.total} bytes, more than the {wanted.limit} that it may have")
            limit = min(wanted.limit, _room(part, source, first))
            _append(response, part, source, first, limit, wanted.timeout_seconds)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the part is longer than the file is now
            _forget(part)
            raise _Broken("the file changed at its source, starting over") from None
        reason = str(error.reason).partition("\n")[0]
        if error.code in _RETRY_STATUS:
            raise _Broken(f"the server answers {error.code} {reason}") from None
        raise SpkverError(f"{url}: the server answers {error.code} {reason}; check the address") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _told(error, url, part) from None
    expected = size if source.total is None else source.total
    if expected is not None and _length(part) < expected:
        raise _Broken(f"the connection broke at {_length(part)} of {expected} bytes")


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


def _append(response, part: Path, source: _Source, start: int, limit: int, timeout_seconds: float) -> None:
    if start == 0:
        part.unlink(missing_ok=True)  # before the record, so that old bytes never pass for the new version's
    with atomic_write(_about(part)) as file:
        json.dump(vars(source), file)
    name = part.name.removesuffix(".part")
    pace = _Pace(timeout_seconds)
    with (
        _for_appending(part) as file,
        tqdm(desc=name, total=source.total, initial=start, unit="B", unit_scale=True, disable=None) as bar,
    ):
        while block := response.read1(_BLOCK):
            start += len(block)
            if start > limit:
                break
            _write(file, block, part)
            bar.update(len(block))
            pace.check(len(block))
        os.fsync(file.fileno())
    if start > limit:
        _forget(part)
        raise SpkverError(
            f"{source.url}: sends more than the {limit} bytes that are expected or fit here; stopped, removed"
        )


def _for_appending(part: Path):
    try:
        return open(part, "ab", buffering=0)
    except OSError as error:
        raise SpkverError(f"{part}: cannot be written ({error.strerror}); remove it, or give another folder") from None


def _write(file, block: bytes, part: Path) -> None:
    """All of a block, which a disk that is nearly full takes in pieces."""
    left = memoryview(block)
    try:
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full" if full else f"cannot be written ({error.strerror})"
        raise SpkverError(f"{part}: {reason}; make room and run again, it goes on from there") from None


class _Pace:
    """Tells a connection over which next to nothing comes from one that is merely slow."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.begun, self.bytes = time.monotonic(), 0

    def check(self, n_bytes: int) -> None:
        self.bytes += n_bytes
        passed = time.monotonic() - self.begun
        if passed < self.seconds:
            return
        if self.bytes < _SLOWEST * passed:
            raise _Broken(f"only {self.bytes} bytes came in {passed:.1f} s")
        self.begun, self.bytes = time.monotonic(), 0


def _told(error: Exception, url: str, part: Path) -> Exception:
    """A low-level failure as the exception to raise: worth another attempt, or an error for the user."""
    cause = getattr(error, "reason", error)
    said = " ".join(str(cause).split()) or type(cause).__name__  # a server's own words may have line ends
    if isinstance(cause, ssl.SSLCertVerificationError):
        return SpkverError(f"{url}: its certificate is not trusted ({cause.verify_message}); check clock and proxy")
    # In the midst of a download the network is gone for a while; without a byte there is none, or the name is wrong.
    if isinstance(cause, socket.gaierror) and not _length(part):
        host = urllib.parse.urlsplit(url).hostname
        return SpkverError(f"{url}: no address found for {host}; check the network, or fetch the file by other means")
    if isinstance(cause, ValueError | http.client.InvalidURL):
        return SpkverError(f"{url}: not an address that can be asked ({said})")
    if url.startswith("file:") or isinstance(cause, PermissionError | IsADirectoryError):
        return SpkverError(f"{url}: {said}")
    return _Broken(f"connection failed ({said})")


def _room(part: Path, source: _Source, start: int) -> int:
    """How many bytes the file may have.

    Raises:
        SpkverError: it will not fit on the disk.
    """
    free = shutil.disk_usage(part.parent).free + _length(part)
    if source.total is None:
        return max(0, free - _KEPT_FREE)
    if source.total > free:
        needed = source.total - start
        raise SpkverError(f"{part.parent}: {needed} bytes are needed and {free - start} are free; make room")
    return source.total


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
    right = source.url == url and isinstance(source.total, int) and isinstance(source.validator, str | None)
    return source if right else None


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _about(part).unlink(missing_ok=True)


def _length(part: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return part.stat().st_size
    return 0
