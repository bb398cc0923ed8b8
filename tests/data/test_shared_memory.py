"""Batches packed into one piece of memory, in shared memory or where that is full."""

from typing import NamedTuple

import numpy as np
import torch

from spkver.data.shared_memory import pack

CPU = torch.device("cpu")


class Inner(NamedTuple):
    rows: torch.Tensor
    begins: list[int]
    nothing: None


class Outer(NamedTuple):
    samples: torch.Tensor
    parts: list[Inner]
    factor: float


def batch_of() -> Outer:
    return Outer(
        torch.arange(10, dtype=torch.int16).view(2, 5),
        [Inner(torch.tensor([1, 2, 3]), [4, 5], None), Inner(torch.rand(3, 2).T, [], None)],
        0.9,
    )


def assert_same(one: Outer, two: Outer) -> None:
    assert type(one) is type(two) is Outer and one.factor == two.factor
    assert torch.equal(one.samples, two.samples) and one.samples.dtype == two.samples.dtype
    for a, b in zip(one.parts, two.parts, strict=True):
        assert type(a) is type(b) is Inner
        assert torch.equal(a.rows, b.rows) and a.rows.dtype == b.rows.dtype
        assert (a.begins, a.nothing) == (b.begins, b.nothing)


def test_a_batch_comes_back_from_its_shared_memory():
    before = batch_of()
    packed = pack(before)
    assert packed.memory.is_shared() and not packed.piped
    after = packed.unpacked(CPU)
    assert_same(before, after)
    # Nothing is copied, and each tensor begins where the widest registers may load it.
    begins = [
        tensor.data_ptr() - packed.memory.data_ptr() for tensor in (after.samples, *(p.rows for p in after.parts))
    ]
    assert begins == [0, 64, 128]


def test_a_batch_comes_back_without_shared_memory(monkeypatch):
    def full(tensor):
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    packed = pack(batch_of())
    assert packed.piped and isinstance(packed.memory, np.ndarray)
    torch.manual_seed(0)
    before = batch_of()
    assert_same(before, pack(before).unpacked(CPU))


def test_a_batch_may_hold_nothing():
    assert pack((None, [])).unpacked(CPU) == (None, [])
    assert pack((torch.zeros(0, 3),)).unpacked(CPU)[0].shape == (0, 3)
