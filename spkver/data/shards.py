"""Utterances inside of shards: the place of one, its bytes, and what a shard holds.

A shard is an uncompressed tar in WebDataset's naming: ``KEY.flac`` (or ``.wav``, or what else holds the audio) beside
``KEY.spk``, the speaker, as WeSpeaker writes and reads them. A data directory lists an utterance of a shard in its
``wav.scp`` as ``SHARD.tar:OFFSET:SIZE``, the bytes that are the audio file. So it is read at random, as a file is, and
whatever takes the path of an audio file takes such a place, too.
"""

import io
import os
import re
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from spkver.config.schema import Shards
from spkver.data.names import composed
from spkver.data.remote import cached, is_address, open_shard, read_range, settings_of
from spkver.errors import SpkverError

_MEMBER = re.compile(r"(.+\.tar):(\d{1,18}):(\d{1,18})", re.DOTALL)
_LARGEST_TEXT = 4096  # bytes of a KEY.spk
_AUDIO = {".flac", ".wav", ".ogg", ".opus", ".mp3", ".m4a", ".aac", ".aiff", ".aif", ".au", ".caf", ".w64", ".sph"}


class TruncatedShard(SpkverError):
    """A shard ends before the utterance that is wanted of it."""


@dataclass(frozen=True)
class Member(os.PathLike):
    """An audio file inside of a shard; as text ``SHARD.tar:OFFSET:SIZE``.

    Attributes:
        shard: the tar: its absolute path, or its address as text.
        offset: of the first of its bytes in the shard.
        size: how many bytes they are.
        lists: of an address, the folder whose ``shards.yaml`` says how it is read.
    """

    shard: Path | str
    offset: int
    size: int
    lists: Path = field(default=Path(), compare=False)

    def __fspath__(self) -> str:
        return f"{self.shard}:{self.offset}:{self.size}"

    __str__ = __fspath__

    def open(self) -> BinaryIO:
        """The audio file, opened for reading.

        Raises:
            TruncatedShard: the shard ends within it. OSError: it cannot be opened.
            SpkverError: it is at an address that cannot be reached.
        """
        if isinstance(self.shard, Path):
            return _span(self, self.shard)
        if getattr(_last, "member", None) != self:
            copy = cached(self.shard, settings_of(self.lists))
            if copy is not None:
                return _span(self, copy)
            content = read_range(self.shard, self.offset, self.size, settings_of(self.lists))
            if len(content) < self.size:
                raise _truncated(self, self.offset + len(content))
            _last.member, _last.content = self, content
        return io.BytesIO(_last.content)


# The remote audio that a thread has read last: to check it and to decode it, it is opened several times.
_last = threading.local()


def _span(member: Member, shard: Path) -> BinaryIO:
    return _Span(member, shard)  # type: ignore[return-value]  # a raw file has all that a BinaryIO is used for


def _truncated(member: Member, there: int) -> TruncatedShard:
    end = member.offset + member.size
    return TruncatedShard(
        f"{member}: truncated, the shard has {there} bytes, and what begins at {member.offset} ends at {end}; "
        "pack or copy it again"
    )


Location = Path | Member
"""Where an utterance's audio is: a file, or a place in a shard."""


def located(text: str, folder: Path) -> Location:
    """What a list names as an utterance's audio; relative paths are relative to ``folder``."""
    found = _MEMBER.fullmatch(text)
    if found is None:
        return folder / text
    shard, offset, size = found[1], int(found[2]), int(found[3])
    address = settings_of(folder).address
    if address is not None and not os.path.isabs(shard) and not is_address(shard):
        shard = f"{address.rstrip('/')}/{shard}"
    return Member(shard if is_address(shard) else folder / shard, offset, size, folder)


def listed(location: Location, folder: Path) -> str:
    """The text by which a list in ``folder`` names a location: relative where it lies inside the folder."""
    if isinstance(location, Member):
        shard = location.shard if isinstance(location.shard, str) else listed(location.shard, folder)
        return f"{shard}:{location.offset}:{location.size}"
    path = Path(location).absolute()
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()


def is_there(location: Location) -> bool:
    """Whether the file, or the shard, exists; one at an address is taken to until it is read."""
    path = location.shard if isinstance(location, Member) else location
    return isinstance(path, str) or os.path.isfile(path)


