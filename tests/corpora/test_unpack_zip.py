"""A zip archive is unpacked whole or not at all, and never outside of its folder."""

import io
import stat
import struct
import zipfile

import pytest

from spkver.corpora.unpack import unpack_zip
from spkver.errors import SpkverError


def zipped(*members, method=zipfile.ZIP_DEFLATED):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return bytearray(content.getvalue())


def refused(tmp_path, content):
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(SpkverError) as fault:
        unpack_zip(tmp_path / "a.zip", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]
    said = str(fault.value)
    assert said.startswith(f"{tmp_path}/a.zip: ") and len(said) < 500
    return said


def test_an_archive_is_unpacked(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped(("top/a", b"1"), ("top/wav/b", b"2")))
    assert unpack_zip(tmp_path / "a.zip", tmp_path / "out", top="top") == tmp_path / "out"
    assert (tmp_path / "out" / "wav" / "b").read_bytes() == b"2"


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "C:/x", "a\\..\\..\\x"])
def test_a_member_that_leads_outside_is_refused(tmp_path, name):
    assert "is dangerous; nothing was unpacked" in refused(tmp_path, zipped(("a", b"1"), (name, b"2")))


def test_a_link_is_refused(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    assert "is dangerous" in refused(tmp_path, zipped((link, b"/etc/passwd")))


@pytest.mark.parametrize(
    ("local", "central", "value", "said"),
    [
        (6, 8, struct.pack("<H", 1), "is encrypted; unpack it by hand, with its password"),
        (8, 10, struct.pack("<H", 99), "cannot be unpacked here (That compression method is not supported)"),
        (14, 16, struct.pack("<I", 1), "cut or damaged archive (Bad CRC-32"),
    ],
)
def test_a_claim_about_a_member_that_does_not_hold_is_one_line(tmp_path, local, central, value, said):
    content = zipped(("a", b"1" * 1000))
    for begin, offset in ((b"PK\3\4", local), (b"PK\1\2", central)):
        at = content.find(begin) + offset
        content[at : at + len(value)] = value
    assert said in refused(tmp_path, content)


def test_an_archive_larger_than_the_disk_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("", (), {"free": 10}))
    assert "needs 1000 bytes and 10 are free" in refused(tmp_path, zipped(("a", b"1" * 1000)))


@pytest.mark.parametrize("content", [b"", b"no zip", zipped(("a", b"1" * 100))[:60]])
def test_a_cut_archive_is_one_line(tmp_path, content):
    assert "cut or damaged archive" in refused(tmp_path, content)
