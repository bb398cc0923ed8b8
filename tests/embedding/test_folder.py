"""The folder of embeddings: read back to the bit, whole or not at all, a bad row named by its utterance."""

import os
from pathlib import Path

import numpy as np
import pytest

from spkver.embedding.folder import read_embeddings, write_embeddings
from spkver.errors import SpkverError


@pytest.fixture
def embeddings():
    return np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


UTTS = ["a", "b/c.wav", "ç", "0", "e"]


def test_what_is_written_is_read_back_as_a_read_only_memory_map(tmp_path, embeddings):
    write_embeddings(tmp_path / "new" / "folder", embeddings, UTTS)
    again, utts = read_embeddings(tmp_path / "new" / "folder")
    assert isinstance(again, np.memmap) and again.dtype == np.float32
    assert again.tobytes() == embeddings.tobytes()
    assert utts == UTTS
    with pytest.raises(ValueError, match="read-only"):
        again[0] = 0
    assert sorted(os.listdir(tmp_path / "new" / "folder")) == ["embeddings.npy", "utts"]


def test_float64_in_fortran_order_is_kept_as_float32(tmp_path, embeddings):
    write_embeddings(tmp_path, np.asfortranarray(embeddings.astype(np.float64)), UTTS)
    assert read_embeddings(tmp_path)[0].tobytes() == embeddings.tobytes()


def test_ids_with_crlf_are_read(tmp_path, embeddings):
    write_embeddings(tmp_path, embeddings, UTTS)
    (tmp_path / "utts").write_bytes("\r\n".join(UTTS).encode())
    assert read_embeddings(tmp_path)[1] == UTTS


@pytest.mark.parametrize(("value", "problem"), [(np.nan, "NaN or infinite"), (np.inf, "NaN or infinite"), (0, "zeros")])
def test_a_senseless_row_is_named_when_written_and_when_read(tmp_path, embeddings, value, problem):
    write_embeddings(tmp_path, embeddings, UTTS)
    bad = embeddings.copy()
    bad[2] = value
    with pytest.raises(SpkverError, match=f"the embedding of 'ç' is .*{problem}"):
        write_embeddings(tmp_path, bad, UTTS)
    assert read_embeddings(tmp_path)[0].tobytes() == embeddings.tobytes()
    np.save(tmp_path / "embeddings.npy", bad)
    with pytest.raises(SpkverError, match=f"the embedding of 'ç' is .*{problem}"):
        read_embeddings(tmp_path)


def test_a_bad_row_is_named_beyond_the_first_chunk(tmp_path):
    rows = np.ones((40_000, 2), dtype=np.float32)
    rows[39_000, 1] = np.nan
    with pytest.raises(SpkverError, match="the embedding of 'u39000' is NaN"):
        write_embeddings(tmp_path, rows, [f"u{n}" for n in range(40_000)])


def test_a_value_that_float32_cannot_hold_is_named(tmp_path):
    with pytest.raises(SpkverError, match="the embedding of 'a' is NaN or infinite"):
        write_embeddings(tmp_path, np.array([[1e300, 0.0]]), ["a"])


def test_a_row_too_small_for_its_square_is_not_taken_for_zero(tmp_path):
    write_embeddings(tmp_path, np.full((1, 2), 1e-30), ["a"])
    assert read_embeddings(tmp_path)[0][0, 0] == np.float32(1e-30)


def test_counts_ids_and_shapes_that_do_not_fit_are_refused(tmp_path, embeddings):
    with pytest.raises(SpkverError, match="5 embeddings, but 4 utterance ids"):
        write_embeddings(tmp_path, embeddings, UTTS[:4])
    with pytest.raises(SpkverError, match="the id 'a' is there twice"):
        write_embeddings(tmp_path, embeddings, ["a", "b", "c", "d", "a"])
    with pytest.raises(SpkverError, match="'b c' is empty or holds white space"):
        write_embeddings(tmp_path, embeddings, ["a", "b c", "d", "e", "f"])
    with pytest.raises(SpkverError, match="no embeddings"):
        write_embeddings(tmp_path, np.empty((0, 3)), [])
    with pytest.raises(ValueError, match=r"must be \(N, D\) numbers"):
        write_embeddings(tmp_path, embeddings[0], UTTS)
    assert os.listdir(tmp_path) == []


def test_files_that_are_missing_or_damaged_are_named(tmp_path, embeddings):
    with pytest.raises(SpkverError, match=r"has no file 'embeddings\.npy'"):
        read_embeddings(tmp_path)
    write_embeddings(tmp_path, embeddings, UTTS)
    ids = (tmp_path / "utts").read_text()
    for text, message in [
        (ids + "f\n", "5 embeddings, but 6 utterance ids"),
        (ids.replace("e", "a"), "the id 'a' is there twice"),
        (ids.replace("e", "e spk"), "utts:5: 2 columns; expected one utterance id"),
    ]:
        (tmp_path / "utts").write_text(text)
        with pytest.raises(SpkverError, match=message):
            read_embeddings(tmp_path)
    (tmp_path / "utts").unlink()
    with pytest.raises(SpkverError, match="has no file 'utts'"):
        read_embeddings(tmp_path)


def test_an_array_file_that_is_no_float32_matrix_is_refused(tmp_path, embeddings):
    write_embeddings(tmp_path, embeddings, UTTS)
    path = tmp_path / "embeddings.npy"
    whole = path.read_bytes()
    for damage in (whole[:-4], whole[:20], b"", b"text"):
        path.write_bytes(damage)
        with pytest.raises(SpkverError, match="cannot be read as arrays"):
            read_embeddings(tmp_path)
    np.save(path, embeddings.astype(np.float64))
    with pytest.raises(SpkverError, match=r"expected float32 \(N, D\), found float64 \(5, 3\)"):
        read_embeddings(tmp_path)
    np.save(path, np.array([{}]), allow_pickle=True)
    with pytest.raises(SpkverError, match="cannot be read as arrays"):
        read_embeddings(tmp_path)
    with path.open("wb") as file:
        np.savez(file, embeddings)
    with pytest.raises(SpkverError, match="cannot be read as arrays"):
        read_embeddings(tmp_path)


def test_a_stop_between_the_two_files_never_leaves_new_embeddings_beside_old_ids(tmp_path, embeddings, monkeypatch):
    write_embeddings(tmp_path, embeddings, UTTS)
    replace = os.replace

    def stop_at_utts(source, target):
        if Path(target).name == "utts":
            raise OSError("the machine stopped")
        replace(source, target)

    monkeypatch.setattr(os, "replace", stop_at_utts)
    with pytest.raises(SpkverError, match="the machine stopped"):
        write_embeddings(tmp_path, -embeddings, ["v", "w", "x", "y", "z"])
    monkeypatch.undo()
    with pytest.raises(SpkverError, match="has no file 'utts'"):
        read_embeddings(tmp_path)


def test_other_files_of_the_folder_stay(tmp_path, embeddings):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "notes").write_text("mine")
    write_embeddings(tmp_path, embeddings, UTTS)
    write_embeddings(tmp_path, embeddings[:2], UTTS[:2])
    assert (tmp_path / "test" / "notes").read_text() == "mine"
    assert read_embeddings(tmp_path)[1] == UTTS[:2]
