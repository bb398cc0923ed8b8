"""Output files that appear whole or not at all, locks, and the temporary files of runs that were killed.

Locks and temporary files rest on ``flock``: the kernel frees such a lock when its process ends, also by ``kill -9`` or
a crash, so nobody has to guess from a process id whether a lock is still meant. On NFS the server keeps the locks
(Linux sends ``flock`` there as a lock of the whole file), so they hold between machines. A file system that keeps no
locks at all is written without them.
"""

import errno
import io
import json
import os
import re
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from spkver.errors import ADVICE, SpkverError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

try:
    import fcntl
except ImportError:  # Windows: as a file system that keeps no locks
    fcntl = None  # type: ignore[assignment]  # mypy knows no module that may be missing

# Never through a link: what it points to would be overwritten. 0 where the system has no such flag.
_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_TRY_AGAIN_SECONDS = 0.05
# What tempfile makes of the prefix and the suffix below: eight characters between them.
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.unfinished", re.DOTALL)
_LONGEST_NAME = 200  # of 255 bytes that a file name may have

_held: set[int] = set()  # descriptors of locks of this process
_tidied: set[Path] = set()  # folders without leftovers since this process began
_BUFFER_BYTES = 1 << 20


@contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "w", private: bool = False) -> Iterator[IO[Any]]:
    """Open a file beside ``path`` for writing, and rename it to ``path`` when the block ends well.

    Whoever reads ``path`` sees the old file or the new one, never half of one; when the block
    raises, or the machine stops, ``path`` is as it was. Text is UTF-8 with LF line ends.
    What ``kill -9`` leaves is removed by `remove_leftovers`.

    Args:
        path: the final name; missing parent folders are made.
        mode: ``"w"`` or ``"wb"``.
        private: readable by its owner alone.

    Raises:
        SpkverError: the file cannot be written: no permission, a full disk, a file where a folder is wanted.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = temporary_beside(path)
    except OSError as error:
        raise _cannot_write(path, error) from None
    raw = _Recording(handle, "wb")
    file: IO[Any] = io.BufferedWriter(raw, _BUFFER_BYTES)
    if "b" not in mode:
        # A file name that is no UTF-8 becomes ``\\udce9``, which JSON reads as that name again.
        file = io.TextIOWrapper(file, encoding="utf-8", newline="\n", errors="backslashreplace")
    try:
        yield file
        file.flush()
        _finish(handle, aside, path, private)
    except Exception as error:
        Path(aside).unlink(missing_ok=True)
        # numpy writes past `raw`, and its error has no number; any other is about another file.
        fault = error if isinstance(error, OSError) and error.errno is None else raw.fault
        if fault is not None:
            raise _cannot_write(path, fault) from None
        raise
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
    finally:
        raw.close()  # not `file`: what is in its buffer after a failure is not wanted any more


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Write a value as JSON, whole or not at all; every number is read back to the bit.

    Raises:
        SpkverError: as `atomic_write`.
        TypeError, ValueError: JSON cannot hold it; NaN and infinities count as that.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_write(path) as file:
        file.write(text + "\n")


def read_json(path: str | os.PathLike[str], advice: str) -> object:
    """Read a JSON file.

    Raises:
        SpkverError: naming the file, and the line where that is known; ``advice`` ends it.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise SpkverError(f"{path}:{error.lineno}: not JSON ({error.msg}); {advice}") from None
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise SpkverError(f"{path}: cannot be read ({reason}); {advice}") from None


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """For a file that is written as it grows: says in one line why that failed.

    Raises:
        SpkverError: instead of an OSError that names no file.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None and os.fspath(error.filename) != os.fspath(path):
            raise
        raise _cannot_write(Path(path), error) from None


@contextmanager
def locked(lock_path: str | os.PathLike[str], what: str, wait_seconds: float = 0.0) -> Iterator[None]:
    """Do something that only one process may do at a time.

    The lock file holds the process id, the host and the time since when. It is removed at the end; one that a killed
    process left behind is taken over. Child processes do not inherit the lock. It excludes threads as it does
    processes, and a second ``locked`` of the same path within the block is refused, too.

    Args:
        lock_path: the lock file, in the folder that it protects, as ``exp/mini/.training.lock``; missing parent
            folders are made.
        what: what is done there, for the message: ``"training"``.
        wait_seconds: how long to wait for another process before giving up.

    Raises:
        SpkverError: another process has the lock (named with its id, host and start), or the folder cannot be written.
    """
    with _lock(Path(lock_path), what, wait_seconds) as is_mine:
        if not is_mine:
            raise SpkverError(
                f"{Path(lock_path).parent}: {what} is under way in another process ({_holder(Path(lock_path))}); "
                "wait until it has ended, or stop it"
            )
        yield


@contextmanager
def claimed(lock_path: str | os.PathLike[str], what: str) -> Iterator[bool]:
    """As `locked`, for work that another process may do as well: whether it is this one's, without waiting.

    Raises:
        SpkverError: the folder cannot be written.
    """
    with _lock(Path(lock_path), what, 0.0) as is_mine:
        yield is_mine


@contextmanager
def _lock(lock_path: Path, what: str, wait_seconds: float) -> Iterator[bool]:
    try:
        lock_path.parent.mkdir(parents=True, exist_ok=True)
        handle = _acquired(lock_path, time.monotonic() + wait_seconds)
    except OSError as error:
        raise SpkverError(
            f"{lock_path.parent}: {what} must write here and cannot ({error.strerror}); "
            "give a folder that can be written, or make this one so"
        ) from None
    if handle is None:
        yield False
        return
    _held.add(handle)
    try:
        yield True
    finally:
        lock_path.unlink(missing_ok=True)
        _held.discard(handle)
        os.close(handle)


def is_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file is there.

    Raises:
        SpkverError: that cannot be found out, as where a folder above may not be looked into.
    """
    try:
        return Path(path).is_file()
    except OSError as error:
        raise SpkverError(f"{path}: cannot be read ({error.strerror})") from None


