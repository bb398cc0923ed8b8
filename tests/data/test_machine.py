"""What a process may use of cores and memory, and what its container leaves of them."""

import os

import pytest

from spkver.data.machine import machine_memory, usable_cores, usable_memory

HERE = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@pytest.fixture
def many(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)


def group(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_without_a_quota_all_that_it_may_run_on(tmp_path):
    assert usable_cores(tmp_path, tmp_path / "none") == HERE
    (tmp_path / "own").write_text("0::/\n")
    group(tmp_path, cpu__max="max 100000\n")
    assert usable_cores(tmp_path, tmp_path / "own") == HERE


@pytest.mark.parametrize("quota, cores", [("200000 100000", 2), ("150000 100000", 2), ("10000 100000", 1)])
def test_a_quota_of_version_2(many, tmp_path, quota, cores):
    (tmp_path / "own").write_text("0::/\n")
    group(tmp_path, cpu__max=quota)
    assert usable_cores(tmp_path, tmp_path / "own") == cores


def test_the_smallest_quota_of_the_groups_above_counts(many, tmp_path):
    (tmp_path / "own").write_text("0::/pod/container\n")
    group(tmp_path / "pod", cpu__max="300000 100000")
    group(tmp_path / "pod" / "container", cpu__max="800000 100000")
    assert usable_cores(tmp_path, tmp_path / "own") == 3


@pytest.mark.parametrize("quota, cores", [("400000", 4), ("-1", 64)])
def test_a_quota_of_version_1(many, tmp_path, quota, cores):
    (tmp_path / "own").write_text("4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n")
    group(tmp_path / "cpu,cpuacct", cpu__cfs_quota_us=quota, cpu__cfs_period_us="100000")
    group(tmp_path / "memory", cpu__cfs_quota_us="100000", cpu__cfs_period_us="100000")
    assert usable_cores(tmp_path, tmp_path / "own") == cores


def test_files_that_say_nothing_are_passed_over(many, tmp_path):
    (tmp_path / "own").write_text("0::/\n")
    group(tmp_path, cpu__max="much\n")
    assert usable_cores(tmp_path, tmp_path / "own") == 64


@pytest.mark.parametrize("text, expected", [("268435456\n", 256 << 20), ("max\n", None), ("a lot", None)])
def test_a_limit_of_memory_of_version_2(tmp_path, text, expected):
    (tmp_path / "own").write_text("0::/pod/container\n")
    group(tmp_path / "pod", memory__max=text)
    group(tmp_path / "pod" / "container", memory__max=f"{1 << 60}\n")
    assert usable_memory(tmp_path, tmp_path / "own") == (expected or machine_memory())


def test_a_limit_of_memory_of_version_1(tmp_path):
    (tmp_path / "own").write_text("4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n")
    group(tmp_path / "memory" / "docker" / "abc", memory__limit_in_bytes=f"{512 << 20}\n")
    group(tmp_path / "cpu,cpuacct", memory__limit_in_bytes="1\n")
    assert usable_memory(tmp_path, tmp_path / "own") == 512 << 20
    assert usable_memory(tmp_path, tmp_path / "none") == machine_memory()
