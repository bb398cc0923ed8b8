"""Array files of anybody: read, or refused in one line, and never more memory than there is data."""

import io
import resource
import struct
import zipfile

import numpy as np
import pytest

from spkver.embedding.arrays import map_npy, read_npy, read_npz
from spkver.errors import SpkverError

ARRAYS = {
    "matrix": np.arange(12, dtype=np.float32).reshape(3, 4),
    "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "text": np.array(["a", "bc", "ä"]),
    "empty": np.zeros((0, 5), np.int64),
    "scalar": np.array(3.5),
}


def npy(header: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header) + 1) + header.encode() + b"\n" + data


HUGE = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 9999), }", bytes(40))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_wrote_is_read_back(tmp_path, save):
    save(tmp_path / "a.npz", **ARRAYS)
    found = read_npz(tmp_path / "a.npz", "make it again")
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype and found[name].flags.writeable
        np.save(tmp_path / "a.npy", array)
        np.testing.assert_array_equal(read_npy(tmp_path / "a.npy", ""), array)
    np.save(tmp_path / "a.npy", ARRAYS["matrix"])
    np.testing.assert_array_equal(map_npy(tmp_path / "a.npy", ""), ARRAYS["matrix"])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "EOF: reading magic string"),
        (b"no array", "magic string is not correct"),
        (HUGE, "its header claims 3999599999960004 bytes"),
        (npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"x"), "Python objects"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }"), "claims"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", bytes(4)), "claims 8 bytes .* 4 are there"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", bytes(8)), "claims 4 bytes .* 8 are there"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "(" * 500), "cannot be read"),
        (npy("__import__('os').system('id')"), "cannot be read"),
    ],
)
def test_a_damaged_array_is_one_line_with_file_and_advice(tmp_path, content, reason):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(SpkverError, match=reason) as fault:
        read_npy(tmp_path / "a.npy", "make it again")
    assert str(fault.value).startswith(f"{tmp_path}/a.npy: cannot be read as arrays (")
    assert str(fault.value).endswith("; make it again")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", content)
    with pytest.raises(SpkverError, match=reason):
        read_npz(tmp_path / "a.npz", "")


def test_a_header_that_claims_terabytes_takes_no_memory(tmp_path):
    (tmp_path / "a.npy").write_bytes(HUGE)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (read_npy, map_npy):
        with pytest.raises(SpkverError):
            read(tmp_path / "a.npy", "")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000  # kilobytes


def test_an_encrypted_archive_or_one_of_another_method_is_one_line(tmp_path):
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros(3))
    for offsets, value in (((6, 8), 1), ((8, 10), 99)):
        content = bytearray(buffer.getvalue())
        for at, offset in zip((content.find(b"PK\3\4"), content.find(b"PK\1\2")), offsets):
            content[at + offset] |= value
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(SpkverError, match=r"encrypted|compression method"):
            read_npz(tmp_path / "a.npz", "")


def test_an_array_twice_or_a_member_that_is_none_is_refused(tmp_path):
    array = io.BytesIO()
    np.save(array, np.zeros(3))
    for names in (("a.npy", "a.npy"), ("a.npy", "b.txt")):
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive, pytest.MonkeyPatch.context() as quiet:
            quiet.setattr("warnings.warn", lambda *_, **__: None)
            for name in names:
                archive.writestr(name, array.getvalue())
        with pytest.raises(SpkverError, match="is no array, or is there twice"):
            read_npz(tmp_path / "a.npz", "")


def test_a_missing_file_is_one_line(tmp_path):
    for read in (read_npy, read_npz, map_npy):
        with pytest.raises(SpkverError, match="x: is not there; make it again"):
            read(tmp_path / "x", "make it again")