def temporary_beside(path: Path) -> tuple[int, str]:
    """A new file ``.NAME.xxxxxxxx.unfinished`` in the folder of ``path``, as `tempfile.mkstemp` makes it.

    It counts as being written as long as its descriptor is open, see `remove_leftovers`, which this process calls when
    it first writes to a folder: so a run removes what killed ones left.

    Returns:
        ``(descriptor, path)``
    """
    if path.parent not in _tidied:
        _tidied.add(path.parent)
        remove_leftovers(path.parent)
    name = os.fsdecode(os.fsencode(path.name)[:_LONGEST_NAME])
    while True:
        handle, aside = tempfile.mkstemp(prefix=f".{name}.", suffix=".unfinished", dir=path.parent)
        _locks(handle, wait=True)
        if os.fstat(handle).st_nlink:
            return handle, aside
        os.close(handle)  # `remove_leftovers` of another process came between


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Remove the temporary files of `atomic_write` that killed processes left in a folder.

    Those that any process is writing stay. A folder that does not exist, or from which nothing can be removed, is
    left as it is: whoever writes there meets the reason.
    """
    try:
        names = [name for name in os.listdir(folder) if _TEMPORARY.fullmatch(name)]
    except OSError:
        return
    for name in names:
        _remove_unless_written(os.path.join(folder, name))


def _remove_unless_written(path: str) -> None:
    try:
        handle = os.open(path, os.O_RDWR | getattr(os, "O_NONBLOCK", 0) | _NO_LINK)
    except OSError:
        return
    try:
        if _locks(handle) is True:
            os.unlink(path)
    except OSError:
        pass
    finally:
        os.close(handle)


def _acquired(path: Path, until: float) -> int | None:
    """The descriptor of a lock file that this process now holds, or None when another one had it until then."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | _NO_LINK, 0o666)
        if _locks(handle) is not False and _is_still(handle, path):
            _sign(handle)
            return handle
        os.close(handle)
        if time.monotonic() >= until and _exists(path):
            return None
        time.sleep(_TRY_AGAIN_SECONDS)


def _sign(handle: int) -> None:
    """Say who has the lock, for whom it keeps waiting; it holds without that, as on a full disk."""
    with suppress(OSError):
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}, since {_now()}\n".encode())


def _locks(handle: int, wait: bool = False) -> bool | None:
    """Take a lock: True, False when another process has it, None on a file system that keeps no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return None
    return True


def _is_still(handle: int, path: Path) -> bool:
    """Whether a path still leads to an open file: the one who had the lock may have removed it meanwhile."""
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except FileNotFoundError:
        return False


def _exists(path: Path) -> bool:
    """False when a lock was given back just now: worth another try even if nobody wants to wait."""
    return os.path.lexists(path)


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:200].strip() or "it has just begun"
    except OSError:
        return "it has just ended"


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def _forget_in_child() -> None:
    """Close a child's copies of the lock descriptors, so that the lock ends with the process that took it.

    Data workers would otherwise hold the lock of a training that was killed until they notice. And what was left when
    this process began may not be all that is left when a child begins.
    """
    for handle in _held:
        os.close(handle)
    _held.clear()
    _tidied.clear()


class _Recording(io.FileIO):
    """A file that remembers why it could not be written, since libraries make errors of their own of it.

    On a full disk torch says ``inline_container.cc: unexpected pos``.
    """

    fault: OSError | None = None

    def write(self, data: "ReadableBuffer") -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.fault = error
            raise


def _finish(handle: int, aside: str, path: Path, private: bool) -> None:
    try:
        os.fsync(handle)
        os.chmod(aside, 0o600 if private else 0o666 & ~_umask())
        os.replace(aside, path)  # while it is open: a temporary file that nobody has open is taken for a leftover
    except OSError as error:
        raise _cannot_write(path, error) from None


def _cannot_write(path: Path, error: OSError) -> SpkverError:
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir():
        return SpkverError(f"{path}: cannot be written, since {parent} is a file and no folder")
    advice = ADVICE.get(error.errno, "is the disk full?")
    return SpkverError(f"{path}: cannot be written ({error.strerror or error}); {advice}")


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


os.register_at_fork(after_in_child=_forget_in_child)
