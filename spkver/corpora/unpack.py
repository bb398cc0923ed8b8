"""A tar or zip archive unpacked safely: whole or not at all, and never outside of its folder.

Early versions of Python 3.10 and 3.11 lack `tarfile`'s data filter, and in later ones links led past it; so all members
are checked here before the first is written, and the filter comes second.
"""

import gzip
import lzma
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tqdm import tqdm

from spkver.errors import SpkverError
from spkver.files import locked

_BLOCK = 1 << 20
# What tarfile lets through of headers that make no sense.
_OF_DAMAGE = ValueError, OverflowError, UnicodeError, KeyError, struct.error
_Parts = tuple[str, ...]


def unpack(tar_path: str | Path, folder: str | Path, top: str | None = None) -> Path:
    """Unpack a tar archive (also .gz, .bz2, .xz) into a new ``folder``, all of it or nothing.

    Every member is checked before the first is written: absolute names, ``..``, links that lead outside
    or that another member passes through, devices and pipes are refused. Owners, modes and times of the
    archive are ignored. The members go into a folder aside, which is renamed at the end.

    Args:
        folder: where the members go; it must not exist yet, or be empty.
        top: the archive's own top folder, if it has one: its contents become ``folder``.

    Raises:
        SpkverError: a dangerous member, a cut or damaged archive, a folder that exists, a full disk.
    """
    tar_path, folder = Path(tar_path), Path(folder)
    if not tar_path.is_file():
        raise SpkverError(f"{tar_path}: no such archive")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SpkverError(f"{folder}: exists already; remove it to unpack {tar_path} there")
    try:
        with folder_aside(folder) as aside:
            with tarfile.open(tar_path) as tar:
                _extract(tar, _checked_members(tar, tar_path, aside), aside)
            move_in(aside, folder, top, tar_path)
    except (tarfile.TarError, gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError, *_OF_DAMAGE) as error:
        what = str(error).partition("\n")[0].rstrip(":")  # tarfile lists every format on a line of its own
        raise SpkverError(f"{tar_path}: cut or damaged archive ({what}); remove it and get it again") from None
    except OSError as error:
        raise SpkverError(f"{tar_path}: cannot be unpacked to {folder}: {error.strerror or error}") from None
    return folder


@contextmanager
def folder_aside(folder: Path) -> Iterator[Path]:
    """An empty folder beside another one, for one process at a time; at the end it is gone.

    Raises:
        SpkverError: another process unpacks to the same folder.
    """
    with locked(folder.with_name(f".{folder.name}.unpacking.lock"), f"unpacking to {folder.name}"):
        aside = folder.with_name(f".{folder.name}.unpacking")
        try:
            shutil.rmtree(aside, ignore_errors=True)  # what a killed run left
            aside.mkdir(parents=True)
            yield aside
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def move_in(aside: Path, folder: Path, top: str | None, archive: Path) -> None:
    """Give what was unpacked aside, or the folder ``top`` in it, its final name.

    Raises:
        SpkverError: there is no such folder.
    """
    root = aside if top is None else aside / top
    if not root.is_dir():
        raise SpkverError(f"{archive}: has no folder '{top}'; it is another archive than expected")
    if folder.exists():
        folder.rmdir()
    root.rename(folder)


def _checked_members(tar: tarfile.TarFile, tar_path: Path, target: Path) -> list[tarfile.TarInfo]:
    """The archive's members, none of which can write or lead outside of the folder they go to."""
    members = list(tqdm(tar, desc=f"reading {tar_path.name}", unit="file", disable=None))
    # tarfile stops at the end mark, before gzip's sum; only reading past it finds a damaged file.
    while tar.fileobj.read(_BLOCK):
        pass
    links = {_below(m.name) for m in members if m.issym() or m.islnk()}
    for member in members:
        if fault := _fault(member, links):
            raise SpkverError(f"{tar_path}: member {member.name!r} {fault}; nothing was unpacked")
    needed, free = sum(member.size for member in members), shutil.disk_usage(target).free
    if needed > free:
        raise SpkverError(f"{tar_path}: needs {needed} bytes and {free} are free; make room")
    return members


