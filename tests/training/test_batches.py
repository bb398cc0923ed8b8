"""Batches from data workers: one that hangs, is killed or finds no shared memory does not cost the run."""

import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torch.utils.data._utils import signal_handling

from spkver.config.schema import Augment
from spkver.data.audio_check import keep_usable
from spkver.data.augment import Augmenter
from spkver.data.dataset import SpeakerCrops
from spkver.data.directory import read_data_directory
from spkver.data.sampler import SpeakerBatchSampler
from spkver.data.shared_memory import pack, shared_zeros
from spkver.errors import SpkverError
from spkver.training import batches as batches_module
from spkver.training import stopping
from spkver.training.batches import Batches, WorkerDied, _how_it_died, build_loader
from spkver.training.stopping import StopNow, StopRequest, ignore_interrupts

N = 8


class Numbers(Dataset):
    """Item i is ``(3,)`` of i, or whatever ``faults[i]`` does instead."""

    def __init__(self, faults=None):
        self.faults = faults or {}

    def __len__(self):
        return N

    def __getitem__(self, index):
        return self.faults.get(index, lambda: torch.full((3,), index))()


def collate(items):
    if isinstance(items[0], SpkverError):
        return items[0]
    return (items[0],) if get_worker_info() is None else pack((items[0],))


def loader_of(faults=None, workers=1):
    return DataLoader(
        Numbers(faults),
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=ignore_interrupts if workers else None,
        persistent_workers=workers > 0,
    )


def hang():
    time.sleep(60)


def be_killed():
    time.sleep(0.3)  # else the item before, which is not fetched yet, dies with the worker
    os.kill(os.getpid(), signal.SIGKILL)
    hang()


def values(batches):
    return [int(batch[0][0]) for batch in batches]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(batches_module, "_SECONDS_TO_END", 0.3)
    monkeypatch.setattr(stopping, "_PATIENCE", 0.2)


@pytest.fixture(autouse=True)
def no_worker_is_left():
    before = signal.getsignal(signal.SIGCHLD)
    yield
    assert multiprocessing.active_children() == []
    assert signal.getsignal(signal.SIGCHLD) is before


@pytest.mark.parametrize("workers", [0, 2])
def test_all_batches_come_in_order(workers):
    with Batches(loader_of(workers=workers)) as batches:
        assert values(batches) == list(range(N))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_workers_of_one_epoch_are_those_of_the_next(workers):
    seen = []
    with Batches(loader_of(workers=workers)) as batches:
        for _ in range(3):
            assert values(batches) == list(range(N))
            seen.append({child.pid for child in multiprocessing.active_children()})
    assert [len(pids) for pids in seen] == [workers] * 3
    assert seen[0] == seen[1] == seen[2]


def test_a_worker_that_is_killed_between_two_epochs_is_told():
    with pytest.raises(WorkerDied, match="was killed by SIGKILL"), Batches(loader_of()) as batches:
        assert len(values(batches)) == N
        (worker,) = multiprocessing.active_children()
        os.kill(worker.pid, signal.SIGKILL)
        values(batches)


def test_a_signal_before_the_first_batch_leaves_no_worker(signals_as_in_a_terminal):
    with pytest.raises(StopNow), StopRequest() as request, Batches(loader_of({0: hang}), request) as batches:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
        next(batches)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_among_the_batches_is_raised(workers):
    faults = {2: lambda: SpkverError("a.wav: unreadable")}
    with pytest.raises(SpkverError, match=r"a\.wav"), Batches(loader_of(faults, workers)) as batches:
        assert values(batches)


@pytest.fixture(params=[False, True], ids=["alone", "after a plain loader"])
def torch_watches_children(request, monkeypatch):
    """Whether torch's own handler of SIGCHLD is in place, as once a loader has been used without `Batches`."""
    before = signal.getsignal(signal.SIGCHLD)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if request.param:
        monkeypatch.setattr(signal_handling, "_SIGCHLD_handler_set", False)  # else it is set once in a process
        assert len(list(loader_of(workers=1))) == N
        assert callable(signal.getsignal(signal.SIGCHLD))
    yield
    signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_obeyed_though_a_worker_hangs(number, signals_as_in_a_terminal, torch_watches_children):
    got, began = [], time.monotonic()
    threading.Timer(0.5, os.kill, (os.getpid(), number)).start()
    with pytest.raises(StopNow), StopRequest() as request, Batches(loader_of({3: hang}), request) as batches:
        for batch in batches:
            got.append(int(batch[0][0]))  # noqa: PERF401 (what came before the end counts)
    assert got == [0, 1, 2]
    assert request.signal_number == number
    assert time.monotonic() - began < 20


