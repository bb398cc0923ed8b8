"""A zip archive unpacked safely: whole or not at all, and never outside of its folder."""

import lzma
import shutil
import stat
import struct
import zipfile
import zlib
from pathlib import Path

from tqdm import tqdm

from spkver.corpora.unpack import folder_aside, move_in
from spkver.errors import SpkverError

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
                members = _checked_members(archive, zip_path, aside)
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


def _checked_members(archive: zipfile.ZipFile, zip_path: Path, target: Path) -> list[zipfile.ZipInfo]:
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
