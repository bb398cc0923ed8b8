"""Files that are cut, joined, merely off or no audio are told apart before they are decoded, at no cost in memory."""

import errno
import io
import os
import struct
import tracemalloc

import numpy as np
import pytest
import soundfile

from spkver.data import containers
from spkver.data.audio import AudioError, audio_info, read_audio
from spkver.data.streaming import audio_blocks

N = 16_000
SAMPLES = (10_000 * np.sin(np.arange(N) / 20 + np.sin(np.arange(N) / 900))).astype(np.int16)
AS_READ = SAMPLES.astype(np.float32) / 32768


def reason_of(path, *args) -> str:
    with pytest.raises(AudioError) as caught:
        read_audio(path, 16000, *args)
    name = os.path.basename(path).encode(errors="backslashreplace").decode()
    assert name in str(caught.value) and "\n" not in str(caught.value)
    return caught.value.reason


def content(path, samples=SAMPLES, form="WAV", coding="PCM_16") -> bytes:
    soundfile.write(path, samples, 16000, format=form, subtype=coding)
    return path.read_bytes()


COMPARED = ["WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "NIST", "SVX"]
CONTAINERS = [*COMPARED, "VOC", "MAT4", "MAT5", "SDS"]


@pytest.mark.parametrize("form", COMPARED)
def test_a_container_that_was_cut_is_truncated(tmp_path, form):
    path = tmp_path / "a"
    whole = content(path, form=form)
    assert len(read_audio(path, 16000)) == N
    for share in (0.3, 0.6, 0.95):
        path.write_bytes(whole[: int(share * len(whole))])
        assert reason_of(path) == "truncated"
        with pytest.raises(AudioError):
            list(audio_blocks(path, 16000, 0.1))


@pytest.mark.parametrize("form", CONTAINERS)
@pytest.mark.parametrize("n_channels", [1, 2])
@pytest.mark.parametrize("n_samples", [15_999, 120])
def test_whole_containers_are_read_whatever_their_size(tmp_path, form, n_channels, n_samples):
    channels = np.stack([AS_READ[:n_samples]] * n_channels, 1)
    for coding in ("PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "ULAW", "FLOAT"):
        try:
            content(tmp_path / "a", channels, form, coding)
        except (soundfile.LibsndfileError, ValueError):  # not every container holds every coding
            continue
        read_audio(tmp_path / "a", 16000)
        assert audio_info(tmp_path / "a")[1] == pytest.approx(n_samples, abs=2)  # VOC adds a sample


def wav(tmp_path, **sizes) -> bytes:
    """A WAV file whose header says other sizes: ``data``, ``riff``."""
    changed = bytearray(content(tmp_path / "ok.wav"))
    for name, at in (("data", changed.find(b"data") + 4), ("riff", 4)):
        if name in sizes:
            changed[at : at + 4] = struct.pack("<I", sizes[name])
    return bytes(changed)


@pytest.mark.parametrize(
    "sizes",
    [
        {"data": 0xFFFFFFFF, "riff": 0xFFFFFFFF},  # written into a pipe
        {"data": 0x7FFFFFFF},
        {"data": 0, "riff": 0},  # a recorder that died
        {"data": 0, "riff": 36},
        {"data": 2 * N + 44},  # the file's size
        {"data": 2 * N + 36},  # RIFF's size
        {"data": 2 * N + 1},
        {"data": N},  # half of it, within the size of the whole
        {"data": N, "riff": N + 36},  # a recorder that renews its header now and then, and died
    ],
)
def test_a_wav_whose_header_is_merely_off_is_read_to_its_end(tmp_path, sizes):
    path = tmp_path / "off.wav"
    path.write_bytes(wav(tmp_path, **sizes))
    np.testing.assert_array_equal(read_audio(path, 16000), AS_READ)
    np.testing.assert_array_equal(read_audio(path, 16000, 0.5, 0.25), AS_READ[8000:12000])
    np.testing.assert_array_equal(np.concatenate(list(audio_blocks(path, 16000, 0.1))), AS_READ)
    assert audio_info(path) == (16000, N, 1)


def test_a_wav_of_an_odd_chunk_without_its_padding_is_read(tmp_path):
    whole = wav(tmp_path)
    odd = b"LIST" + struct.pack("<I", 13) + b"INFOISFT\x01\0\0\0X"
    (tmp_path / "odd.wav").write_bytes(whole[:36] + odd + whole[36:])
    np.testing.assert_array_equal(read_audio(tmp_path / "odd.wav", 16000), AS_READ)
    padded = odd + b"\0"
    (tmp_path / "even.wav").write_bytes(whole[:36] + padded + whole[36:])
    np.testing.assert_array_equal(read_audio(tmp_path / "even.wav", 16000), AS_READ)


@pytest.mark.parametrize("size", [0, 0xFFFF_FFFF_FFFF_FFFF])
def test_an_rf64_whose_size_was_never_written_is_read_to_its_end(tmp_path, size):
    changed = bytearray(content(tmp_path / "a", form="RF64"))
    at = changed.find(b"ds64") + 16
    changed[at : at + 8] = struct.pack("<Q", size)
    (tmp_path / "a").write_bytes(changed)
    np.testing.assert_array_equal(read_audio(tmp_path / "a", 16000), AS_READ)


LIST = b"LIST" + struct.pack("<I", 18) + b"INFOISFT\x06\0\0\0spkver"
ID3V2 = b"ID3\x04\0\0\0\0\0\x0a" + b"TIT2\0\0\0\0\0\0"


@pytest.mark.parametrize("tail", [LIST, LIST[:20], b"TAG" + bytes(125), ID3V2, bytes(512), b"\0"])
def test_what_is_behind_the_samples_of_a_wav_is_no_sound(tmp_path, tail):
    (tmp_path / "a.wav").write_bytes(wav(tmp_path) + tail)
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav", 16000), AS_READ)


def test_an_empty_wav_with_a_list_behind_is_empty(tmp_path):
    (tmp_path / "a.wav").write_bytes(wav(tmp_path, data=0, riff=len(LIST) + 36)[:44] + LIST)
    assert reason_of(tmp_path / "a.wav") == "empty"


STREAMS = {
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "flac": ("FLAC", "PCM_16"),
}


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("tag", [b"", ID3V2])
def test_joined_streams_are_refused(tmp_path, kind, tag):
    one = content(tmp_path / "one", SAMPLES, *STREAMS[kind])
    two = content(tmp_path / "two", SAMPLES[::-1], *STREAMS[kind])
    if tag and kind in ("mp3", "flac"):
        (tmp_path / "one").write_bytes(tag + one)
        assert len(read_audio(tmp_path / "one", 16000)) == pytest.approx(N, abs=2304)
    for second in (one, two):
        (tmp_path / "both").write_bytes((tag if kind in ("mp3", "flac") else b"") + one + second)
        assert reason_of(tmp_path / "both") == "joined"
        with pytest.raises(AudioError, match="several audio files joined"):
            list(audio_blocks(tmp_path / "both", 16000, 0.1))


def test_a_joint_is_found_wherever_a_block_of_the_file_ends(tmp_path, monkeypatch):
    one = content(tmp_path / "one", SAMPLES[:2000], "FLAC")
    (tmp_path / "both").write_bytes(one + one)
    for n_bytes in range(len(one) - 4, len(one) + 12):
        monkeypatch.setattr(containers, "_SCANNED_AT_ONCE", n_bytes)
        assert reason_of(tmp_path / "both") == "joined"


@pytest.mark.parametrize(
    "tail", [b"TAG" + bytes(125), ID3V2, b"APETAGEX\xd0\x07\0\0" + struct.pack("<I", 16) + bytes(32)]
)
def test_a_tag_behind_an_mp3_is_no_second_file(tmp_path, tail):
    whole = content(tmp_path / "one", SAMPLES, *STREAMS["mp3"])
    (tmp_path / "tagged").write_bytes(whole + tail)
    assert len(read_audio(tmp_path / "tagged", 16000)) == len(read_audio(tmp_path / "one", 16000))
    (tmp_path / "joined").write_bytes(whole + tail + whole)
    assert reason_of(tmp_path / "joined") == "joined"


@pytest.mark.parametrize("form", ["WAV", "RF64", "W64", "AIFF", "CAF", "NIST"])
def test_joined_containers_are_refused(tmp_path, form):
    one = content(tmp_path / "one", form=form)
    (tmp_path / "both").write_bytes(one + one)
    assert reason_of(tmp_path / "both") == "joined"


def piped_flac(path) -> bytes:
    """A FLAC file as an encoder that writes into a pipe leaves it: length and checksum unknown."""
    changed = bytearray(content(path, form="FLAC"))
    changed[21] &= 0xF0
    changed[22:26], changed[26:42] = bytes(4), bytes(16)
    path.write_bytes(changed)
    return bytes(changed)


def test_a_flac_of_unknown_length_is_read_to_its_end(tmp_path):
    path = tmp_path / "piped.flac"
    whole = piped_flac(path)
    assert audio_info(path) == (16000, N, 1)
    np.testing.assert_array_equal(read_audio(path, 16000), AS_READ)
    np.testing.assert_array_equal(read_audio(path, 16000, 0.7, 0.2), AS_READ[11200:14400])
    np.testing.assert_array_equal(read_audio(path, 16000, 0.9, 1.0), AS_READ[14400:])
    np.testing.assert_array_equal(np.concatenate(list(audio_blocks(path, 16000, 0.3))), AS_READ)
    assert reason_of(path, 1.0, 0.5) == "empty"
    path.write_bytes(whole[: len(whole) * 6 // 10])
    assert reason_of(path) == "truncated"


def ogg_checksum(page) -> int:
    """Of a page whose own checksum is 0 (RFC 3533)."""
    checksum = 0
    for byte in page:
        checksum ^= byte << 24
        for _ in range(8):
            checksum = (checksum << 1) ^ (0x104C11DB7 if checksum & 0x80000000 else 0)
    return checksum


def claims(tmp_path):
    """Small files that claim to be enormous, by name."""
    flac = bytearray(content(tmp_path / "a", form="FLAC"))
    flac[21] |= 0x0F
    flac[22:26] = b"\xff" * 4  # 2^36 frames
    yield "flac", flac
    ogg = bytearray(content(tmp_path / "a", form="OGG", coding="VORBIS"))
    last = ogg.rfind(b"OggS")
    ogg[last + 6 : last + 14] = struct.pack("<q", 1 << 36)
    ogg[last + 22 : last + 26] = bytes(4)
    ogg[last + 22 : last + 26] = struct.pack("<I", ogg_checksum(ogg[last:]))
    yield "ogg", ogg
    yield "wav", wav(tmp_path, data=0x7FFE_0000, riff=0x7FFF_0000)
    many_channels = bytearray(wav(tmp_path))
    many_channels[22:24] = struct.pack("<H", 0xFFFF)
    yield "channels", many_channels
    thousand_channels = bytearray(wav(tmp_path))
    thousand_channels[22:24], thousand_channels[32:34] = struct.pack("<H", 1024), struct.pack("<H", 2048)
    yield "thousand", thousand_channels
    rf64 = bytearray(content(tmp_path / "a", form="RF64"))
    at = rf64.find(b"ds64") + 8
    rf64[at : at + 24] = struct.pack("<QQQ", 10**11 + 100, 10**11, 5 * 10**10)
    yield "rf64", rf64
    w64 = bytearray(content(tmp_path / "a", form="W64"))
    at = w64.find(b"data\xf3\xac") + 16
    w64[at : at + 8] = struct.pack("<Q", 10**11)
    yield "w64", w64
    for form, magic, size in (("AIFF", b"SSND", ">I"), ("CAF", b"data", ">q")):
        changed = bytearray(content(tmp_path / "a", form=form))
        at = changed.find(magic) + 4
        claimed = struct.pack(size, 0x7FFF_0000 if size == ">I" else 10**11)
        changed[at : at + len(claimed)] = claimed
        yield form, changed
    au = bytearray(content(tmp_path / "a", form="AU"))
    au[8:12] = struct.pack(">I", 0x7FFE_0000)
    yield "au", au
    nist = content(tmp_path / "a", form="NIST")
    yield "nist", nist.replace(b"sample_count -i 16000", b"sample_count -i 99999999999")


def test_what_a_header_claims_takes_no_memory(tmp_path):
    path = tmp_path / "claims"
    names = []
    for name, changed in claims(tmp_path):
        path.write_bytes(changed)
        tracemalloc.start()
        for read in (read_audio, lambda path, rate: list(audio_blocks(path, rate, 300.0))):
            try:
                read(path, 16000)
            except AudioError as error:
                names.append((name, error.reason))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 10e6, name
    refused = dict(names)
    assert refused.pop("channels") == "unreadable"
    assert set(refused.values()) == {"truncated"}
    # 15 frames of 1,024 channels are a file like any other, and libsndfile believes no Ogg page such a number.
    assert set(refused) == {"flac", "wav", "rf64", "w64", "AIFF", "CAF", "au", "nist"}


def message_of(path) -> str:
    for read in (read_audio, lambda path, rate: audio_info(path)):
        with pytest.raises(AudioError) as caught:
            read(path, 16000)
    return str(caught.value)


def test_what_is_no_audio_file_is_said_as_what_it_is(tmp_path, monkeypatch):
    advice = f"name files in it, as {tmp_path}/NAME.wav"
    assert message_of(tmp_path) == f"{tmp_path}: a folder, expected an audio file; {advice}"
    os.mkfifo(tmp_path / "pipe.wav")
    assert "pipe.wav: a pipe or a device" in message_of(tmp_path / "pipe.wav")
    assert "/dev/zero: a pipe or a device" in message_of("/dev/zero")
    assert "a.wav: an address" in message_of("https://example.org/a.wav")
    assert "no such audio file" in message_of(tmp_path / "none.wav" / "a.wav")
    assert "cannot be read (File name too long)" in message_of(tmp_path / ("a" * 300))
    assert "cannot be read (embedded null byte)" in message_of("a\0b.wav")
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A \0\0\0\0")
    assert "a.m4a: MPEG-4 (m4a, mp4) cannot be decoded; convert it to WAV or FLAC" in message_of(tmp_path / "a.m4a")

    def refuse(path, *args, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    content(tmp_path / "locked.wav")
    monkeypatch.setattr(containers, "open", refuse, raising=False)
    assert message_of(tmp_path / "locked.wav") == f"{tmp_path}/locked.wav: cannot be read (Permission denied)"


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_a_name_that_is_not_utf_8_is_read(tmp_path):
    content(tmp_path / "a.wav")
    path = tmp_path / os.fsdecode(b"caf\xe9.wav")
    os.rename(tmp_path / "a.wav", path)
    np.testing.assert_array_equal(read_audio(path, 16000), AS_READ)
    path.write_bytes(path.read_bytes()[:1000])
    assert reason_of(path) == "truncated"


def test_a_disk_that_fails_is_one_line(tmp_path, monkeypatch):
    content(tmp_path / "a.flac", form="FLAC")

    class Failing(io.FileIO):
        def read(self, n_bytes):
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(containers, "open", lambda path, *args, **options: Failing(path), raising=False)
    assert message_of(tmp_path / "a.flac") == f"{tmp_path}/a.flac: cannot be read (Input/output error)"
