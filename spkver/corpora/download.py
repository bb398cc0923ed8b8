"""A public file onto the disk, by a download that goes on where it broke.

The file grows as ``NAME.part`` and gets its name when it is whole. Pieces of several connections are joined only where
a checksum tells whether they belong together. Neither `urllib` nor requests, pooch or `torch.hub` goes on like this.
"""

import hashlib
import http.client
import re
import socket
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from spkver.errors import SpkverError
from spkver.files import locked, writing

MOST_BYTES = 100 << 30
"""Of a file that has no expected size: more than any archive of the corpora that spkver knows has."""

RETRIES = 5  # after a connection that failed; counted anew whenever more than a few bytes have come in
TIMEOUT_SECONDS, FIRST_WAIT_SECONDS = 30.0, 1.0
_FEW, _BLOCK = 1 << 16, 1 << 20
_BUSY = {408, 425, 429, 500, 502, 503, 504}  # what a server may answer now and not in a minute
_FINAL = (ValueError, http.client.InvalidURL, socket.gaierror, ssl.SSLCertVerificationError, FileNotFoundError)


def download(
    url: str, path: str | Path, checksum: str | None = None, size: int | None = None, most_bytes: int = MOST_BYTES
) -> Path:
    """Fetch ``url`` to ``path``; what is there already is held to ``checksum`` and ``size``, and kept.

    Args:
        url: ``https``, ``file``, or, with a checksum, ``http``, which anybody on the way can change.
        checksum: 64 hex digits (SHA-256) or 32 (MD5), with or without ``sha256:`` or ``md5:`` in front.
        size: the expected bytes.
        most_bytes: that a file without a ``size`` may have, whatever its source says.

    Raises:
        SpkverError: no network, a refusal such as 404, a wrong size or checksum, a full disk, another process that
            fetches the same file.
    """
    path, checksum = Path(path), _hex_digits(checksum)
    if path.exists():
        if fault := _fault(path, checksum, size):
            raise SpkverError(f"{path}: has {fault}; remove it to get it again")
        return path
    part, failures = path.with_name(f"{path.name}.part"), 0
    with locked(path.with_name(f".{path.name}.lock"), f"the download of {path.name}"):
        while True:
            start = _length(part) if checksum else 0
            try:
                _fetch(url, part, start, checksum, size, most_bytes)
                break
            except (OSError, ValueError, http.client.HTTPException) as error:
                status, cause = getattr(error, "code", None), getattr(error, "reason", error) or type(error).__name__
                said = f"the server answers {status} {cause}" if status else f"connection failed ({cause})"
                failures = 1 if _length(part) >= start + _FEW else failures + 1
                if failures > RETRIES or isinstance(cause, _FINAL) or (status or 503) not in _BUSY:
                    raise SpkverError(f"{url}: {said}; check address and network, and run again to go on") from None
            wait = min(30.0, FIRST_WAIT_SECONDS * 2 ** (failures - 1))
            tqdm.write(f"{path.name}: {said}; again in {wait:.0f} s", file=sys.stderr)
            time.sleep(wait)
        if fault := _fault(part, checksum, size):
            part.unlink()
            raise SpkverError(f"{url}: fetched {fault}; removed; run again; if it repeats, check the source")
        part.replace(path)
    return path


def _fetch(url: str, part: Path, start: int, checksum: str | None, size: int | None, most_bytes: int) -> None:
    """Append to a part what comes after its ``start`` bytes, or write it anew where the server knows no ranges."""
    _check_scheme(url, checksum)
    headers = {"User-Agent": "spkver"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        return  # there is no more of it
    with response:
        _check_scheme(response.url, checksum)  # it may have been redirected
        start = start if response.status == 206 else 0
        length, limit = response.headers.get("Content-Length", ""), most_bytes if size is None else size
        total = start + int(length) if length.isdecimal() else size
        if total is not None and (total > limit or total < (size or 0)):
            raise SpkverError(f"{url}: is {total} bytes, expected {'at most ' if size is None else ''}{limit}")
        bar = tqdm(desc=part.stem, total=total, initial=start, unit="B", unit_scale=True, disable=None)
        with bar, open(part, "ab" if start else "wb", buffering=0) as file:
            while block := response.read1(_BLOCK):
                if start + len(block) > limit:
                    raise SpkverError(f"{url}: sends more than the {limit} bytes that it may have; stopped")
                while block:  # a disk that is nearly full takes a block in pieces
                    with writing(part):
                        written = file.write(block)
                    start, block = start + written, block[written:]
                    bar.update(written)
    if start < (total or 0):
        raise ConnectionError(f"it broke at {start} of {total} bytes")


def _check_scheme(url: str, checksum: str | None) -> None:
    if url.partition(":")[0] not in ("https", "file", "http" if checksum else ""):
        raise SpkverError(f"{url}: not an https or file address, nor http with a checksum to hold the file to")


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _hex_digits(checksum: str | None) -> str | None:
    digits = checksum.strip().lower().rpartition(":")[2] if checksum is not None else None
    if digits is not None and not re.fullmatch("[0-9a-f]{32}|[0-9a-f]{64}", digits):
        raise SpkverError(f"checksum '{checksum}': give 64 hex digits (SHA-256) or 32 (MD5)")
    return digits


def _fault(path: Path, checksum: str | None, size: int | None) -> str | None:
    """What a file is instead of what is expected, in words; None where it is that."""
    if size is not None and path.stat().st_size != size:
        return f"{path.stat().st_size} bytes, expected {size}"
    if checksum is None:
        return None
    computed = hashlib.new("md5" if len(checksum) == 32 else "sha256", usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            computed.update(block)
    found = computed.hexdigest()
    return None if found == checksum else f"{computed.name} {found}, expected {checksum}"
