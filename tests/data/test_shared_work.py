"""Parts of work: each is made once, whoever works, and those of a dead process are taken over."""

import multiprocessing
import os
import signal
import threading
import time

import pytest

from spkver.data.shared_work import StopWork, share_work
from spkver.files import atomic_write


class Work:
    """Parts that are files; whoever makes one leaves a line in ``made``."""

    def __init__(self, folder, seconds=0.01):
        self.folder, self.seconds = folder, seconds

    def path(self, number):
        return self.folder / f"part-{number}"

    def read(self, number):
        return self.path(number).read_text() if self.path(number).exists() else None

    def make(self, number, stop):
        if stop.wait(self.seconds):
            raise StopWork
        with (self.folder / "made").open("a") as file:
            file.write(f"{number}\n")
        with atomic_write(self.path(number)) as file:  # others read it as soon as it is there
            file.write(f"result {number}")
        return f"result {number}"

    def share(self, n, workers=2, **options):
        return share_work(range(n), self.read, self.make, lambda n: self.folder / f".{n}.lock", workers, **options)

    def made(self):
        lines = self.folder / "made"
        return sorted(map(int, lines.read_text().split())) if lines.exists() else []


def test_all_parts_come_and_those_that_are_there_are_not_made(tmp_path):
    work = Work(tmp_path)
    work.path(3).write_text("from before")
    found = {number: (part, is_new) for number, part, is_new in work.share(9)}
    assert found == {n: ("from before", False) if n == 3 else (f"result {n}", True) for n in range(9)}
    assert work.made() == [0, 1, 2, 4, 5, 6, 7, 8]
    assert not list(tmp_path.glob(".*.lock"))


def test_processes_share_the_parts_and_each_gets_all_of_them(tmp_path):
    def run(queue):
        queue.put(sorted((number, part) for number, part, _ in Work(tmp_path, 0.02).share(30)))

    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    others = [context.Process(target=run, args=(queue,)) for _ in range(2)]
    for one in others:
        one.start()
    found = [sorted((number, part) for number, part, _ in Work(tmp_path, 0.02).share(30)), queue.get(), queue.get()]
    for one in others:
        one.join()
    assert all(each == [(n, f"result {n}") for n in range(30)] for each in found)
    assert Work(tmp_path).made() == list(range(30))


def test_the_part_of_a_process_that_was_killed_is_taken_over(tmp_path):
    context = multiprocessing.get_context("fork")
    other = context.Process(target=lambda: list(Work(tmp_path, 60.0).share(1)))
    other.start()
    while not (tmp_path / ".0.lock").exists():
        time.sleep(0.01)
    threading.Timer(0.5, os.kill, (other.pid, signal.SIGKILL)).start()
    assert list(Work(tmp_path).share(3)) and Work(tmp_path).made() == [0, 1, 2]
    other.join()


def test_nothing_more_is_made_when_another_has_taken_all_together(tmp_path):
    work = Work(tmp_path)
    found = list(work.share(50, workers=1, is_over=lambda: len(list(tmp_path.glob("part-*"))) > 2))
    assert [number for number, _, _ in found] == work.made() == [0, 1, 2]


def test_an_error_in_a_part_ends_the_work_and_frees_its_lock(tmp_path):
    work = Work(tmp_path)

    def broken(number, stop):
        if number == 1:
            raise ValueError("no such thing")
        return work.make(number, stop)

    with pytest.raises(ValueError, match="no such thing"):
        list(share_work(range(400), work.read, broken, lambda n: tmp_path / f".{n}.lock", 2))
    assert not list(tmp_path.glob(".*.lock"))
    assert len(work.made()) < 400
