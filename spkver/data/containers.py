"""What the bytes of an audio file say before it is decoded: that it is no audio, that it was cut, or joined.

libsndfile (1.2.2) takes a file that was cut off for a shorter one, reads the first of several joined files, and
believes a WAV header that is merely off. So what a container promises is compared with the file here:

- A size too large by no more than a header's length is a recorder's mistake: what is there is read. By more: truncated.
- A WAV whose samples go on behind their promised end, as no chunk begins there, is read to the end of the file; so is
  one whose size was never written (0, or nearly the largest number). libsndfile is given a header that fits.
- Where another file begins behind the samples the file is refused, as libsndfile would leave that out without a word.

Of rare containers (AVR, IRCAM, MATLAB, MPC, PAF, PVF, SDS, VOC, WVE, XI) nothing is compared: they are read as far as
they go. An Ogg stream that was cut between two pages cannot be told from a whole one.
"""

import io
import os
import re
import stat
import struct
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

from spkver.data.shards import Member, TruncatedShard
from spkver.errors import SpkverError

# Programs that write WAV into a pipe do not know its size and write (nearly) the largest number.
_SIZE_UNKNOWN = 0x7FFF_0000
# By so many bytes a promise may be too large, whatever the header's length.
_MERELY_OFF = 64
# So much behind the promised end of a WAV that is no chunk is a tag or padding.
_MOST_PADDING = 1024
# No container has more chunks than this; a damaged one may have as many as it has bytes.
_MOST_CHUNKS = 10_000
_LARGEST_WAV_FORMAT = 4096
_LARGEST_OGG_PAGE = 65_307
# An MP3 whose header counts its bytes is followed by at most so many of its own: some do not count the first frame.
_MOST_OF_ONE_MP3 = 4096
_SCANNED_AT_ONCE = 1 << 20

_TAGS = (b"ID3", b"TAG", b"APETAGEX")
_WAV_CHUNKS = (b"LIST", b"fact", b"bext", b"cue ", b"smpl", b"inst", b"JUNK", b"PEAK", b"iXML", b"id3 ", b"ID3 ")
_RIFF = (b"RIFF", b"RIFX", b"RF64")

# Where in a file a magic number lies, and what has it.
_OTHER_MEDIA = (
    (4, b"ftyp", "MPEG-4 (m4a, mp4)"),
    (0, b"\x1aE\xdf\xa3", "Matroska or WebM"),
    (0, b"0&\xb2u", "Windows Media (wma, asf)"),
    (0, b"#!AMR", "AMR"),
    (0, b"\xff\xf1", "AAC"),
    (0, b"\xff\xf9", "AAC"),
    (8, b"AVI ", "AVI"),
)


class AudioError(SpkverError):
    """An audio file that cannot be used; ``reason`` is one word for lists.

    The words: ``missing``, ``unreadable``, ``empty``, ``truncated``, ``joined``, ``sample-rate``, ``non-finite``,
    ``out-of-range``.
    """

    def __init__(self, message: str, reason: str = "unreadable"):
        super().__init__(message)
        self.reason = reason


class Checked(NamedTuple):
    """What a container's check found."""

    rewritten: "_Rewritten | None" = None  # what libsndfile is to read instead of the file; the caller closes it
    last_page_frames: int | None = None  # frames in an Ogg file's last page, None where the pages do not tell


class Promise(NamedTuple):
    """Where samples begin in a file, and how many bytes of them its header promises."""

    begin: int
    n_bytes: int


class _Form(NamedTuple):
    """How a family of containers lays out its chunks."""

    first: int  # where the first chunk begins
    header: struct.Struct  # of a chunk: its name and size
    counted: int  # bytes of that header that the size includes
    align: int  # of a chunk's size


