"""Only one process at a time does what a lock protects, and killed processes leave nothing behind for long."""

import errno
import fcntl
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from spkver import files
from spkver.errors import SpkverError
from spkver.files import atomic_write, locked, read_json, remove_leftovers, temporary_beside, write_json

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
