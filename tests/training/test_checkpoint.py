"""Checkpoints: what is kept, what an average is, and what a damaged file says."""

import pickle

import pytest
import torch

from spkver.errors import SpkverError
from spkver.training import checkpoint


def save(folder, epoch, value):
    checkpoint.save_epoch(folder, epoch, {"a.weight": torch.full((3,), value)}, {"weight": torch.full((2, 2), -value)})


def test_the_last_epochs_and_the_best_are_kept(tmp_path):
    for epoch in range(1, 8):
        save(tmp_path, epoch, float(epoch))
        checkpoint.prune(tmp_path, keep_last=3, best=2 if epoch >= 2 else 1)
    assert list(checkpoint.epochs_kept(tmp_path)) == [2, 5, 6, 7]


def test_an_average_is_the_mean_of_the_weights_whatever_their_order(tmp_path):
    for epoch, value in enumerate((1.0, 2.0, 6.0), 1):
        save(tmp_path, epoch, value)
    paths = list(checkpoint.epochs_kept(tmp_path).values())
    encoder, head = checkpoint.average(paths)
    assert torch.equal(encoder["a.weight"], torch.full((3,), 3.0))
    assert torch.equal(head["weight"], torch.full((2, 2), -3.0))
    assert torch.equal(checkpoint.average(paths[::-1])[0]["a.weight"], encoder["a.weight"])


def test_a_counter_stays_whole_in_an_average(tmp_path):
    for epoch in (1, 2):
        checkpoint.save_epoch(tmp_path, epoch, {"seen": torch.tensor(4 * epoch + 1)}, {})
    encoder, _ = checkpoint.average(list(checkpoint.epochs_kept(tmp_path).values()))
    assert encoder["seen"].dtype == torch.int64
    assert encoder["seen"].item() == 7


def test_the_state_reads_back(tmp_path):
    state = {"epoch": 3, "best": (0.1, 2), "weights": torch.arange(4.0)}
    checkpoint.save_state(tmp_path, state)
    assert checkpoint.has_state(tmp_path)
    back = checkpoint.load_state(tmp_path, {"epoch": int, "best": (tuple, type(None)), "weights": torch.Tensor})
    assert (back["epoch"], back["best"]) == (3, (0.1, 2))
    assert torch.equal(back["weights"], state["weights"])


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


def test_a_state_from_a_stranger_cannot_run_code(tmp_path, capsys):
    torch.save({"x": Evil()}, tmp_path / "last.pt", pickle_module=pickle)
    with pytest.raises(SpkverError):
        checkpoint.load_state(tmp_path, {})
    assert "executed" not in capsys.readouterr().out
