"""A public file onto the disk, by a download that goes on where it broke.

The file grows as ``NAME.part``, beside a record of which version of the remote file it is a part of
(``NAME.part.json``), and gets its name when it is whole and its checksum is right. One process fetches it at a time.
Neither `urllib` nor requests, pooch or `torch.hub` goes on where a download broke, and makes sure of joining parts of
one version only.
"""

import contextlib
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
from spkver.files import locked, remove_leftovers, write_json, writing

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
    path, digest = Path(path), _digest(checksum)
    _check_address(url, allow_http)
    try:
        if path.exists():
            fault = _fault(path, digest, size)
            if fault:
                raise SpkverError(f"{path}: has {fault}; remove it to get it again")
            return path
        with locked(path.with_name(f".{path.name}.lock"), f"the download of {path.name}"):
            if path.exists():  # another process has fetched it just now
                return path
            remove_leftovers(path.parent)
            opener = urllib.request.build_opener(_Redirects(allow_http))
            limit = most_bytes if size is None else size
            part = _Part(url, path.with_name(path.name + ".part"), opener, size, limit, timeout_seconds)
            part.fetch(retries, backoff_seconds)
            fault = _fault(part.path, digest, size)
            if fault:
                part.forget()
                raise SpkverError(f"{url}: fetched {fault}; removed; run again; if it repeats, check the source")
            part.path.replace(path)
            part.record.unlink(missing_ok=True)
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
class _Part:
    """A file on its way: as much of it as has come in, and the record of the version that this is a part of."""

    url: str
    path: Path
    opener: urllib.request.OpenerDirector
    size: int | None
    limit: int  # bytes
    timeout_seconds: float

    @property
    def record(self) -> Path:
        return self.path.with_name(self.path.name + ".json")

    @property
    def length(self) -> int:
        with contextlib.suppress(FileNotFoundError):
            return self.path.stat().st_size
        return 0

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)
        self.record.unlink(missing_ok=True)

    def fetch(self, retries: int, backoff_seconds: float) -> None:
        """Attempt after attempt until the file is whole."""
        attempt, name = 0, self.path.stem
        while True:
            before = self.length
            try:
                return self._attempt()
            except _Broken as broken:
                attempt = 1 if self.length >= before + _PROGRESS else attempt + 1
                if attempt > retries:
                    raise SpkverError(
                        f"{self.url}: {broken}; gave up after {retries} retries with {self.length} bytes in "
                        f"{self.path}: check the network and run again, it goes on from there"
                    ) from None
                wait = min(30.0, backoff_seconds * 2 ** (attempt - 1))
                tqdm.write(f"{name}: {broken}; again in {wait:.0f} s", file=sys.stderr)
                time.sleep(wait)

    def _attempt(self) -> None:
        """Append to the part, or write it anew, until the source says that it is whole."""
        known = self._known()
        start = 0 if known is None else self.length
        headers = {"User-Agent": "spkver", "Accept-Encoding": "identity"}
        if known is not None and start:
            if start == known.total:
                return
            headers["Range"] = f"bytes={start}-"
            if known.validator:
                headers["If-Range"] = known.validator
        try:
            request = urllib.request.Request(self.url, headers=headers)
            with self.opener.open(request, timeout=self.timeout_seconds) as response:
                first, source = _position(response, self.url)
                if first and (first != start or source != known):
                    self.forget()
                    raise _Broken("the file changed at its source while it was fetched, starting over")
                self._refuse_length(source)
                self._append(response, source, first)
        except urllib.error.HTTPError as error:
            raise self._refused(error) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _told(error, self.url, self.length > 0) from None
        expected = self.size if source.total is None else source.total
        if expected is not None and self.length < expected:
            raise _Broken(f"the connection broke at {self.length} of {expected} bytes")

    def _known(self) -> _Source | None:
        """The version that there is a part of; None where that cannot be told."""
        try:
            source = _Source(**json.loads(self.record.read_text("utf-8")))
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        right = source.url == self.url and isinstance(source.total, int) and isinstance(source.validator, str | None)
        return source if right else None

    def _refuse_length(self, source: _Source) -> None:
        if self.size is not None and source.total is not None and source.total != self.size:
            raise SpkverError(
                f"{self.url}: is {source.total} bytes, expected {self.size}: the file at its source has changed"
            )
        if (source.total or 0) > self.limit:
            raise SpkverError(f"{self.url}: is {source.total} bytes, more than the {self.limit} that it may have")

    def _append(self, response, source: _Source, start: int) -> None:
        limit = min(self.limit, self._room(source, start))
        if start == 0:
            self.path.unlink(missing_ok=True)  # before the record: old bytes never pass for the new version's
        write_json(self.record, vars(source))
        bar = tqdm(desc=self.path.stem, total=source.total, initial=start, unit="B", unit_scale=True, disable=None)
        begun, new = time.monotonic(), 0
        with open(self.path, "ab", buffering=0) as file, bar:
            while block := response.read1(_BLOCK):
                start, new = start + len(block), new + len(block)
                if start > limit:
                    self.forget()
                    raise SpkverError(
                        f"{self.url}: sends more than the {limit} bytes that are expected or fit here; stopped, removed"
                    )
                left = memoryview(block)
                with writing(self.path):
                    while left:  # a disk that is nearly full takes a block in pieces
                        left = left[file.write(left) :]
                bar.update(len(block))
                passed = time.monotonic() - begun
                if passed > self.timeout_seconds and new < _SLOWEST * passed:
                    raise _Broken(f"only {new} bytes came in {passed:.1f} s")
                if passed > self.timeout_seconds:
                    begun, new = time.monotonic(), 0
            os.fsync(file.fileno())

    def _room(self, source: _Source, start: int) -> int:
        """How many bytes the file may have.

        Raises:
            SpkverError: it will not fit on the disk.
        """
        free = shutil.disk_usage(self.path.parent).free + self.length
        if source.total is None:
            return max(0, free - _KEPT_FREE)
        if source.total > free:
            needed = source.total - start
            raise SpkverError(f"{self.path.parent}: {needed} bytes are needed and {free - start} are free; make room")
        return source.total

    def _refused(self, error: urllib.error.HTTPError) -> Exception:
        if error.code == 416:  # the part is longer than the file is now
            self.forget()
            return _Broken("the file changed at its source, starting over")
        reason = str(error.reason).partition("\n")[0]
        if error.code in _RETRY_STATUS:
            return _Broken(f"the server answers {error.code} {reason}")
        return SpkverError(f"{self.url}: the server answers {error.code} {reason}; check the address")


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


