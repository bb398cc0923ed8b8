"""Seconds add up by part, also of a part that fails, and a GPU is waited for only when that is asked for."""

from types import SimpleNamespace

import pytest
import torch

from spkver.training import clock
from spkver.training.clock import StageTimer


@pytest.fixture
def advance(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def advance(seconds):
        now[0] += seconds

    return advance


def test_seconds_add_up_by_part(advance):
    timer = StageTimer(torch.device("cpu"))
    assert timer.exact is False
    for seconds, part in ((1.0, "a"), (0.5, "b"), (2.0, "a")):
        with timer(part):
            advance(seconds)
        advance(8.0)  # outside of any part
    with pytest.raises(ValueError, match="on the way"), timer("b"):
        advance(0.25)
        raise ValueError("on the way")
    assert timer.seconds == {"a": 3.0, "b": 0.75}


@pytest.mark.parametrize(("device", "exact", "waits"), [("cuda", True, 2), ("cuda", False, 0), ("cpu", True, 0)])
def test_a_gpu_is_waited_for_at_each_border_only_when_asked_to_be_exact(monkeypatch, device, exact, waits):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    timer = StageTimer(torch.device(device))
    timer.exact = exact
    with timer("a"):
        pass
    assert waited == [torch.device(device)] * waits
