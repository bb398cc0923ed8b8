"""Output files that appear whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | os.PathLike, mode: str = "w") -> Iterator:
    """Open a file beside ``path`` for writing, and rename it to ``path`` when the block ends well.

    Whoever reads ``path`` sees the old file or the new one, never half of one; when the block
    raises, or the machine stops, ``path`` is as it was. Text is UTF-8 with LF line ends.

    Args:
        path: the final name; missing parent folders are made.
        mode: ``"w"`` or ``"wb"``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A file name that is no UTF-8 becomes ``\\udce9``, which JSON reads as that name again.
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n", "errors": "backslashreplace"}
    handle, aside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(aside, 0o666 & ~_umask())
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