_FORMS = {
    b"RIFF": _Form(12, struct.Struct("<4sI"), 0, 2),
    b"RIFX": _Form(12, struct.Struct(">4sI"), 0, 2),
    b"RF64": _Form(12, struct.Struct("<4sI"), 0, 2),
    b"FORM": _Form(12, struct.Struct(">4sI"), 0, 2),
    b"caff": _Form(8, struct.Struct(">4sq"), 0, 1),
    b"riff": _Form(40, struct.Struct("<16sQ"), 24, 8),  # W64, whose names are GUIDs that begin like RIFF's
}
_SAMPLE_CHUNKS = (b"data", b"SSND", b"BODY")


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open an audio file, or one inside of a shard, for reading its bytes.

    Raises:
        AudioError: there is none, it is a folder, a pipe or a device, it may not be read, or its shard was cut.
    """
    try:
        if isinstance(path, Member):
            return path.open()
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise AudioError(f"{path}: a folder, expected an audio file; name files in it, as {path}/NAME.wav")
        if not stat.S_ISREG(mode):
            raise AudioError(f"{path}: a pipe or a device, expected an audio file; save what comes from it first")
        return open(path, "rb", buffering=0)
    except TruncatedShard as error:
        raise AudioError(str(error), "truncated") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):
            raise AudioError(f"{path}: an address, expected an audio file; download it first", "missing") from error
        raise AudioError(f"{path}: no such audio file", "missing") from error
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise AudioError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


def check_container(path: str | os.PathLike[str]) -> Checked:
    """Compare what a file's container promises with the file, by its headers and its last bytes.

    Raises:
        AudioError: as `open_regular`; an empty, truncated or joined file, or a medium that libsndfile does not read.
    """
    with open_regular(path) as file:
        size = _size(file)
        if size == 0:
            raise AudioError(f"{path}: the file is empty (0 bytes)", "empty")
        start = _behind_id3(file)
        head = _read_at(file, start, 32)
        for place, magic, medium in _OTHER_MEDIA:
            if head[place : place + len(magic)] == magic:
                raise AudioError(f"{path}: {medium} cannot be decoded; convert it to WAV or FLAC")
        try:
            if head[:4] == b"OggS":
                return Checked(last_page_frames=_last_ogg_page(path, file, size))
            if head[:4] in _RIFF and head[8:12] == b"WAVE":
                return Checked(_check_wav(path, file, start, size))
            if _is_mp3_frame(head):
                _check_mp3(path, file, start, size)
                return Checked()
            promise = _promise_of(file, start, head)
        except (struct.error, ValueError, IndexError):
            return Checked()  # nonsense in a header is libsndfile's to refuse
        if promise is not None:
            _check_promise(path, file, size, promise, head)
    return Checked()


def check_joined(path: str | os.PathLike[str]) -> None:
    """Look through all of a FLAC or Ogg file for a second one behind the first.

    Raises:
        AudioError: as `open_regular`; a joined file.
    """
    with open_regular(path) as file:
        begin = _behind_id3(file)
        magic = _read_at(file, begin, 4)
        if magic == b"fLaC":
            another, begin = re.compile(rb"fLaC[\0\x80]\0\0\x22"), begin + 4
        elif magic == b"OggS":
            another, begin = re.compile(rb"OggS\0[\x02\x06]"), _behind_first_ogg_pages(file, begin)
        else:
            return
        while block := _read_at(file, begin, _SCANNED_AT_ONCE):
            if another.search(block):
                raise _joined(path)
            # The next block begins before this one's end, where what is looked for may be cut.
            begin += max(len(block) - 7, 1) if len(block) == _SCANNED_AT_ONCE else len(block)


def _joined(path: str | os.PathLike[str]) -> AudioError:
    return AudioError(
        f"{path}: several audio files joined into one, of which only the first would be read; "
        "decode it to one WAV or FLAC file",
        "joined",
    )


def _size(file: BinaryIO) -> int:
    return file.seek(0, os.SEEK_END)


def _read_at(file: BinaryIO, place: int, n_bytes: int) -> bytes:
    """Bytes at a place that a header may have named; fewer where the file ends, none outside of it."""
    try:
        if not 0 <= place < _size(file):
            return b""
        file.seek(place)
        return file.read(n_bytes)
    except OSError as error:
        raise AudioError(f"{file.name}: cannot be read ({error.strerror})") from error


def _behind_id3(file: BinaryIO, place: int = 0) -> int:
    """Where an ID3v2 tag at ``place`` ends; ``place`` itself where there is none."""
    tag = _read_at(file, place, 10)
    if len(tag) < 10 or tag[:3] != b"ID3" or max(tag[6:]) > 127:
        return place
    return place + 10 + (tag[6] << 21 | tag[7] << 14 | tag[8] << 7 | tag[9])


def _check_promise(path: str | os.PathLike[str], file: BinaryIO, size: int, promise: Promise, head: bytes) -> None:
    """Raise where samples that are promised are not there, or where another file of the kind begins behind them."""
    refuse_cut(path, promise, size)
    form = _FORMS.get(head[:4])
    if form is None:
        behind = [_read_at(file, promise.begin + promise.n_bytes, 4)]
    else:
        last = promise.begin - form.header.size
        behind = [name for name, _ in _chunks(file, form, last)]
    if head[:4] in behind:
        raise _joined(path)


def refuse_cut(path: str | os.PathLike[str], promise: Promise, size: int) -> None:
    """Raise where more bytes are promised than a file of ``size`` bytes has, and not merely by a header's length."""
    there = max(size - promise.begin, 0)
    missing = promise.n_bytes - there
    # Recorders write the file's size, or that of all behind RIFF's own 8 bytes.
    if missing <= _MERELY_OFF or missing in (promise.begin, promise.begin - 8):
        return
    raise AudioError(
        f"{path}: truncated, the header promises {promise.n_bytes} bytes of samples and {there} are there", "truncated"
    )


