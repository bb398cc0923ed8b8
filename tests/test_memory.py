"""Freed memory that stays: page faults counted in processes of their own, as the setting is for a whole process."""

import os
import platform
import subprocess
import sys

import pytest

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")

FAULTS = """
import resource
import torch
from spkver.memory import keep_freed_memory
kept = {keep} and keep_freed_memory()
def work():
    together = [torch.ones(n * 2**20) for n in (3, 12, 20)]  # 12, 48 and 80 MiB
    return sum(tensor[0].item() for tensor in together)
for _ in range(12):  # until each block has found its place
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    work()
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def kept_and_faults(keep: bool, **environment: str) -> tuple[int, int]:
    words = [sys.executable, "-c", FAULTS.format(keep=keep)]
    ran = subprocess.run(words, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    kept, faults = map(int, ran.stdout.split())
    return kept, faults


@needs_glibc
def test_memory_that_is_asked_for_again_does_not_come_from_the_system_again():
    kept, faults = kept_and_faults(True)
    # 140 MiB are 35,840 pages; as huge ones (where the system makes them unasked) they would be 70.
    without = kept_and_faults(False)[1]
    assert kept and faults < 40 < without


@needs_glibc
@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_settings_of_the_environment_stay(name):
    assert kept_and_faults(True, **{name: ""})[0] == 0
