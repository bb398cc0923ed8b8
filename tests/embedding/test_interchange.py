"""Embeddings of other toolkits: read back to the bit, faults named in one line, nothing ever run."""

import os
import pickle
import re
import struct
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spkver.data.names import composed
from spkver.embedding.folder import write_embeddings
from spkver.embedding.interchange import export_kaldi, export_npz, ids_of_paths, import_embeddings
from spkver.errors import SpkverError

UTTS = ["a", "id1/b.wav", "ç語", "0", "e"]
IDS = st.lists(
    # Composed, as ids are when they are read.
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"), min_size=1)
    .map(composed)
    .filter(lambda text: text.split() == [text]),
    min_size=1,
    max_size=8,
    unique=True,
)


@pytest.fixture
def embeddings():
    return np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def entry(utt, vector, kind="FV"):
    """A binary archive's entry as Kaldi's documentation describes it, written here by other means."""
    code = {"F": "f", "D": "d"}[kind[0]]
    rows = b"\4" + struct.pack("<i", 1) if kind[1] == "M" else b""
    values = struct.pack(f"<i{len(vector)}{code}", len(vector), *vector)
    return f"{utt} \0B{kind} ".encode() + rows + b"\4" + values


def fault(source, *args, **options):
    """The message of an import that must fail, which is one line."""
    with pytest.raises(SpkverError) as caught:
        import_embeddings(source, *args, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- what is written is read back


@settings(deadline=None, max_examples=40)
@given(utts=IDS, data=st.data())
def test_exports_are_read_back_to_the_bit(tmp_path_factory, utts, data):
    value = st.floats(width=32, allow_nan=False, allow_infinity=False)
    width = data.draw(st.integers(1, 5))
    row = st.lists(value, min_size=width, max_size=width).filter(any)
    rows = np.array(data.draw(st.lists(row, min_size=len(utts), max_size=len(utts))), dtype=np.float32)
    folder = tmp_path_factory.mktemp("exports")
    export_kaldi(rows, utts, folder / "x.ark", folder / "x.scp")
    export_npz(rows, utts, folder / "x.npz")
    for name in ("x.ark", "x.scp", "x.npz"):
        again, ids = import_embeddings(folder / name)
        assert ids == utts
        assert again.dtype == np.float32
        assert again.tobytes() == rows.tobytes()


def test_float64_in_fortran_order_is_exported_as_float32(tmp_path, embeddings):
    export_kaldi(np.asfortranarray(embeddings.astype(np.float64)), UTTS, tmp_path / "x.ark", tmp_path / "x.scp")
    assert import_embeddings(tmp_path / "x.ark")[0].tobytes() == embeddings.tobytes()


def test_the_archive_is_kaldis_to_the_byte(tmp_path, embeddings):
    export_kaldi(embeddings, UTTS, tmp_path / "x.ark", tmp_path / "x.scp")
    entries = [entry(utt, row) for utt, row in zip(UTTS, embeddings)]
    assert (tmp_path / "x.ark").read_bytes() == b"".join(entries)
    second = f"{UTTS[1]} {tmp_path / 'x.ark'}:{len(entries[0]) + len(UTTS[1]) + 1}"
    assert (tmp_path / "x.scp").read_text().splitlines()[1] == second


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_kaldiio_writes_is_read(tmp_path, embeddings, text, dtype):
    kaldiio = pytest.importorskip("kaldiio")
    vectors = {utt: row.astype(dtype) for utt, row in zip(UTTS, embeddings)}
    vectors["matrix"] = np.ones((1, 3), dtype)
    kaldiio.save_ark(str(tmp_path / "x.ark"), vectors, scp=str(tmp_path / "x.scp"), text=text)
    for name in ("x.ark", "x.scp"):
        rows, utts = import_embeddings(tmp_path / name)
        assert utts == [*UTTS, "matrix"]
        np.testing.assert_array_equal(rows, np.vstack([embeddings, np.ones((1, 3))]).astype(np.float32))


def test_what_is_exported_kaldiio_reads(tmp_path, embeddings):
    kaldiio = pytest.importorskip("kaldiio")
    export_kaldi(embeddings, UTTS, tmp_path / "x.ark", tmp_path / "x.scp")
    for found in (dict(kaldiio.load_ark(str(tmp_path / "x.ark"))), kaldiio.load_scp(str(tmp_path / "x.scp"))):
        assert list(found) == UTTS
        np.testing.assert_array_equal(np.stack([found[utt] for utt in UTTS]), embeddings)


# --- Kaldi's forms


@pytest.mark.parametrize("kind", ["FV", "DV", "FM", "DM"])
def test_vectors_and_matrices_of_one_row_are_read(tmp_path, kind):
    (tmp_path / "x.ark").write_bytes(entry("a", [1.5, -2], kind) + entry("b", [3, 4], kind))
    rows, utts = import_embeddings(tmp_path / "x.ark")
    assert utts == ["a", "b"]
    assert rows.tolist() == [[1.5, -2], [3, 4]]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_text_archives_are_read_in_vector_and_matrix_form(tmp_path, end):
    text = end.join(["a  [ 1e-05 2 -3.5 ]", "b [", "  4 5 6 ]", "c\t[ 7 8 9 ]"])
    for content in (text, text + end):
        (tmp_path / "x.ark").write_bytes(content.encode())
        rows, utts = import_embeddings(tmp_path / "x.ark")
        assert utts == ["a", "b", "c"]
        np.testing.assert_array_equal(rows, np.float32([[1e-05, 2, -3.5], [4, 5, 6], [7, 8, 9]]))


def test_an_scp_may_list_several_archives_in_any_order_and_with_crlf(tmp_path):
    (tmp_path / "1.ark").write_bytes(entry("a", [1, 2]) + entry("b", [3, 4]))
    (tmp_path / "2 x.ark").write_text("c  [ 5 6 ]\n")
    (tmp_path / "3.vec").write_bytes(entry("", [7, 8])[1:])
    lines = ["b 1.ark:22", "", "c 2 x.ark:2", "d 3.vec", "a 1.ark:2", "again 1.ark:2"]
    (tmp_path / "x.scp").write_bytes("\r\n".join(lines).encode())
    rows, utts = import_embeddings(tmp_path / "x.scp")
    assert utts == ["b", "c", "d", "a", "again"]
    assert rows.tolist() == [[3, 4], [5, 6], [7, 8], [1, 2], [1, 2]]


def test_a_relative_archive_is_sought_in_the_current_folder_first_then_in_the_scps(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "x.scp").write_text("a x.ark:2\n")
    (tmp_path / "list" / "x.ark").write_bytes(entry("a", [1]))
    monkeypatch.chdir(tmp_path / "here")
    assert import_embeddings("../list/x.scp")[0].tolist() == [[1]]
    Path("x.ark").write_bytes(entry("a", [2]))
    assert import_embeddings("../list/x.scp")[0].tolist() == [[2]]


def test_an_absolute_archive_and_one_in_a_folder_above_are_valid(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "x.ark").write_bytes(entry("a", [1]))
    (tmp_path / "sub" / "x.scp").write_text(f"a {tmp_path / 'x.ark'}:2\nb ../x.ark:2\n")
    assert import_embeddings(tmp_path / "sub" / "x.scp")[1] == ["a", "b"]


# --- hostile input


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("touch ran |", "is a command"),
        ("touch ran|", "is a command"),
        ("| touch ran", "is a command"),
        ("ark:touch ran |", "is a command"),
        ("ark,s,cs:touch ran |", "is a command"),
        ("scp:touch ran |", "is a command"),
        ("touch ran | :5", "no such file"),
        ("$(touch ran).ark:5", "no such file"),
        ("`touch ran`", "no such file"),
        ("ark:x.ark", "no such file"),
        ("-", "no such file"),
        ("/dev/stdin", "no such file"),
        ("/dev/zero:3", "no such file"),
        ("x.ark:2[0:1]", "is a range"),
        ("x.ark[0:1,2:3]", "is a range"),
    ],
)
def test_nothing_that_an_scp_names_is_ever_run(tmp_path, monkeypatch, location, message):
    def refuse(*_args, **_options):
        raise AssertionError("a process was started")

    for name in ("system", "popen", "posix_spawn", "fork"):
        monkeypatch.setattr(os, name, refuse)
    monkeypatch.setattr("subprocess.Popen", refuse)
    monkeypatch.chdir(tmp_path)
    Path("x.ark").write_bytes(entry("a", [1, 2]))
    Path("x.scp").write_text(f"a x.ark:2\nb {location}\n")
    found = fault("x.scp")
    assert found.startswith("x.scp:2: 'b'")
    assert message in found
    assert not Path("ran").exists()