def _promise_of(file: BinaryIO, start: int, head: bytes) -> Promise | None:
    form = _FORMS.get(head[:4])
    if form is not None:
        chunks = _chunks(file, form, start + form.first)
        return next((chunk for name, chunk in chunks if name in _SAMPLE_CHUNKS and chunk.n_bytes >= 0), None)
    read = next((read for magic, read in _HEADERS.items() if head.startswith(magic)), None)
    return read and read(file, start)


def _chunks(file: BinaryIO, form: _Form, place: int) -> Iterator[tuple[bytes, Promise]]:
    """The chunks of a container one after another: the name's first 4 bytes, and where what is in it lies."""
    for _ in range(_MOST_CHUNKS):
        header = _read_at(file, place, form.header.size)
        if len(header) < form.header.size:
            return
        name, n_bytes = form.header.unpack(header)
        chunk = Promise(place + form.header.size, n_bytes - form.counted)
        yield name[:4], chunk
        if chunk.n_bytes < 0:  # CAF: a length that is not known
            return
        place = chunk.begin + chunk.n_bytes + -chunk.n_bytes % form.align
        if form.align == 2 and chunk.n_bytes % 2 and not _is_chunk(file, form, place):
            # Some programs forget the byte that makes a size even.
            place -= _is_chunk(file, form, place - 1)


def _is_chunk(file: BinaryIO, form: _Form, place: int) -> bool:
    """Whether at ``place`` in a RIFF file there is a chunk, rather than samples."""
    header = _read_at(file, place, form.header.size)
    if len(header) < form.header.size:
        return False
    name, n_bytes = form.header.unpack(header)
    printable = all(32 <= byte < 127 for byte in name)
    ends = place + form.header.size + n_bytes
    return name == b"data" or name in _WAV_CHUNKS + _RIFF or (printable and ends <= _size(file))