def test_a_batch_that_comes_soon_after_a_signal_is_still_used(monkeypatch):
    # A transfer that is left in the middle makes the worker print a traceback.
    monkeypatch.setattr(stopping, "_PATIENCE", 10.0)
    got = []
    faults = {0: lambda: time.sleep(0.1) or torch.zeros(3)}
    with pytest.raises(StopNow), StopRequest() as request, Batches(loader_of(faults, workers=0), request) as batches:
        threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGTERM)).start()
        for batch in batches:
            got.append(int(batch[0][0]))  # noqa: PERF401 (what came before the end counts)
    assert got == [0]


def test_a_killed_worker_is_told_with_a_guess_why():
    expected = r"process \d+\) was killed by SIGKILL: .*memory.*data\.workers"
    with pytest.raises(WorkerDied, match=expected), Batches(loader_of({4: be_killed})) as batches:
        assert values(batches)


def test_a_killed_worker_is_told_between_steps_only(torch_watches_children):
    reached = []
    with pytest.raises(WorkerDied), Batches(loader_of({1: be_killed})) as batches:
        next(batches)
        time.sleep(1.0)  # a step, in which the worker dies
        reached.append("end of the step")
        next(batches)
    assert reached == ["end of the step"]


def test_where_shared_memory_is_full_batches_come_by_a_pipe_and_it_is_said_once(monkeypatch, capsys):
    def full(tensor):
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    monkeypatch.setattr(Batches, "_said", False)
    for _ in range(2):
        with Batches(loader_of()) as batches:
            assert values(batches) == list(range(N))
    assert capsys.readouterr().err.count("/dev/shm is too small") == 1


def test_what_a_forked_process_writes_to_shared_memory_is_seen():
    tensor = shared_zeros(5, torch.int16)
    child = multiprocessing.get_context("fork").Process(target=tensor.fill_, args=(7,))
    child.start()
    child.join()
    assert tensor.tolist() == [7] * 5


def test_there_may_be_nothing_to_share():
    assert shared_zeros(0, torch.int64).shape == (0,)


def test_how_a_worker_died_is_told_with_a_reason_where_one_is_known():
    assert _how_it_died(5, 3) == "data worker (process 5) ended with status 3"
    assert _how_it_died(5, -signal.SIGABRT) == "data worker (process 5) was killed by SIGABRT"
    for number, reason in (
        (
            signal.SIGKILL,
            "the system does so when memory runs out; lower data.workers, data.cache_gigabytes or the batch",
        ),
        (signal.SIGBUS, "shared memory ran out; give the machine more of /dev/shm, or lower data.workers"),
        (signal.SIGSEGV, "a library that decodes audio crashed, or memory is faulty"),
    ):
        assert _how_it_died(6, -number) == f"data worker (process 6) was killed by {number.name}: {reason}"


def failing(error):
    raise error
    yield


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_open_files_is_one_line_and_another_error_is_what_it_was(workers):
    for error, kind, said in (
        (
            OSError(24, "Too many open files"),
            SpkverError,
            "^too many open files; raise `ulimit -n`, or lower data.workers$",
        ),
        (RuntimeError("received 0 items of ancdata"), RuntimeError, "^received 0 items of ancdata$"),
    ):
        with Batches(loader_of(workers=workers)) as batches:
            next(batches)
            iterator, batches._iterator = batches._iterator, failing(error)
            with pytest.raises(kind, match=said):
                next(batches)
            batches._iterator = iterator


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's account of a process's memory")
def test_what_arrow_has_freed_is_given_back_before_workers_are_forked(voices):
    def resident():
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    usable = keep_usable(read_data_directory(voices), 16000)
    dataset = SpeakerCrops(usable, 16000, 0.5, Augment(), 1, 0.0)
    sampler, augmenter = SpeakerBatchSampler(dataset.labels, 4), Augmenter(dataset.draws, torch.device("cpu"))
    pa.default_memory_pool().release_unused()
    before = resident()
    read = [pa.concat_arrays([pa.array(np.arange(500_000))] * 2) for _ in range(25)]  # 200 MB
    del read
    build_loader(dataset, sampler, augmenter, workers=0, prefetch=1)
    assert resident() < before + 60e6
