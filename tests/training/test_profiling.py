"""The table of where a step's time goes."""

from types import SimpleNamespace

import pytest
import torch

from spkver.training import profiling
from spkver.training.profiling import _product_rate, _table


def test_the_table_has_milliseconds_shares_utterances_and_arithmetic():
    parts = {
        "waiting for data": 0.01,
        "features": 0.02,
        "encoder forward": 0.05,
        "head and loss": 0.015,
        "backward": 0.075,
        "clipping": 0.005,
        "optimizer": 0.02,
    }
    assert _table(parts, 0.2, 64, 50 * 10**9, 500e9).splitlines() == [
        "waiting for data       10.0 ms    5.0%",
        "features               20.0 ms   10.0%",
        "encoder forward        50.0 ms   25.0%",
        "head and loss          15.0 ms    7.5%",
        "backward               75.0 ms   37.5%",
        "clipping                5.0 ms    2.5%",
        "optimizer              20.0 ms   10.0%",
        "the rest                5.0 ms    2.5%",
        "a step                200.0 ms   320 utterances/s",
        "70% of it in the model (forward, head, backward)",
        "50 GFLOP of products and convolutions a step, 250 GFLOP/s; "
        "a plain product of this type makes 500 GFLOP/s here",
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_rate_of_a_plain_product_is_the_best_of_a_few(monkeypatch, dtype):
    times = iter([0.0, 4.0, 10.0, 11.0, 20.0, 28.0, 30.0, 32.0])
    monkeypatch.setattr(profiling, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    made = []
    monkeypatch.setattr(torch, "ones", lambda *size, **how: made.append((size, how)) or torch.zeros(2, 2, **how))
    trainer = SimpleNamespace(device=torch.device("cpu"), dtype=dtype)
    assert _product_rate(trainer) == 2 * 2048**3
    assert made == [((2048, 2048), {"device": trainer.device, "dtype": dtype})]
    assert next(times, None) is None