def _told(error: Exception, url: str, begun: bool) -> Exception:
    """A low-level failure as the exception to raise: worth another attempt, or an error for the user."""
    cause = getattr(error, "reason", error)
    said = " ".join(str(cause).split()) or type(cause).__name__  # a server's own words may have line ends
    if isinstance(cause, ssl.SSLCertVerificationError):
        return SpkverError(f"{url}: its certificate is not trusted ({cause.verify_message}); check clock and proxy")
    # In the midst of a download the network is gone for a while; without a byte there is none, or the name is wrong.
    if isinstance(cause, socket.gaierror) and not begun:
        host = urllib.parse.urlsplit(url).hostname
        return SpkverError(f"{url}: no address found for {host}; check the network, or fetch the file by other means")
    if isinstance(cause, ValueError | http.client.InvalidURL):
        return SpkverError(f"{url}: not an address that can be asked ({said})")
    if url.startswith("file:") or isinstance(cause, PermissionError | IsADirectoryError):
        return SpkverError(f"{url}: {said}")
    return _Broken(f"connection failed ({said})")


def _digest(checksum: str | None) -> tuple[str, str] | None:
    """The algorithm and the lower-case hex digits of a checksum."""
    if checksum is None:
        return None
    name, _, digits = checksum.strip().lower().rpartition(":")
    algorithm = {64: "sha256", 32: "md5"}.get(len(digits))
    if algorithm is None or name not in ("", algorithm) or set(digits) - set("0123456789abcdef"):
        raise SpkverError(f"checksum '{checksum}': give 64 hex digits (SHA-256) or 32 (MD5)")
    return algorithm, digits


def _fault(path: Path, digest: tuple[str, str] | None, size: int | None) -> str | None:
    """What a file is instead of what is expected, in words; None where it is that."""
    if size is not None and path.stat().st_size != size:
        return f"{path.stat().st_size} bytes, expected {size}"
    if digest is None:
        return None
    algorithm, expected = digest
    computed = hashlib.new(algorithm, usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            computed.update(block)
    return None if computed.hexdigest() == expected else f"{algorithm} {computed.hexdigest()}, expected {expected}"