def _fault(member: tarfile.TarInfo, links: set[_Parts | None]) -> str | None:
    """What is dangerous about a member, or None.

    Links are followed by their text alone, which is right only as long as no path runs through another
    link; such paths are refused, too.
    """
    if not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
        return "is a device or a pipe"
    place = _below(member.name)
    if place is None or ".." in member.name.replace("\\", "/").split("/"):
        return "would be written outside of the folder"
    is_link = member.issym() or member.islnk()
    if _through(place[:-1] if is_link else place, links):
        return "would be written through a link"
    if is_link:
        start = place[:-1] if member.issym() else ()  # a hard link is named from the archive's root
        if _below(member.linkname, start) is None:
            return f"is a link that leads outside of the folder ({member.linkname!r})"
        if any(_through(step, links) for step in _steps(member.linkname, start)):
            return f"is a link to a link ({member.linkname!r})"
    return None


def _steps(name: str, start: _Parts = ()) -> list[_Parts]:
    """The places that a path leads through, part by part; cut off where it climbs out of the folder.

    Letter case is folded, since some file systems are blind to it.
    """
    here, steps = start, []
    for part in name.replace("\\", "/").casefold().split("/"):
        if part == ".." and not here:
            break
        if part not in ("", "."):
            here = here[:-1] if part == ".." else (*here, part)
        steps.append(here)
    return steps


def _below(name: str, start: _Parts = ()) -> _Parts | None:
    """Where a path leads to, or None when it is absolute or climbs out of the folder."""
    parts = name.replace("\\", "/").split("/")
    absolute = not parts[0] or parts[0][1:2] == ":"  # "/etc", "C:/"
    steps = _steps(name, start)
    return None if absolute or len(steps) < len(parts) else steps[-1]


def _through(place: _Parts, links: set[_Parts | None]) -> bool:
    return any(place[:n] in links for n in range(1, len(place) + 1))


def _extract(tar: tarfile.TarFile, members: list[tarfile.TarInfo], folder: Path) -> None:
    # The standard library's own filter is a second pair of eyes; early 3.10 and 3.11 lack it.
    extract = partial(tar.extract, filter="data") if hasattr(tarfile, "data_filter") else tar.extract
    for member in tqdm(members, desc="unpacking", unit="file", disable=None):
        extract(member, folder, set_attrs=False)


_ENCRYPTED = 1  # in a member's flags


def unpack_zip(zip_path: str | Path, folder: str | Path, top: str | None = None) -> Path:
    """Unpack a zip archive into a new ``folder``, all of it or nothing; see `spkver.corpora.unpack.unpack`.

    Args:
        folder: where the members go; it must not exist yet, or be empty.
        top: the archive's own top folder, if it has one: its contents become ``folder``.

    Raises:
        SpkverError: a dangerous member (absolute, ``..``, a link), a damaged archive, a folder that exists, a full
            disk.
    """
    zip_path, folder = Path(zip_path), Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SpkverError(f"{folder}: exists already; remove it to unpack {zip_path} there")
    try:
        with folder_aside(folder) as aside:
            with zipfile.ZipFile(zip_path) as archive:
                members = _checked_zip_members(archive, zip_path, aside)
                for member in tqdm(members, desc="unpacking", unit="file", disable=None):
                    archive.extract(member, aside)
            move_in(aside, folder, top, zip_path)
    except OSError as error:
        raise SpkverError(f"{zip_path}: cannot be unpacked to {folder}: {error.strerror or error}") from None
    except NotImplementedError as error:
        raise SpkverError(
            f"{zip_path}: cannot be unpacked here ({error}); do it by hand, and give the folder"
        ) from None
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, OverflowError, struct.error) as error:
        raise SpkverError(f"{zip_path}: cut or damaged archive ({error}); remove it and get it again") from None
    return folder


def _checked_zip_members(archive: zipfile.ZipFile, zip_path: Path, target: Path) -> list[zipfile.ZipInfo]:
    """The archive's members, none of which is encrypted, or can write or lead outside of the folder they go to."""
    members = archive.infolist()
    for member in members:
        if member.flag_bits & _ENCRYPTED:
            raise SpkverError(f"{zip_path}: is encrypted; unpack it by hand, with its password")
        if _leads_astray(member):
            raise SpkverError(f"{zip_path}: member {member.filename!r} is dangerous; nothing was unpacked")
    needed, free = sum(member.file_size for member in members), shutil.disk_usage(target).free
    if needed > free:
        raise SpkverError(f"{zip_path}: needs {needed} bytes and {free} are free; make room")
    return members


def _leads_astray(member: zipfile.ZipInfo) -> bool:
    parts = member.filename.replace("\\", "/").split("/")
    absolute = not parts[0] or parts[0][1:2] == ":"
    return absolute or ".." in parts or stat.S_ISLNK(member.external_attr >> 16)