@pytest.mark.parametrize("source", ["touch ran |", "ark:touch ran |", "scp:x.scp", "-", "gone.ark"])
def test_a_source_is_a_path_and_nothing_else(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    Path("x.scp").write_text("a x.ark:2\n")
    assert "no such file or folder" in fault(source)
    assert not Path("ran").exists()


class Trap:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("prefix", [b"PKL", b"NPY\x02", b"AUDIO\x02", b"RIFF", b"fLaC", b""])
def test_a_pickle_in_an_archive_is_never_loaded(tmp_path, monkeypatch, prefix):
    monkeypatch.chdir(tmp_path)
    Path("x.ark").write_bytes(b"a " + prefix + pickle.dumps(Trap()))
    Path("x.scp").write_text("a x.ark:2\n")
    assert "x.ark at byte 2: 'a' is no vector, neither binary" in fault("x.ark")
    assert "x.scp:1: 'a', byte 2 of x.ark, is no vector" in fault("x.scp")
    assert not Path("ran").exists()


def test_pickled_objects_in_numpy_files_are_refused_with_how_to_save_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trap = np.array([Trap()], dtype=object)
    Path("files").mkdir()
    np.save("files/a.npy", trap, allow_pickle=True)
    np.save("x.npy", trap, allow_pickle=True)
    Path("utts").write_text("a\n")
    np.savez("x.npz", a=trap)
    np.savez("y.npz", embeddings=np.ones((1, 2)), utts=np.array(["a"], dtype=object))
    for source in ("files", "x.npy", "x.npz", "y.npz"):
        assert re.search(r"cannot be read as arrays \(.*[Oo]bject.*save it again as float32", fault(source))
    Path("x.pt").write_bytes(pickle.dumps(Trap()))
    assert "a pickle can run anything" in fault("x.pt")
    with zipfile.ZipFile("unnamed", "w") as archive:  # what torch.save writes
        archive.writestr("archive/data.pkl", pickle.dumps(Trap()))
    assert "'archive/data.pkl' in it is no array" in fault("unnamed")
    assert not Path("ran").exists()


@pytest.mark.parametrize("name", ["x.ark", "x.npz", "y.npz", "x.npy", "x.scp"])
def test_a_damaged_file_is_one_line_or_still_sound(tmp_path, embeddings, name):
    export_kaldi(embeddings, UTTS, tmp_path / "x.ark", tmp_path / "x.scp")
    export_npz(embeddings, UTTS, tmp_path / "x.npz")
    np.savez(tmp_path / "y.npz", **dict(zip("abcde", embeddings)))
    np.save(tmp_path / "x.npy", embeddings)
    (tmp_path / "x.utts").write_text("\n".join(UTTS))
    path, rng = tmp_path / name, np.random.default_rng(1)
    whole = path.read_bytes()
    for _ in range(200):
        content = bytearray(whole[: rng.integers(len(whole))] if rng.random() < 0.3 else whole)
        for at in rng.integers(len(content), size=rng.integers(1, 4)) if content else []:
            content[at] = rng.integers(256)
        path.write_bytes(content)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                rows, utts = import_embeddings(path)
        except SpkverError as error:
            assert "\n" not in str(error)
            assert str(error).startswith(str(tmp_path))
        else:
            assert np.isfinite(rows).all()
            assert len(set(utts)) == len(rows)


# --- faults of archives


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b" \n", "there are no embeddings"),
        (entry("a", [1, 2])[:-3], "at byte 2: 'a' is cut off: it has 2 values, and the file ends 3 bytes too"),
        (entry("a", [1, 2])[:9], "at byte 2: 'a' is cut off, or no vector of floats"),
        (entry("a", [1, 2]) + b"b", "at byte 20: no utterance id with a vector behind it; is it cut off?"),
        (entry("a", [1, 2]) + entry("b", [1, 2, 3]), "'b' has 3 dimensions, 'a' (X at byte 0) has 2"),
        (entry("a", [1, 2]) + entry("a", [3, 4]), "at byte 20: the id 'a' is there twice, first at X at byte 0"),
        (entry("a", [1, 2]) + entry("b", [np.nan, 1]), "at byte 20: the embedding of 'b' is NaN or infinite"),
        (entry("a", [1, 2]) + entry("b", [np.inf, 1]), "at byte 20: the embedding of 'b' is NaN or infinite"),
        (entry("a", [1, 2]) + entry("b", [0, 0]), "at byte 20: the embedding of 'b' is all zeros"),
        (entry("a", [1e300], "DV"), "the embedding of 'a' is NaN or infinite in float32"),
        (entry("a", []), "'a' is a vector of 0 values"),
        (b"a \0BFV \4\xff\xff\xff\xff", "'a' is a vector of -1 values"),
        (b"a \0BFM \4\2\0\0\0\4\1\0\0\0" + b"\0" * 8, "'a' is a matrix of 2 x 1, not a vector"),
        (b"a \0BCM " + b"\0" * 30, "'a' is cut off, or no vector of floats (it begins with b'\\x00BCM"),
        (b"a \0B\4\1\0\0\0\4\1\0\0\0", "'a' is cut off, or no vector of floats"),
        (b"a 1.0 2.0\n", "'a' is no vector, neither binary"),
        (b"a [ 1 2 ]\nb [ 3 x ]\n", "at byte 12: 'b' is no vector of numbers (could not convert string"),
        (b"a [ 1 2\nb [ 3 4 ]\n", "'a' is a matrix of 2 rows, not a vector"),
        (b"a [ 1 2\n3 4 ]\n", "'a' is a matrix of 2 rows, not a vector"),
        (b"a [ 1 2", "'a' has no line that ends with ']'; is it cut off?"),
        (b"a [ 1 2 ] 3\n", "'a' has no line that ends with ']'"),
        (b"a [ ]\n", "'a' has no values"),
        (b"a [ 1 nan ]\n", "the embedding of 'a' is NaN"),
        (b"a [ 1 1e39 ]\n", "the embedding of 'a' is NaN or infinite"),
        (b"\xff\xfe [ 1 2 ]\n", "at byte 0: the id b'\\xff\\xfe' is not UTF-8"),
        ("a\u00a0b [ 1 2 ]\n".encode(), "at byte 0: the id 'a\\xa0b' is empty or holds white space"),
    ],
)
def test_a_fault_of_an_archive_names_byte_and_utterance(tmp_path, content, message):
    path = tmp_path / "x.ark"
    path.write_bytes(content)
    found = fault(path)
    assert found.startswith(str(path))
    assert message in found.replace(str(path), "X")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "the list is empty"),
        ("a\n", "X:1: one column only"),
        ("a x.ark:2\nb gone.ark:2\n", "X:2: 'b': gone.ark: no such file"),
        ("a x.ark:2\nb x.ark:99\n", "X:2: 'b' is at byte 99 of x.ark, which has 44 bytes"),
        ("a x.ark:2\nb x.ark:44\n", "X:2: 'b' is at byte 44 of x.ark, which has 44 bytes"),
        ("a x.ark:2\nb x.ark:99999999999999999999999\n", "X:2: 'b' is at byte 99999999999999999999999 of x.ark"),
        ("a x.ark:2\nb x.ark:5\n", "X:2: 'b', byte 5 of x.ark, is no vector, neither binary"),
        ("a x.ark\n", "X:1: 'a', byte 0 of x.ark, is no vector"),
        ("a x.ark:2\n\nb x.ark:22\n", "X:3: 'b' has 3 dimensions, 'a' (X:1) has 2"),
        ("a x.ark:2\n\na x.ark:2\n", "X:3: the id 'a' is there twice, first at X:1"),
        ("a x.ark:2\nz zero.ark:2\n", "X:2: the embedding of 'z' is all zeros"),
        ("a empty.ark:2\n", "X:1: 'a': empty.ark: the file is empty"),
        ("a .:2\n", "X:1: 'a': .: no such file"),
    ],
)
def test_a_fault_of_an_scp_names_its_line(tmp_path, monkeypatch, lines, message):
    monkeypatch.chdir(tmp_path)
    Path("x.ark").write_bytes(entry("a", [1, 2]) + entry("b", [1, 2, 3]))
    Path("zero.ark").write_bytes(entry("z", [0, 0]))
    Path("empty.ark").touch()
    Path("x.scp").write_text(lines)
    assert message in fault("x.scp").replace("x.scp", "X")


