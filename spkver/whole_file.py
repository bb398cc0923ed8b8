"""Output files that appear whole or not at all."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spkver.errors import ADVICE, SpkverError
from spkver.files import temporary_beside

_BUFFER_BYTES = 1 << 20


@contextmanager
def whole_file(path: str | os.PathLike, mode: str = "w", private: bool = False) -> Iterator:
    """Open a file beside ``path`` for writing, and rename it to ``path`` when the block ends well.

    Whoever reads ``path`` sees the old file or the new one, never half of one; when the block
    raises, or the machine stops, ``path`` is as it was. Text is UTF-8 with LF line ends.
    What ``kill -9`` leaves is removed by `spkver.files.remove_leftovers`.

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
    file = io.BufferedWriter(raw, _BUFFER_BYTES)
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


@contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
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


class _Recording(io.FileIO):
    """A file that remembers why it could not be written, since libraries make errors of their own of it.

    On a full disk torch says ``inline_container.cc: unexpected pos``.
    """

    fault: OSError | None = None

    def write(self, data) -> int:
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