def stamp(location: Location) -> tuple[int, int]:
    """Size in bytes, and modification time in nanoseconds of the file or shard; (-1, -1) where there is none.

    Of a shard at an address no time is known, and it counts as 0.
    """
    if isinstance(location, Member) and isinstance(location.shard, str):
        return location.size, 0
    try:
        found = os.stat(location.shard if isinstance(location, Member) else location)
    except OSError:
        return -1, -1
    return location.size if isinstance(location, Member) else found.st_size, found.st_mtime_ns


class _Span(io.RawIOBase):
    """Some bytes of a file as a file of their own, read at their place without moving through the others."""

    def __init__(self, member: Member, shard: Path):
        self.name = str(member)
        self._begin, self._size, self._place = member.offset, member.size, 0
        self._file = os.open(shard, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        there = os.fstat(self._file).st_size
        if there < member.offset + member.size:
            self.close()
            raise _truncated(member, there)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(origin + offset, 0)
        return self._place

    def readinto(self, buffer) -> int:
        wanted = min(len(buffer), max(self._size - self._place, 0))
        content = os.pread(self._file, wanted, self._begin + self._place)
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)

    def close(self) -> None:
        if not self.closed:
            os.close(self._file)
        super().close()


class Listed(NamedTuple):
    """What a shard says of one utterance."""

    utterance: str
    speaker: str
    offset: int
    size: int


def shard_utterances(shard: Path | str) -> Iterator[Listed]:
    """The utterances of a shard, in its order, by the headers of its members; audio is passed over.

    ``KEY.spk`` may stand before or behind the audio, as long as nothing of another key is in between.

    Raises:
        SpkverError: it cannot be read, is no uncompressed tar or ends too early (with the offset); an utterance without
            speaker, or a speaker without utterance.
    """
    key, audio, speaker, reached = "", None, None, 0
    try:
        with _opened(shard) as file, tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as tar:
            for member in tar:
                reached = member.offset
                if not member.isfile():
                    continue
                name, suffix = _key(member.name)
                if suffix != ".spk" and suffix not in _AUDIO:
                    continue
                if name != key and (audio or speaker is not None):
                    yield _listed(shard, key, audio, speaker)
                    audio, speaker = None, None
                key = name
                if suffix == ".spk":
                    speaker = _speaker(shard, tar, member)
                elif audio is None:
                    audio = member.offset_data, member.size
                else:
                    raise SpkverError(f"{shard}: '{key}' has two audio files, the second at byte {member.offset}")
    except tarfile.TarError as error:
        raise SpkverError(
            f"{shard}: no uncompressed tar, or damaged or truncated behind byte {reached} ({error}); copy it again"
        ) from None
    except OSError as error:
        raise SpkverError(f"{shard}: cannot be read ({error.strerror or error})") from None
    if audio or speaker is not None:
        yield _listed(shard, key, audio, speaker)


def _opened(shard: Path | str) -> BinaryIO:
    return open_shard(shard, Shards()) if isinstance(shard, str) else open(shard, "rb")


def _key(name: str) -> tuple[str, str]:
    """A member's name without its suffix, and the suffix: behind the last dot, as ids themselves may hold dots."""
    suffix = PurePosixPath(name).suffix
    return name.removesuffix(suffix).removeprefix("./"), suffix.lower()


def _listed(shard: Path | str, key: str, audio: tuple[int, int] | None, speaker: str | None) -> Listed:
    if audio is None:
        raise SpkverError(f"{shard}: '{key}.spk' has no audio beside it")
    if not speaker:
        raise SpkverError(f"{shard}: '{key}' at byte {audio[0]} has no speaker; a member '{key}.spk' must name one")
    return Listed(composed(key), speaker, *audio)


def _speaker(shard: Path | str, tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    content = tar.extractfile(member)
    text = b"" if content is None or member.size > _LARGEST_TEXT else content.read()
    try:
        speaker = composed(text.decode("utf-8").strip())
    except UnicodeDecodeError:
        speaker = ""
    if not speaker or len(speaker.split()) != 1 or "\0" in speaker:
        raise SpkverError(f"{shard}: '{member.name}' at byte {member.offset} names no speaker; one word is expected")
    return speaker
