"""Where a run computes, in which precision, and what a data worker leaves to the main process."""

import os
import signal

import pytest
import torch

from spkver.training import device
from spkver.training.device import choose_device, choose_dtype, ignore_interrupts
from spkver.training.stopping import SIGNALS

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(("there", "expected"), [(True, GPU), (False, CPU)])
def test_auto_takes_a_gpu_where_there_is_one(monkeypatch, there, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert choose_device("auto") == expected
    assert choose_device("cpu") == CPU


def test_a_gpu_that_is_asked_for_and_there_is_taken(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("cuda") == GPU


def test_a_precision_that_is_named_is_taken_and_auto_asks_the_hardware(monkeypatch):
    for hardware in (True, False):
        monkeypatch.setattr(device, "_has_bfloat16", lambda asked, hardware=hardware: hardware and asked == CPU)
        assert choose_dtype("float32", CPU) == torch.float32
        assert choose_dtype("bfloat16", CPU) == torch.bfloat16
        assert choose_dtype("auto", CPU) == (torch.bfloat16 if hardware else torch.float32)


@pytest.fixture
def hardware_asked():
    if "SPKVER_TEST_BFLOAT16" in os.environ:
        pytest.skip("the suite was told what the CPU multiplies")
    return device._has_bfloat16


@pytest.mark.parametrize("avx", [True, False])
@pytest.mark.parametrize("amx", [True, False])
def test_a_cpu_multiplies_bfloat16_by_either_unit(monkeypatch, hardware_asked, avx, amx):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    assert hardware_asked(CPU) == (avx or amx)


def test_a_torch_that_cannot_say_so_means_no(monkeypatch, hardware_asked):
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported", raising=False)
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    assert not hardware_asked(CPU)


@pytest.mark.parametrize("natively", [True, False])
def test_a_gpu_that_would_emulate_bfloat16_takes_float32(monkeypatch, hardware_asked, natively):
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or natively
    )
    assert hardware_asked(GPU) == natively


def test_a_data_worker_has_one_thread_and_ignores_every_signal_that_stops(signals_as_in_a_terminal):
    torch.set_num_threads(2)
    ignore_interrupts(0)
    assert torch.get_num_threads() == 1
    assert {signal.getsignal(number) for number in SIGNALS} == {signal.SIG_IGN}
    assert {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} == set(SIGNALS)
