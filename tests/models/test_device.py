"""Where an encoder computes, and in which precision."""

import os

import pytest
import torch

from spkver.errors import SpkverError
from spkver.models import device
from spkver.models.device import allow_tf32, choose_device, choose_dtype, full_float32

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
def test_a_gpu_that_would_emulate_bfloat16_takes_float16(monkeypatch, hardware_asked, natively):
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or natively
    )
    assert hardware_asked(GPU) == natively
    monkeypatch.setattr(device, "_has_bfloat16", hardware_asked)
    assert choose_dtype("auto", GPU) == (torch.bfloat16 if natively else torch.float16)


def test_a_gpu_is_named_by_its_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(SpkverError, match=r"^--device is cuda:2, but torch sees 2 GPUs, counted from cuda:0$"):
        choose_device("cuda:2", "--device")
    for name in ("gpu", "cuda:", "cuda:-1", "cuda:1x", "mps"):
        with pytest.raises(SpkverError, match="use auto, cpu, cuda or cuda:N"):
            choose_device(name)


def test_processes_of_torchrun_share_the_gpus_out(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for rank, place in (("0", 0), ("3", 3), ("5", 1)):
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", place)
        assert choose_device("cuda:2") == torch.device("cuda", 2) and choose_device("cpu") == CPU


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    for name in ("cuda", "cuda:0"):
        with pytest.raises(SpkverError, match=f"^training.device is {name}, but torch sees no GPU; use auto or cpu$"):
            choose_device(name)


def test_embeddings_are_made_in_full_float32_whatever_training_allows():
    def allowed():
        return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32

    before = allowed()
    try:
        allow_tf32(True)
        assert allowed() == (True, True)
        with full_float32():
            assert allowed() == (False, False)
        assert allowed() == (True, True)
        allow_tf32(False)
        assert allowed() == (False, False)
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
