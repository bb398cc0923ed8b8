"""Files appear whole or not at all."""

import os
import resource
import signal
import stat
from contextlib import contextmanager

import numpy as np
import pyarrow
import pyarrow.csv
import pytest
import torch

from spkver.errors import SpkverError
from spkver.files import atomic_write


def test_the_file_appears_when_the_block_ends_well(tmp_path):
    path = tmp_path / "new" / "file"
    with atomic_write(path) as file:
        file.write("ä\n")
        assert not path.exists()
    assert path.read_bytes() == "ä\n".encode()
    assert os.listdir(path.parent) == ["file"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path, "wb") as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


@contextmanager
def small_disk(n_bytes):
    """No file can grow beyond so many bytes: writing fails as on a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize(
    "write",
    [
        lambda file: file.write(bytes(1 << 20)),
        lambda file: torch.save({"weights": torch.zeros(1 << 18)}, file),
        lambda file: np.save(file, np.zeros(1 << 18)),
        lambda file: np.savez(file, a=np.zeros(1 << 18), b=np.zeros(1 << 18)),
        lambda file: pyarrow.csv.write_csv(pyarrow.table({"a": np.random.default_rng(0).random(1 << 16)}), file),
    ],
    ids=["bytes", "torch", "npy", "npz", "arrow"],
)
def test_a_full_disk_is_one_line_and_the_old_file_stays(tmp_path, write):
    path = tmp_path / "file"
    path.write_text("old")
    with small_disk(100_000), pytest.raises(SpkverError) as fault, atomic_write(path, "wb") as file:
        write(file)
    message = str(fault.value)
    assert message.startswith(f"{path}: cannot be written (") and "\n" not in message
    assert "File too large" in message or "is the disk full?" in message
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_met_only_at_the_end_is_one_line(tmp_path):
    with (
        small_disk(100),
        pytest.raises(SpkverError, match="file: cannot be written"),
        atomic_write(tmp_path / "file") as file,
    ):
        file.write("a" * 1000)  # stays in the buffer
    assert os.listdir(tmp_path) == []


def test_a_file_where_a_folder_is_wanted_is_named(tmp_path):
    (tmp_path / "exp").write_text("")
    expected = f"{tmp_path}/exp/a/b: cannot be written, since {tmp_path}/exp is a file and no folder"
    with pytest.raises(SpkverError, match=f"^{expected}$"), atomic_write(tmp_path / "exp" / "a" / "b"):
        pass


def test_a_folder_where_a_file_is_wanted_is_named(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(SpkverError, match=r"out: cannot be written \(Is a directory"), atomic_write(tmp_path / "out"):
        pass
    assert os.listdir(tmp_path) == ["out"]


def test_an_error_about_another_file_is_not_blamed_on_this_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="input"), atomic_write(tmp_path / "file"):
        (tmp_path / "input").read_text()


def test_a_name_as_long_as_names_may_be_can_be_written(tmp_path):
    path = tmp_path / ("ä" * 127)
    with atomic_write(path) as file:
        file.write("text")
    assert path.read_text() == "text"
