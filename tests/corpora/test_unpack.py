"""Archives that are hostile, damaged or honest."""

import io
import stat
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from one_line import told

from spkver.corpora.unpack import unpack, unpack_zip
from spkver.errors import SpkverError


def member(name, kind=tarfile.REGTYPE, link="", data=b"x", mode=0o644):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    info.size = len(data) if kind == tarfile.REGTYPE else 0
    return info, data


def archive(path, *members, mode="w:gz"):
    with tarfile.open(path, mode) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return path


def refused(*args, **options):
    return told(unpack, *args, **options)


HONEST = member("top/wav/a.wav", data=b"audio")

HOSTILE = {
    "absolute": [member("/tmp/evil")],
    "windows drive": [member("C:/evil")],
    "parent": [member("../evil")],
    "parent with backslash": [member("..\\evil")],
    "parent inside": [member("top/../../evil")],
    "parent that returns": [member("top/../evil")],
    "link to absolute": [member("top/l", tarfile.SYMTYPE, "/etc/passwd")],
    "link to parent": [member("top/l", tarfile.SYMTYPE, "../../etc")],
    "hard link to parent": [member("top/l", tarfile.LNKTYPE, "../evil")],
    "hard link to absolute": [member("top/l", tarfile.LNKTYPE, "/etc/passwd")],
    "write through a link": [member("top/l", tarfile.SYMTYPE, "wav"), member("top/l/evil")],
    "write through a link that comes later": [member("top/l/evil"), member("top/l", tarfile.SYMTYPE, "wav")],
    "write through a link in another case": [member("top/l", tarfile.SYMTYPE, "wav"), member("top/L/evil")],
    "file over a link": [member("top/l", tarfile.SYMTYPE, "wav/a.wav"), member("top/l")],
    # By its text top/d/../.. is the archive's root, on the disk it is the folder above.
    "link through a link": [
        member("top/d", tarfile.SYMTYPE, "."),
        member("top/l", tarfile.SYMTYPE, "d/../.."),
    ],
    "device": [member("top/d", tarfile.CHRTYPE)],
    "pipe": [member("top/d", tarfile.FIFOTYPE)],
}


@pytest.mark.parametrize("members", HOSTILE.values(), ids=HOSTILE)
def test_hostile_member_is_refused_and_nothing_is_unpacked(tmp_path, members):
    folder = tmp_path / "in" / "out"
    message = refused(archive(tmp_path / "a.tar.gz", HONEST, *members), folder)
    assert "nothing was unpacked" in message and "member" in message
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tar.gz", "in"]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_honest_archive_is_unpacked(tmp_path, mode):
    members = [
        member("./top", tarfile.DIRTYPE),
        HONEST,
        member("top/same", tarfile.SYMTYPE, "wav/../wav/a.wav"),
        member("top/hard", tarfile.LNKTYPE, "top/wav/a.wav"),
        member("top/übung..wav"),
    ]
    folder = unpack(archive(tmp_path / "a.tar", *members, mode=mode), tmp_path / "new" / "out")
    assert (folder / "top/wav/a.wav").read_bytes() == b"audio"
    assert (folder / "top/same").read_bytes() == (folder / "top/hard").read_bytes() == b"audio"
    assert (folder / "top/übung..wav").exists()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]


def test_top_folder_becomes_the_folder(tmp_path):
    tar = archive(tmp_path / "a.tar.gz", HONEST)
    assert (unpack(tar, tmp_path / "out", top="top") / "wav/a.wav").read_bytes() == b"audio"
    assert "no folder 'other'" in refused(tar, tmp_path / "out2", top="other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz", "out"]


def test_modes_of_the_archive_are_ignored(tmp_path):
    tar = archive(tmp_path / "a.tar.gz", member("setuid", mode=0o6777), member("closed", mode=0))
    folder = unpack(tar, tmp_path / "out")
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    for name in ("setuid", "closed"):
        assert (folder / name).stat().st_mode == ordinary.stat().st_mode