def _check_wav(path: str | os.PathLike[str], file: BinaryIO, start: int, size: int) -> "_Rewritten | None":
    """A WAV file with a header that fits, where its own does not; None where it does.

    Raises:
        AudioError: it is cut, or another one begins behind it.
    """
    magic = _read_at(file, start, 4)
    form = _FORMS[magic]
    _, riff_bytes = form.header.unpack(_read_at(file, start, 8))
    layout, promised_64, well_padded = b"", None, True
    for name, chunk in _chunks(file, form, start + form.first):
        well_padded = well_padded and (chunk.begin - start) % 2 == 0
        if name == b"data":
            break
        if name == b"fmt ":
            layout = _read_at(file, chunk.begin, min(chunk.n_bytes, _LARGEST_WAV_FORMAT))
        if name == b"ds64":
            riff_bytes, promised_64 = struct.unpack("<QQ", _read_at(file, chunk.begin, 16))
    else:
        return None  # libsndfile says what is missing

    there = size - chunk.begin
    promised = chunk.n_bytes if promised_64 is None or chunk.n_bytes != 0xFFFF_FFFF else promised_64
    known = promised < (_SIZE_UNKNOWN if magic != b"RF64" else 1 << 62)
    if known:
        refuse_cut(path, Promise(chunk.begin - start, promised), size - start)
    n_bytes = min(promised, there)
    inside = promised == 0 or riff_bytes == 0 or start + 8 + riff_bytes >= size - 1
    if promised < there and not _samples_end(path, file, form, chunk.begin + promised, inside):
        n_bytes = there
    if well_padded and n_bytes == min(promised, there) and (known or magic != b"RF64"):
        return None
    return _with_header(path, form, magic, layout, Promise(chunk.begin, n_bytes))


def _samples_end(path: str | os.PathLike[str], file: BinaryIO, form: _Form, end: int, inside: bool) -> bool:
    """Whether a WAV's samples end where the header says, as a chunk, a tag or a little padding is there.

    Args:
        path, file, form: the file, and how it lays out chunks.
        end: where the samples should end.
        inside: whether what is there is a part of the file by the size of the whole.

    Raises:
        AudioError: another WAV file is there.
    """
    for place in (end + end % 2, end):
        if _is_chunk(file, form, place):
            if any(name in _RIFF for name, _ in _chunks(file, form, place)):
                raise _joined(path)
            return True
    if _read_at(file, end, 8).startswith(_TAGS):
        return True
    return _size(file) - end <= (form.header.size if inside else _MOST_PADDING)


def _with_header(
    path: str | os.PathLike[str], form: _Form, magic: bytes, layout: bytes, samples: Promise
) -> "_Rewritten":
    """The samples of a WAV file behind a new header."""
    magic = b"RIFX" if magic == b"RIFX" else b"RIFF"
    data = form.header.pack(b"data", min(samples.n_bytes, 0xFFFF_FFFF))
    layout = form.header.pack(b"fmt ", len(layout)) + layout + bytes(len(layout) % 2)
    n_behind = len(b"WAVE") + len(layout) + len(data) + samples.n_bytes
    head = form.header.pack(magic, min(n_behind, 0xFFFF_FFFF)) + b"WAVE" + layout + data
    return _Rewritten(head, open_regular(path), samples)


class _Rewritten(io.RawIOBase):
    """A header, and behind it the samples of a file."""

    def __init__(self, header: bytes, file: BinaryIO, samples: Promise):
        self._header, self._file, self._samples = header, file, samples
        self._place = 0

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        size = len(self._header) + self._samples.n_bytes
        self._place = max(offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: size}[whence], 0)
        return self._place

    def readinto(self, buffer) -> int:
        wanted = len(buffer)
        content = self._header[self._place : self._place + wanted]
        behind = self._place + len(content) - len(self._header)
        left = min(wanted - len(content), self._samples.n_bytes - behind)
        if left > 0:
            content += _read_at(self._file, self._samples.begin + behind, left)
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)

    def close(self) -> None:
        self._file.close()
        super().close()


def _au(file: BinaryIO, start: int) -> Promise | None:
    order = ">" if _read_at(file, start, 4) == b".snd" else "<"
    begin, n_bytes = struct.unpack(f"{order}II", _read_at(file, start + 4, 8))
    return None if n_bytes >= _SIZE_UNKNOWN else Promise(start + begin, n_bytes)


def _nist(file: BinaryIO, start: int) -> Promise | None:
    header = _read_at(file, start, 1024)
    numbers = {name: int(number) for name, number in re.findall(rb"(\w+) -(?:i|s\d+) (\d{1,15})\s", header)}
    if b"sample_count" not in numbers or b"sample_n_bytes" not in numbers:
        return None
    n_bytes = numbers[b"sample_count"] * numbers[b"sample_n_bytes"] * numbers.get(b"channel_count", 1)
    return Promise(start + int(header[8:16]), n_bytes)