def test_an_scp_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "x.scp").write_bytes(b"a x.ark:2\n\xff x.ark:2\n")
    assert "x.scp:2: not UTF-8" in fault(tmp_path / "x.scp")


# --- numpy's forms


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2", "<i4"])
def test_an_array_with_ids_beside_it_is_read(tmp_path, dtype):
    array = np.arange(1, 7).reshape(3, 2).astype(dtype)
    (tmp_path / "utts").write_bytes(b"\xef\xbb\xbfa\r\n\r\nb\r\n\xc3\xa7")
    for order in ("C", "F"):
        np.save(tmp_path / "x.npy", np.asarray(array, order=order))
        rows, utts = import_embeddings(tmp_path / "x.npy")
        assert utts == ["a", "b", "ç"]
        assert rows.dtype == np.float32
        assert rows.tolist() == [[1, 2], [3, 4], [5, 6]]
    (tmp_path / "x.utts").write_text("d\ne\nf\n")
    assert import_embeddings(tmp_path / "x.npy")[1] == ["d", "e", "f"]
    (tmp_path / "mine.txt").write_text("g\nh\ni\n")
    assert import_embeddings(tmp_path / "x.npy", utts=tmp_path / "mine.txt")[1] == ["g", "h", "i"]


def test_faults_of_an_array_and_its_ids_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.array([[1, 2], [0, 0], [np.nan, 1]]))
    assert fault("x.npy") == "x.npy: has neither x.utts nor utts, one id a line, beside it"
    assert "gone: cannot be read" in fault("x.npy", utts="gone")
    for ids, message in [
        ("a\nb\n", "x.npy: 3 embeddings, but 2 utterance ids"),
        ("a\n\nb c\nd\n", "utts:3: 2 columns; expected one utterance id"),
        ("a\nb\n\na\n", "utts:4: the id 'a' is there twice, first at utts:1"),
        ("a\nb\nc\n", "utts:2: the embedding of 'b' is all zeros"),
        ("", "utts: the list is empty"),
    ]:
        Path("utts").write_text(ids)
        assert message in fault("x.npy")
    for array in (np.ones(3), np.ones((3, 1, 2)), np.ones((3, 0)), np.array([["a"]]), np.ones((1, 1), complex)):
        np.save("x.npy", array)
        assert re.match(r"x.npy.*(expected numbers \(N, D\), found|cannot be read as arrays)", fault("x.npy"))


