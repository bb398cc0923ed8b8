"""Freed memory that stays: page faults counted in processes of their own, as the setting is for a whole process."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")

FAULTS = """
import resource
import torch
from spkver.cli.memory import tune_malloc
kept = {keep} and tune_malloc()
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


def kept_and_faults(keep: bool) -> tuple[int, int]:
    words = [sys.executable, "-c", FAULTS.format(keep=keep)]
    ran = subprocess.run(words, capture_output=True, text=True, check=True)
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
    asked = "from spkver.cli.memory import tune_malloc; print(tune_malloc())"
    for environment, kept in (({}, "True"), ({name: ""}, "False")):
        ran = subprocess.run([sys.executable, "-c", asked], env={**os.environ, **environment}, capture_output=True)
        assert ran.stdout.decode().strip() == kept


GROWTH = """
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np
import torch
from spkver.config import load_config
from spkver.embedding.extractor import Extractor
from spkver.cli.memory import hold_memory_flat, tune_malloc
from spkver.models import build_encoder
tune_malloc()
if {flat}:
    hold_memory_flat()
config = load_config("{config}")
torch.manual_seed(0)
extractor = Extractor(build_encoder(config.model, config.features.n_mels), config)
rng = np.random.default_rng(0)
noise = rng.standard_normal(32000).astype(np.float32)
batches = [[noise[: rng.integers(8000, 32000)] for _ in range(rng.integers(4, 24))] for _ in range(60)]
with ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=(1,)) as pool:
    for first in (0, 20, 40):
        list(pool.map(extractor.embed, batches[first : first + 20]))
        print(int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // 2**20)
"""


@needs_glibc
def test_memory_does_not_grow_with_the_number_of_batches_of_other_shapes():
    config = Path(__file__).parents[2] / "conf" / "mini.yaml"
    words = [sys.executable, "-c", GROWTH.format(flat=True, config=config)]
    ran = subprocess.run(words, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    megabytes = [int(word) for word in ran.stdout.split()]
    # By 10 to 20 MB, once 25. What it would be otherwise, 2 to 40 MB, differs too much to be compared.
    assert megabytes[2] - megabytes[0] < 35, megabytes


HEAPS = """
import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from spkver.cli.memory import hold_memory_flat
if {flat}:
    hold_memory_flat()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
together = Barrier(4)
def allocate(_):
    together.wait()  # four threads at once
    return [libc.malloc(1000) for _ in range(100)]
with ThreadPoolExecutor(4) as pool:
    list(pool.map(allocate, range(4)))
file = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w"))
libc.malloc_info(0, file)
libc.fflush(file)
print(os.environ.get("ONEDNN_PRIMITIVE_CACHE_CAPACITY"))
"""


@needs_glibc
def test_threads_share_one_heap_and_few_programs_of_shapes_are_kept():
    found = {}
    # Not what `spkver embed` has set in this process.
    environment = {name: value for name, value in os.environ.items() if name != "ONEDNN_PRIMITIVE_CACHE_CAPACITY"}
    for flat in (True, False):
        words = [sys.executable, "-c", HEAPS.format(flat=flat)]
        ran = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
        found[flat] = ran.stdout.count("<heap nr="), ran.stdout.split()[-1]
    assert found[True] == (1, "16")
    assert found[False][0] > 1 and found[False][1] == "None"