@pytest.mark.parametrize(
    ("mode", "damage"),
    [("w", "cut"), ("w:gz", "cut"), ("w:xz", "cut"), ("w:gz", "changed"), ("w:xz", "changed")],
)
def test_damaged_archive_leaves_nothing(tmp_path, mode, damage):
    noise = np.random.default_rng(1).bytes(100_000)
    path = archive(tmp_path / "a.tar", *(member(f"top/{n}", data=noise) for n in range(4)), mode=mode)
    data = bytearray(path.read_bytes())
    if damage == "changed":
        data[len(data) // 2] ^= 0xFF
    path.write_bytes(data if damage == "changed" else data[: len(data) * 2 // 3])
    assert "cut or damaged" in refused(path, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_what_a_killed_run_left_is_no_hindrance(tmp_path):
    (tmp_path / ".out.unpacking" / "top").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    folder = unpack(archive(tmp_path / "a.tar.gz", HONEST), tmp_path / "out")
    assert (folder / "top/wav/a.wav").exists()
    assert not (tmp_path / ".out.unpacking").exists()


def test_folder_that_holds_something_is_not_touched(tmp_path):
    tar = archive(tmp_path / "a.tar.gz", HONEST)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    assert "exists already" in refused(tar, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_archive_larger_than_the_disk_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 4}))
    assert "5 bytes and 4 are free" in refused(archive(tmp_path / "a.tar.gz", HONEST), tmp_path / "out")


def test_missing_archive_and_another_kind_of_file_are_told(tmp_path):
    assert "no such archive" in refused(tmp_path / "a.tar.gz", tmp_path / "out")
    (tmp_path / "page.html").write_text("<html>not found</html>" * 100)
    assert "cut or damaged" in refused(tmp_path / "page.html", tmp_path / "out")


# Zip archives.


def zipped(*members, method=zipfile.ZIP_DEFLATED):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return bytearray(content.getvalue())


def zip_refused(tmp_path, content):
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(SpkverError) as fault:
        unpack_zip(tmp_path / "a.zip", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]
    said = str(fault.value)
    assert said.startswith(f"{tmp_path}/a.zip: ") and len(said) < 500
    return said


def test_a_zip_archive_is_unpacked(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped(("top/a", b"1"), ("top/wav/b", b"2")))
    assert unpack_zip(tmp_path / "a.zip", tmp_path / "out", top="top") == tmp_path / "out"
    assert (tmp_path / "out" / "wav" / "b").read_bytes() == b"2"
    assert "exists already" in told(unpack_zip, tmp_path / "a.zip", tmp_path / "out", top="top")


def test_a_zip_without_the_folder_asked_for_is_refused(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped(("top/a", b"1")))
    assert "has no folder 'other'" in told(unpack_zip, tmp_path / "a.zip", tmp_path / "out", top="other")


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "C:/x", "a\\..\\..\\x"])
def test_a_zip_member_that_leads_outside_is_refused(tmp_path, name):
    assert "is dangerous; nothing was unpacked" in zip_refused(tmp_path, zipped(("a", b"1"), (name, b"2")))


def test_a_link_in_a_zip_is_refused(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    assert "is dangerous" in zip_refused(tmp_path, zipped((link, b"/etc/passwd")))


@pytest.mark.parametrize(
    ("local", "central", "value", "said"),
    [
        (6, 8, struct.pack("<H", 1), "is encrypted; unpack it by hand, with its password"),
        (8, 10, struct.pack("<H", 99), "cannot be unpacked here (That compression method is not supported)"),
        (14, 16, struct.pack("<I", 1), "cut or damaged archive (Bad CRC-32"),
    ],
)
def test_a_claim_about_a_zip_member_that_does_not_hold_is_one_line(tmp_path, local, central, value, said):
    content = zipped(("a", b"1" * 1000))
    for begin, offset in ((b"PK\3\4", local), (b"PK\1\2", central)):
        at = content.find(begin) + offset
        content[at : at + len(value)] = value
    assert said in zip_refused(tmp_path, content)


def test_a_zip_archive_larger_than_the_disk_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("", (), {"free": 10}))
    assert "needs 1000 bytes and 10 are free" in zip_refused(tmp_path, zipped(("a", b"1" * 1000)))


@pytest.mark.parametrize("content", [b"", b"no zip", zipped(("a", b"1" * 100))[:60]])
def test_a_cut_zip_archive_is_one_line(tmp_path, content):
    assert "cut or damaged archive" in zip_refused(tmp_path, content)