def test_both_forms_of_npz_are_read(tmp_path, embeddings):
    np.savez_compressed(tmp_path / "two.npz", embeddings=embeddings, utts=np.array(UTTS), more=np.ones(2))
    np.savez(tmp_path / "each.npz", **{utt: row[None] for utt, row in zip(UTTS, embeddings)})
    for name in ("two.npz", "each.npz"):
        rows, utts = import_embeddings(tmp_path / name)
        assert utts == UTTS
        assert rows.tobytes() == embeddings.tobytes()


def test_faults_of_npz_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one = np.ones(2)
    for arrays, message in [
        ({}, "x.npz: there are no embeddings"),
        ({"a": one, "b": np.ones(3)}, "x.npz, array 2: 'b' has 3 dimensions, 'a' (x.npz, array 1) has 2"),
        ({"a": one, "b": one * 0}, "x.npz, array 2: the embedding of 'b' is all zeros"),
        ({"a": one, "b": np.ones((2, 2))}, "x.npz: 'b': expected one vector of numbers, found float64 (2, 2)"),
        ({"a": one, "b": np.array(1.0)}, "x.npz: 'b': expected one vector of numbers"),
        ({"a": one, "b c": one}, "x.npz, array 2: the id 'b c' is empty or holds white space"),
        ({"embeddings": np.ones((2, 2)), "utts": np.array([b"a", b"b"])}, "x.npz: 'utts' must be text (N,)"),
        ({"embeddings": np.ones((2, 2)), "utts": np.array(["a"])}, "x.npz: 2 embeddings, but 1 utterance ids"),
        ({"embeddings": np.ones((2, 2)), "utts": np.array(["a", "a"])}, "row 2: the id 'a' is there twice"),
        ({"embeddings": np.ones(2), "utts": np.array(["a", "b"])}, "'embeddings': expected numbers (N, D)"),
    ]:
        np.savez("x.npz", **arrays)
        assert message in fault("x.npz")


