"""Files appear whole or not at all, one process at a time does what a lock protects, and killed processes leave
nothing behind for long."""

import errno
import fcntl
import multiprocessing
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pyarrow
import pyarrow.csv
import pytest
import torch

from spkver import files
from spkver.errors import SpkverError
from spkver.files import atomic_write, locked, read_json, remove_leftovers, temporary_beside, write_json


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


# Locks, and what killed processes leave.

HOLD = """
import sys, time
from spkver.files import locked
with locked(sys.argv[1], "training"):
    print("has it", flush=True)
    time.sleep(float(sys.argv[2]))
"""

WRITE = """
import sys, time
from spkver.files import atomic_write
with atomic_write(sys.argv[1], "wb") as file:
    file.write(b"half")
    file.flush()
    print("writes", flush=True)
    time.sleep(60)
"""

COUNT = """
import sys
from pathlib import Path
from spkver.files import locked
for _ in range(100):
    with locked(sys.argv[1] + ".lock", "counting", wait_seconds=60):
        Path(sys.argv[1]).write_text(str(int(Path(sys.argv[1]).read_text()) + 1))
"""


@pytest.fixture
def start():
    """Run a Python program; returns once it has printed its first line."""
    started = []

    def start(program, *words):
        process = subprocess.Popen([sys.executable, "-c", program, *map(str, words)], stdout=subprocess.PIPE, text=True)
        started.append(process)
        process.stdout.readline()
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_second_process_is_refused_by_the_name_of_the_first(start, tmp_path):
    path = tmp_path / ".training.lock"
    first = start(HOLD, path, 60)
    with pytest.raises(SpkverError) as refused, locked(path, "training"):
        pass
    message = str(refused.value)
    assert message.startswith(f"{tmp_path}: training is under way in another process (process {first.pid} on ")
    assert socket.gethostname() in message and "since 2" in message and "\n" not in message


def test_a_lock_is_waited_for(start, tmp_path):
    path = tmp_path / ".training.lock"
    start(HOLD, path, 0.5)
    with locked(path, "training", wait_seconds=30):
        assert f"process {os.getpid()} " in path.read_text()
    assert os.listdir(tmp_path) == []


def test_the_lock_of_a_killed_process_is_taken_over(start, tmp_path):
    path = tmp_path / ".training.lock"
    first = start(HOLD, path, 60)
    first.kill()
    first.wait()
    assert path.exists()
    with locked(path, "training"):
        assert f"process {os.getpid()} " in path.read_text()
    assert os.listdir(tmp_path) == []


def test_many_processes_at_once_lose_no_count(tmp_path):
    path = tmp_path / "count"
    path.write_text("0")
    processes = [subprocess.Popen([sys.executable, "-c", COUNT, str(path)]) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert path.read_text() == "400"
    assert os.listdir(tmp_path) == ["count"]


def test_a_child_process_does_not_keep_the_lock_of_its_parent(tmp_path):
    path = tmp_path / ".training.lock"
    with locked(path, "training"):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
    try:
        # As after `kill -9` of the parent: the child lives on.
        path.touch()
        with locked(path, "training"):
            assert child.is_alive()
    finally:
        child.kill()
        child.join()


def test_a_child_process_does_not_end_the_lock_of_its_parent(tmp_path):
    path = tmp_path / ".training.lock"
    with locked(path, "training"):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(0,))
        child.start()
        child.join()
        with pytest.raises(SpkverError, match="under way"), locked(path, "training"):
            pass


def test_a_lock_is_given_back_after_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(RuntimeError), locked(tmp_path / "lock", "training"):
            raise RuntimeError
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(errno.EROFS, "Read-only file system"), (errno.EACCES, "Permission denied"), (errno.ENOSPC, "No space left")],
)
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, fault, reason):
    def refuse(*_):
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr(files, "_acquired", refuse)
    expected = f"^{tmp_path}: training must write here and cannot.*{reason}"
    with pytest.raises(SpkverError, match=expected), locked(tmp_path / "lock", "training"):
        pass


def test_a_file_in_place_of_the_folder_is_one_line(tmp_path):
    (tmp_path / "exp").write_text("")
    with (
        pytest.raises(SpkverError, match="exp: training must write here"),
        locked(tmp_path / "exp" / "lock", "training"),
    ):
        pass


def test_a_lock_file_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(SpkverError, match="must write here"), locked(tmp_path / "lock", "training"):
        pass
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_file_system_without_locks_is_written_all_the_same(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with locked(tmp_path / "lock", "training"), atomic_write(tmp_path / "file") as file:
        file.write("text")
        remove_leftovers(tmp_path)  # cannot know that this one is written now, so it must stay
    assert os.listdir(tmp_path) == ["file"]


def test_what_a_killed_process_was_writing_is_removed(start, tmp_path):
    process = start(WRITE, tmp_path / "last.pt")
    process.send_signal(signal.SIGKILL)
    process.wait()
    (left,) = os.listdir(tmp_path)
    assert left.startswith(".last.pt.")
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == []


def test_what_another_process_is_writing_stays(start, tmp_path):
    start(WRITE, tmp_path / "last.pt")
    remove_leftovers(tmp_path)
    assert len(os.listdir(tmp_path)) == 1


def test_a_temporary_file_taken_away_before_its_lock_is_made_anew(tmp_path, monkeypatch):
    taken = []

    def taken_away(handle, wait=False):
        if not taken:
            (left,) = os.listdir(tmp_path)
            taken.append(left)
            (tmp_path / left).unlink()
        return True

    monkeypatch.setattr(files, "_locks", taken_away)
    handle, aside = temporary_beside(tmp_path / "file")
    os.close(handle)
    assert os.path.exists(aside) and taken


def test_files_of_other_makers_stay(tmp_path):
    names = [".vimrc.original", ".file.abcdefgh.part", "file.abcdefgh.unfinished", ".file.ABCDEFGH.unfinished", "file"]
    for name in names:
        (tmp_path / name).write_text("")
    (tmp_path / ".folder.abcdefgh.unfinished").mkdir()
    (tmp_path / ".link.abcdefgh.unfinished").symlink_to(tmp_path / "file")
    os.mkfifo(tmp_path / ".pipe.abcdefgh.unfinishe")
    before = sorted(os.listdir(tmp_path))
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == before


def test_leftovers_are_looked_for_where_there_is_no_folder(tmp_path):
    remove_leftovers(tmp_path / "none")


def test_json_is_written_whole_and_read_back_to_the_bit(tmp_path):
    value = {"ü": [0.1, 1e-300, 2**53], "path": "caf\udce9"}
    write_json(tmp_path / "new" / "a.json", value)
    assert read_json(tmp_path / "new" / "a.json", "mend it") == value
    for wrong in (float("nan"), {1, 2}):
        with pytest.raises((ValueError, TypeError)):
            write_json(tmp_path / "new" / "a.json", wrong)
    assert read_json(tmp_path / "new" / "a.json", "mend it") == value
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{\n"a": 1,\n}', r":3: not JSON \(.*\); mend it"),
        (b"\xff\xfe", r": cannot be read \(.*\); mend it"),
        (b"[" * 100_000, r": cannot be read \(.*\); mend it"),
        (None, r": cannot be read \(No such file or directory\); mend it"),
    ],
)
def test_what_is_no_json_is_one_line_with_the_advice(tmp_path, content, said):
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(SpkverError, match=said) as caught:
        read_json(tmp_path / "a.json", "mend it")
    assert str(caught.value).startswith(f"{tmp_path / 'a.json'}:") and "\n" not in str(caught.value)