_HEADERS: dict[bytes, Callable[[BinaryIO, int], Promise | None]] = {
    b".snd": _au,
    b"dns.": _au,
    b"NIST_1A": _nist,
}


def _is_mp3_frame(head: bytes) -> bool:
    """Whether bytes begin with the header of an MPEG audio frame (ISO 11172-3)."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    version, layer, bit_rate, rate = head[1] >> 3 & 3, head[1] >> 1 & 3, head[2] >> 4, head[2] >> 2 & 3
    return version != 1 and layer != 0 and bit_rate != 15 and rate != 3


def _check_mp3(path: str | os.PathLike[str], file: BinaryIO, start: int, size: int) -> None:
    """Raise where another MP3 file begins behind the bytes that the first frame counts, if it does (Xing, LAME)."""
    frame = _read_at(file, start, 64)
    tag = _xing_tag(frame)
    if tag < 0:
        return
    (flags,) = struct.unpack_from(">I", frame, tag + 4)
    if flags & 2 == 0:
        return
    (n_bytes,) = struct.unpack_from(">I", frame, tag + 8 + 4 * (flags & 1))
    place = _behind_tags(file, start + n_bytes)
    frame = _read_at(file, place, 64)
    if _is_mp3_frame(frame) and (_xing_tag(frame) >= 0 or size - place > _MOST_OF_ONE_MP3):
        raise _joined(path)


def _xing_tag(frame: bytes) -> int:
    """Where in the first bytes of a frame the encoder's counts lie, -1 where there are none."""
    return max(frame.find(b"Xing", 0, 44), frame.find(b"Info", 0, 44))


def _behind_tags(file: BinaryIO, place: int) -> int:
    """Where tags end that lie one behind another."""
    for _ in range(4):
        tag = _read_at(file, place, 16)
        if tag.startswith(b"TAG"):
            place += 128
        elif tag.startswith(b"APETAGEX") and len(tag) == 16:
            place += 32 + int.from_bytes(tag[12:], "little")
        else:
            place = _behind_id3(file, place)
    return place


def _last_ogg_page(path: str | os.PathLike[str], file: BinaryIO, size: int) -> int | None:
    """Frames in the last page (RFC 3533); None where the pages do not tell.

    Raises:
        AudioError: the file ends inside that page.
    """
    tail = _read_at(file, max(0, size - 2 * _LARGEST_OGG_PAGE), 2 * _LARGEST_OGG_PAGE)
    last = tail.rfind(b"OggS")
    n_page = _ogg_page_bytes(tail[last:]) if last >= 0 else 0
    if n_page == 0 or len(tail) < last + n_page:
        raise AudioError(f"{path}: truncated, it ends within an Ogg page", "truncated")
    before = tail.rfind(b"OggS", 0, last)
    if before < 0:
        return None
    position, stream = struct.unpack_from("<qI", tail, last + 6)
    position_before, stream_before = struct.unpack_from("<qI", tail, before + 6)
    # -1 is the position of a page on which no packet ends.
    if stream != stream_before or position_before < 0 or position < position_before:
        return None
    return position - position_before


def _ogg_page_bytes(page: bytes) -> int:
    """How long an Ogg page is, 0 where its header is cut."""
    n_segments = page[26] if len(page) > 26 else 255
    segments = page[27 : 27 + n_segments]
    return 27 + n_segments + sum(segments) if len(segments) == n_segments else 0


def _behind_first_ogg_pages(file: BinaryIO, place: int) -> int:
    """Where the first pages end that each begin one of several interleaved streams."""
    for _ in range(_MOST_CHUNKS):
        page = _read_at(file, place, 27 + 255)
        n_page = _ogg_page_bytes(page)
        if page[:4] != b"OggS" or not page[5] & 2 or n_page == 0:
            break
        place += n_page
    return place