def test_a_zip_that_no_numpy_wrote_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("x.npz", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(2):
            with archive.open("a.npy", "w") as file:
                np.save(file, np.ones(2))
    assert "array 2: the id 'a' is there twice, first at x.npz, array 1" in fault("x.npz")
    with zipfile.ZipFile("x.npz", "w") as archive:
        archive.writestr("a.npy\n", b"")
    assert "x.npz: 'a.npy\\n' in it is no array" in fault("x.npz")
    content = bytearray(Path("x.npz").read_bytes())
    content[content.index(b"PK\1\2") + 6] = 247
    Path("x.npz").write_bytes(content)
    assert "x.npz: cannot be read as arrays (zip file version 24.7)" in fault("x.npz")
    Path("x.npz").write_bytes(b"PK no zip")
    assert "x.npz: cannot be read as arrays (File is not a zip file)" in fault("x.npz")


def test_a_folder_of_files_gives_paths_as_ids(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(["id2/v/1.npy", "id1/v/2.wav.npy", "id1/v.npy"], start=1):
        Path("x", name).parent.mkdir(parents=True, exist_ok=True)
        np.save(Path("x", name), np.full((1, 2), number))
    Path("x", "readme.txt").touch()
    rows, utts = import_embeddings("x")
    assert utts == ["id1/v", "id1/v/2.wav", "id2/v/1"]
    assert rows.tolist() == [[3, 3], [2, 2], [1, 1]]
    assert import_embeddings("x", basenames=True)[1] == ["v", "2.wav", "1"]


def test_files_with_one_base_name_are_refused_with_both_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("id1/00001.npy", "id2/00001.npy"):
        Path("x", name).parent.mkdir(parents=True)
        np.save(Path("x", name), np.ones(2))
    assert import_embeddings("x")[1] == ["id1/00001", "id2/00001"]
    message = fault("x", basenames=True)
    assert "x/id2/00001.npy: has the id '00001', as x/id1/00001.npy has" in message


def test_ids_of_paths_are_handed_on_when_they_are_distinct():
    paths = [Path("a/1.wav"), Path("b/2.wav")]
    assert ids_of_paths(paths, ["1", "2"]) == ["1", "2"]
    with pytest.raises(SpkverError, match=r"b/2.wav: has the id '1', as a/1.wav has"):
        ids_of_paths(paths, ["1", "1"])


def test_faults_of_a_folder_of_files_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("x").mkdir()
    assert fault("x") == "x: holds neither embeddings.npy and utts nor one .npy an utterance"
    np.save("x/a.npy", np.ones(2))
    np.save("x/b.npy", np.ones(3))
    assert "x/b.npy: 'b' has 3 dimensions, 'a' (x/a.npy) has 2" in fault("x")
    np.save("x/b.npy", [0.0, 0.0])
    assert "x/b.npy: the embedding of 'b' is all zeros" in fault("x")
    Path("x/b.npy").write_bytes(b"no array")
    assert "x/b.npy: cannot be read as arrays" in fault("x")
    Path("x/b.npy").unlink()
    np.save("x/b c.npy", np.ones(2))
    assert "x/b c.npy: the id 'b c' is empty or holds white space" in fault("x")


@pytest.mark.skipif(os.name != "posix", reason="names of bytes are a thing of POSIX")
def test_a_file_name_that_is_not_utf8_is_no_id(tmp_path):
    np.save(tmp_path / "a\udcff.npy", np.ones(2))
    assert re.search(r"the id 'a.udcff' .* is not UTF-8; rename it", fault(tmp_path))


# --- which form it is


def test_the_house_folder_is_read_as_it_is(tmp_path, embeddings):
    write_embeddings(tmp_path, embeddings, UTTS)
    rows, utts = import_embeddings(tmp_path)
    assert isinstance(rows, np.memmap)
    assert utts == UTTS
    (tmp_path / "utts").unlink()
    assert "has no file 'utts'" in fault(tmp_path)


def test_the_form_is_seen_without_a_name_that_tells(tmp_path, embeddings, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export_kaldi(embeddings, UTTS, "x.ark", "x.scp")
    export_npz(embeddings, UTTS, "x.npz")
    np.save("x.npy", embeddings)
    Path("utts").write_text("\n".join(UTTS))
    Path("text.ark").write_text("a  [ 1 2 3 ]\n")
    for name in ("x.ark", "x.scp", "x.npz", "x.npy", "text.ark"):
        expected = import_embeddings(name)
        Path(name).rename("unnamed")
        rows, utts = import_embeddings("unnamed")
        assert utts == expected[1]
        np.testing.assert_array_equal(rows, expected[0])
        Path("unnamed").rename(name)
    for content in (b"", b"word\n", b"\x89PNG\r\n\x1a\n\0\0"):
        Path("unnamed").write_bytes(content)
        assert "neither its name nor its first bytes tell the form" in fault("unnamed")


def test_options_of_another_form_are_refused(tmp_path, embeddings):
    export_kaldi(embeddings, UTTS, tmp_path / "x.ark", tmp_path / "x.scp")
    assert "a file of ids goes with the form npy" in fault(tmp_path / "x.ark", utts=tmp_path / "utts")
    assert "base names as ids go with the form files" in fault(tmp_path / "x.ark", basenames=True)


@pytest.mark.parametrize("suffix", ["scp", "ark", "npy", "npz"])
def test_a_folder_for_a_file_is_one_line(tmp_path, suffix):
    folder = tmp_path / f"folder.{suffix}"
    folder.mkdir()
    assert str(folder) in fault(folder)


# --- exports are whole or not there


def test_what_cannot_be_exported_leaves_nothing_behind(tmp_path, embeddings):
    zero = embeddings * [[1], [1], [0], [1], [1]]
    for rows, utts, message in [
        (embeddings, UTTS[:4], "5 embeddings, but 4 utterance ids"),
        (embeddings, ["a", "b", "c", "d", "a"], "row 5: the id 'a' is there twice, first at .*row 1"),
        (embeddings, ["a", "b c", "d", "e", "f"], "row 2: the id 'b c' is empty"),
        (embeddings, ["a", "", "d", "e", "f"], "row 2: the id '' is empty"),
        (embeddings, ["a\0", "b", "d", "e", "f"], "row 1: the id 'a.x00' is"),
        (embeddings, ["\ufeffa", "b", "d", "e", "f"], "row 1: the id .* byte order mark"),
        (embeddings, ["\ud800", "b", "d", "e", "f"], "row 1: the id .* not UTF-8"),
        (zero, UTTS, "row 3: the embedding of 'ç語' is all zeros"),
        (np.empty((0, 3)), [], "no embeddings"),
    ]:
        with pytest.raises(SpkverError, match=message):
            export_kaldi(rows, utts, tmp_path / "x.ark", tmp_path / "x.scp")
        with pytest.raises(SpkverError, match=message):
            export_npz(rows, utts, tmp_path / "x.npz")
    for rows in (embeddings[0], np.array([["a"]]), embeddings.astype(complex)):
        with pytest.raises(ValueError, match=r"embeddings must be \(N, D\) numbers"):
            export_kaldi(rows, UTTS, tmp_path / "x.ark", tmp_path / "x.scp")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("ark", [" x.ark", "x.ark ", "x\n.ark", "| x.ark", "x.scp", "./x.scp"])
def test_an_archive_path_that_an_scp_cannot_hold_is_refused(tmp_path, monkeypatch, embeddings, ark):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpkverError, match=r"does not fit on a line|must be two files"):
        export_kaldi(embeddings, UTTS, ark, "x.scp")
    assert os.listdir(tmp_path) == []


def test_a_stop_between_archive_and_scp_never_leaves_an_scp_of_other_embeddings(tmp_path, embeddings, monkeypatch):
    ark, scp = tmp_path / "x.ark", tmp_path / "x.scp"
    export_kaldi(embeddings, UTTS, ark, scp)
    replace = os.replace

    def stop_at_scp(source, target):
        if Path(target).name == "x.scp":
            raise OSError("the machine stopped")
        replace(source, target)

    monkeypatch.setattr(os, "replace", stop_at_scp)
    with pytest.raises(SpkverError, match="the machine stopped"):
        export_kaldi(-embeddings[::-1], UTTS, ark, scp)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["x.ark"]


# --- size


@pytest.mark.parametrize("shuffled", [False, True])
def test_time_grows_with_the_number_of_utterances_and_not_with_its_square(tmp_path, shuffled):
    def seconds(count):
        rows = np.random.default_rng(0).normal(size=(count, 16)).astype(np.float32)
        utts = [f"u{number}" for number in range(count)]
        export_kaldi(rows, utts, tmp_path / "x.ark", tmp_path / "x.scp")
        order = np.random.default_rng(1).permutation(count) if shuffled else np.arange(count)
        lines = (tmp_path / "x.scp").read_text().splitlines()
        (tmp_path / "x.scp").write_text("\n".join(lines[index] for index in order))
        start = time.process_time()
        again, ids = import_embeddings(tmp_path / "x.scp")
        assert ids == [utts[index] for index in order]
        assert (again == rows[order]).all()
        return time.process_time() - start

    assert seconds(64_000) < 60 * max(seconds(4_000), 0.01)  # 16 if linear, 256 if not
