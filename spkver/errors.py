"""The one exception that people see, and one line for what the machine refuses."""

import difflib
import errno
import shutil
from collections.abc import Iterable
from pathlib import Path

_LONGEST = 480  # characters of a message: what a terminal shows at once, whatever a damaged file puts into it
_KEPT_END = 160

# By OSError.errno, which is None where Python itself made the error.
ADVICE: dict[int | None, str] = {
    errno.ENOSPC: "make room and run again",
    errno.EDQUOT: "make room and run again",
    errno.EFBIG: "make room, or raise the limit by `ulimit -f`",
    errno.EROFS: "give a place that can be written",
    errno.EACCES: "give a place that you may use, or ask for the right to it",
    errno.EPERM: "give a place that you may use, or ask for the right to it",
    errno.ENOTDIR: "a part of the path is a file, and a folder is wanted there",
    errno.EEXIST: "remove it, or give another place",
    errno.EISDIR: "it is a folder, and a file is wanted there",
    errno.EMFILE: "raise the limit by `ulimit -n`",
    errno.ENAMETOOLONG: "give a shorter one",
}
# Of Python itself, where it has kept its code on a full disk.
_OF_CACHED_CODE = "marshal data too short", "EOF read where object expected"
# Packages of extras that are imported without further ado.
_OPTIONAL = {"matplotlib"}
_PACKAGE = Path(__file__).resolve().parent


class SpkverError(Exception):
    """A user's mistake or a file that cannot be used, in one line.

    The message names the file, line, key or utterance, says what was found and what to do. The command line prints it
    without a traceback. Characters that cannot be printed are escaped, and a long message loses its middle, so that
    it stays one line whatever a damaged file put into it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_one_line(str(message)))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`` (did you mean 'KNOWN'?)`` for the end of a message about a word that is none; nothing where none is near."""
    near = difflib.get_close_matches(word, list(known), 1)
    return f" (did you mean '{near[0]}'?)" if near else ""


def one_line_for(error: Exception) -> str | None:
    """What to say about an error for which the machine is to blame rather than the program; None for another one.

    Files and folders that cannot be read or written, a full disk, and memory that is not there, wherever that happens.
    """
    text = str(error)
    if isinstance(error, OSError):
        return _one_line(_os_error(error))
    of_torch = "can't allocate memory" in text or type(error).__name__ == "OutOfMemoryError"
    if isinstance(error, MemoryError) or of_torch:
        return _one_line(f"out of memory ({text or 'none was left'}); take less at once, or a larger machine")
    if text.startswith("Symlink loop from "):  # pathlib's RuntimeError, up to Python 3.12
        return _one_line(f"{text.removeprefix('Symlink loop from ')}: is a link to itself; remove it")
    if isinstance(error, EOFError) and text.startswith(_OF_CACHED_CODE):
        return _one_line(f"Python's cached code was cut off; remove the folders __pycache__ below {_PACKAGE}")
    if isinstance(error, ModuleNotFoundError) and error.name in _OPTIONAL:
        return f"{error.name} is not installed, which this needs; pip install {error.name}"
    if isinstance(error, RecursionError):
        return "something in the input is nested too deeply; make it flatter"
    return None


def _os_error(error: OSError) -> str:
    if isinstance(error, shutil.Error) and isinstance(error.args[0], list):  # of a whole tree
        _, target, reason = error.args[0][0]
        return f"{target}: cannot be copied ({reason})"
    reason = error.strerror or str(error)
    where = "" if error.filename is None else f"{_path(error.filename)}: "
    target = "" if error.filename2 is None else f" ({_path(error.filename2)})"
    advice = ADVICE.get(error.errno)
    return f"{where}{reason}{target}" + (f"; {advice}" if advice else "")


def _path(name: str | bytes | int) -> str:
    return name.decode(errors="backslashreplace") if isinstance(name, bytes) else str(name)


def _one_line(text: str) -> str:
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST - _KEPT_END]} ... {text[-_KEPT_END:]}"
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - _KEPT_END]} ... {text[-_KEPT_END:]}"
