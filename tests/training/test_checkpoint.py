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


def test_the_best_epoch_stays_from_long_before_and_other_files_are_left_alone(tmp_path):
    for epoch in (1, 2, 998, 999, 1000):
        save(tmp_path, epoch, float(epoch))
    (tmp_path / "epoch-1x.safetensors").write_text("")
    assert {path.name for path in tmp_path.iterdir()} >= {"epoch-001.safetensors", "epoch-1000.safetensors"}
    assert list(checkpoint.epochs_kept(tmp_path)) == [1, 2, 998, 999, 1000]
    checkpoint.prune(tmp_path, keep_last=2, best=1)
    assert list(checkpoint.epochs_kept(tmp_path)) == [1, 999, 1000]
    checkpoint.prune(tmp_path, keep_last=1, best=None)
    assert list(checkpoint.epochs_kept(tmp_path)) == [1000]
    assert (tmp_path / "epoch-1x.safetensors").exists()


@pytest.mark.parametrize(
    ("state", "kinds", "said"),
    [
        ([1, 2], {}, "it holds no state of a training"),
        ({"epoch": 1}, {"epoch": int, "step": int}, "it has no 'step'"),
        ({"epoch": 1.5}, {"epoch": int}, "its 'epoch' is of type float"),
        ({"best": 1}, {"best": (tuple, type(None))}, "its 'best' is of type int"),
    ],
)
def test_a_state_that_lacks_something_says_what(tmp_path, state, kinds, said):
    torch.save(state, tmp_path / "last.pt")
    with pytest.raises(SpkverError) as caught:
        checkpoint.load_state(tmp_path, kinds)
    assert str(caught.value) == (
        f"{tmp_path / 'last.pt'}: is no whole checkpoint ({said}); put a copy in its place, or train anew in another "
        "folder (`spkver average` still makes a model of the epochs that are finished)"
    )


def test_a_reason_of_many_lines_is_cut_to_a_short_one():
    assert "(a b); put" in str(checkpoint.damaged("last.pt", "a\n  b"))
    assert f"({'x' * 120}); put" in str(checkpoint.damaged("last.pt", "x" * 121))
    assert "(KeyError); put" in str(checkpoint.damaged("last.pt", KeyError()))


def test_a_state_that_is_not_there_is_told_by_the_system(tmp_path):
    assert not checkpoint.has_state(tmp_path)
    with pytest.raises(SpkverError, match=rf"^{tmp_path}/last.pt: cannot be read \(No such file or directory\)$"):
        checkpoint.load_state(tmp_path, {})


def test_epochs_of_different_weights_are_not_averaged(tmp_path):
    save(tmp_path, 1, 1.0)
    save(tmp_path, 2, 2.0)
    checkpoint.save_epoch(tmp_path, 3, {"b.weight": torch.zeros(3)}, {"weight": torch.zeros(2, 2)})
    checkpoint.save_epoch(tmp_path, 4, {"a.weight": torch.zeros(4)}, {"weight": torch.zeros(2, 2)})
    checkpoint.save_epoch(tmp_path, 5, {"a.weight": torch.zeros(3).double()}, {"weight": torch.zeros(2, 2)})
    paths = checkpoint.epochs_kept(tmp_path)
    first = "epoch-001.safetensors"
    for epoch, said in (
        (
            3,
            f"epoch-003.safetensors: has no 'encoder.a.weight', as {first} has; delete the damaged one, or train again",
        ),
        (4, f"'encoder.a.weight' has shape (4,) of torch.float32, in {first} it has (3,) of torch.float32"),
        (5, f"'encoder.a.weight' has shape (3,) of torch.float64, in {first} it has (3,) of torch.float32"),
    ):
        with pytest.raises(SpkverError) as caught:
            checkpoint.average([paths[1], paths[2], paths[epoch]])
        assert said in str(caught.value)


def test_an_epoch_that_is_not_finite_is_not_averaged(tmp_path):
    save(tmp_path, 1, 1.0)
    save(tmp_path, 2, float("nan"))
    with pytest.raises(
        SpkverError, match=r"epoch-002\.safetensors: '\S+\.weight' holds values that are not finite; delete"
    ):
        checkpoint.average(list(checkpoint.epochs_kept(tmp_path).values()))
