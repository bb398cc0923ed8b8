"""Damaged files of a run: what is left of them is read, or one line says what to do."""

import io
import shutil
from random import Random

import numpy as np
import pytest
import torch
from damage import damaged_bytes

from spkver.cli import main
from spkver.errors import SpkverError
from spkver.experiment import snapshots as snapshot
from spkver.experiment.log import Log, read_log
from spkver.experiment.snapshots import (
    GRADIENT_EDGES,
    Snapshot,
    Subset,
    read_snapshot,
    read_subset,
    write_snapshot,
    write_subset,
)
from spkver.pictures.run import Run
from spkver.training import checkpoint

KINDS = {"epoch": int, "encoder": dict, "log_size": int}


def write_log(folder):
    log = Log(folder / "log.jsonl")
    for step in range(1, 4):
        log.write("step", step, {"epoch": 1, "step": step, "loss": 3.25, "clipped": False, "lr": 1e-3})
    log.write("epoch", 1, {"epoch": 1, "loss": 3.25, "held_out_eer": 0.25})
    log.close()
    return folder / "log.jsonl", lambda: read_log(folder / "log.jsonl", "step")


def write_state(folder):
    checkpoint.save_state(folder, {"epoch": 3, "encoder": {"a": torch.arange(50.0)}, "log_size": 7})
    return folder / "last.pt", lambda: checkpoint.load_state(folder, KINDS)


def write_epoch(folder):
    for epoch in (1, 2):
        weights = {"a.weight": torch.full((5,), float(epoch)), "count": torch.tensor(3)}
        checkpoint.save_epoch(folder, epoch, weights, {"weight": torch.ones(2, 2)})
    return folder / "epoch-002.safetensors", lambda: checkpoint.average(list(checkpoint.epochs_kept(folder).values()))


def write_picture_data(folder):
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 9, len(GRADIENT_EDGES) - 1)
    floats = rng.standard_normal((4, 3)).astype(np.float32), rng.standard_normal((2, 1, 3)).astype(np.float32)
    write_snapshot(folder, Snapshot(2, floats[0], np.array([0, 1, -1, -1]), floats[1], counts, counts))
    return folder / "epoch-002.npz", lambda: read_snapshot(folder / "epoch-002.npz", 2)


def write_list(folder):
    write_subset(folder, Subset(np.array(["u1", "u2"]), np.array(["s1", "s2"]), np.array([False, True])))
    return folder / "utterances", lambda: read_subset(folder)


@pytest.mark.parametrize("write", [write_log, write_state, write_epoch, write_picture_data, write_list])
def test_damaged_bytes_are_read_or_told_in_one_line(write, tmp_path):
    path, read = write(tmp_path)
    content = path.read_bytes()
    told = 0
    for number in range(400):
        path.write_bytes(damaged_bytes(content, Random(number)))
        try:
            read()
        except SpkverError as error:
            told += 1
            assert str(tmp_path) in str(error)
            assert "\n" not in str(error)
            assert len(str(error)) < 500
    assert told > 50


def test_no_damage_to_a_state_goes_unnoticed(tmp_path):
    path, read = write_state(tmp_path)
    content, before = path.read_bytes(), read()
    accepted = 0
    for number in range(400):
        path.write_bytes(damaged_bytes(content, Random(number)))
        try:
            state = read()
        except SpkverError:
            continue
        accepted += 1  # in a gap between two parts of the archive
        assert torch.equal(state["encoder"].pop("a"), before["encoder"]["a"])
        assert state == {"epoch": 3, "encoder": {}, "log_size": 7}
    assert accepted < 40


@pytest.mark.parametrize(
    "state, said",
    [
        ({"epoch": 3, "encoder": {}}, "it has no 'log_size'"),
        ({"epoch": "3", "encoder": {}, "log_size": 0}, "its 'epoch' is of type str"),
        (torch.zeros(3), "it holds no state"),
    ],
)
def test_a_state_of_another_make_says_what_is_wrong(tmp_path, state, said):
    checkpoint.save_state(tmp_path, state)
    with pytest.raises(SpkverError, match=rf"last\.pt: is no whole checkpoint \({said}.*put a copy in its place"):
        checkpoint.load_state(tmp_path, KINDS)


def test_an_empty_state_is_one_line(tmp_path):
    (tmp_path / "last.pt").write_bytes(b"")
    with pytest.raises(SpkverError, match=r"last\.pt: is no whole checkpoint \(File is not a zip file\)"):
        checkpoint.load_state(tmp_path, KINDS)


def test_resuming_from_a_damaged_state_is_one_line_and_changes_nothing(trained, tiny_config, voices, tmp_path, capsys):
    exp = tmp_path / "exp"
    shutil.copytree(trained, exp)
    (exp / "checkpoints" / "last.pt").write_bytes(b"")
    before = {path: path.read_bytes() for path in exp.rglob("*") if path.is_file()}
    words = ["train", str(tiny_config), "--data", str(voices), "--exp", str(exp), "--resume"]
    assert main(words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{exp}/checkpoints/last.pt: is no whole checkpoint")
    assert {path: path.read_bytes() for path in exp.rglob("*") if path.is_file()} == before


def _huge_step(state):
    adamw = state["optimizer"]["parts"][-1]
    next(iter(adamw["state"].values()))["step"] = 10**400


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda state: state["head"].update(weight=state["head"]["weight"][:3]), "'weight' has shape (3, 16)"),
        (lambda state: state.update(epoch=-1), "is no whole checkpoint (it counts below 0)"),
        (lambda state: state.update(log_size=-1), "is no whole checkpoint (it counts below 0)"),
        (_huge_step, "is no whole checkpoint (int too large"),
    ],
)
def test_a_state_of_other_values_is_one_line(trained, tiny_config, voices, tmp_path, capsys, damage, said):
    exp = tmp_path / "exp"
    shutil.copytree(trained, exp)
    state = torch.load(exp / "checkpoints" / "last.pt", weights_only=True)
    damage(state)
    checkpoint.save_state(exp / "checkpoints", state)
    words = ["train", str(tiny_config), "--data", str(voices), "--exp", str(exp), "--resume"]
    assert main(words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"last.pt: {said}" in line


def test_statistics_that_a_skipped_step_made_nan_are_healed(trained, tiny_config, voices, tmp_path, capsys):
    exp = tmp_path / "exp"
    shutil.copytree(trained, exp)
    state = torch.load(exp / "checkpoints" / "last.pt", weights_only=True)
    state["encoder"]["pooled_norm.running_mean"][:] = np.nan
    state["encoder"]["embedding_norm.running_var"][:] = np.nan
    state["epoch"] = 2
    checkpoint.save_state(exp / "checkpoints", state)
    words = ["train", str(tiny_config), "--data", str(voices), "--exp", str(exp), "--resume"]
    assert main(words) == 0
    assert "statistics of a BatchNorm were not finite; renewed" in capsys.readouterr().out
    healed = torch.load(exp / "checkpoints" / "last.pt", weights_only=True)
    assert all(tensor.isfinite().all() for tensor in healed["encoder"].values())


def test_a_log_is_read_up_to_what_a_power_loss_left(tmp_path):
    path, read = write_log(tmp_path)
    whole = read()
    for end in (b"\0" * 300, b'{"kind": "step", "epo', b"\xff\xfe\n", b"\n\n", b'{"kind": "step"}\n'):
        path.write_bytes(path.read_bytes() + end)
        assert read() == whole
        write_log(tmp_path)


def test_zeros_before_further_records_are_left_out(tmp_path):
    path, read = write_log(tmp_path)
    whole = read()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\0" * 40 + b"".join(lines[1:]))
    assert read() == whole


@pytest.mark.parametrize(
    "line",
    [
        b"[1, 2]",
        b"{}",
        b'{"kind": "step", "epoch": 1, "step": 2, "loss": "3"}',
        b'{"kind": "step", "epoch": 99999999, "step": 2}',
        b'{"kind": "step", "step": 2}',
        b"[" * 10000,
    ],
)
def test_something_else_between_records_is_named_by_its_line(tmp_path, line):
    path, read = write_log(tmp_path)
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], line, *lines[1:]]) + b"\n")
    with pytest.raises(SpkverError, match=rf"^{path}:2: no record of a training, and others follow; delete the line"):
        read()


def test_a_log_without_a_value_that_pictures_need_says_so(trained, tmp_path):
    exp = tmp_path / "exp"
    shutil.copytree(trained, exp)
    path = exp / "log.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"grad_norm"', b'"grad_nirm"'))
    with pytest.raises(SpkverError, match=r"log\.jsonl: no step says its 'grad_norm'"):
        Run(exp).plot_training_records()


def test_a_log_that_was_cut_is_gone_on_with_and_told(tmp_path, capsys):
    path, read = write_log(tmp_path)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size // 2])
    kept = read()
    log = Log(path, size)
    log.write("step", 9, {"epoch": 2, "step": 1, "loss": 1.0})
    log.close()
    assert b"\0" not in path.read_bytes()
    assert read() == [*kept, {"epoch": 2, "step": 1, "loss": 1.0}]
    assert "bytes of earlier records are missing" in capsys.readouterr().err


def test_a_full_disk_is_one_line_of_the_log(tmp_path):
    log = Log(tmp_path / "log.jsonl")
    log._file.close()
    log._file = io.BufferedWriter(io.FileIO("/dev/full", "wb"))
    with pytest.raises(SpkverError, match=r"log\.jsonl: cannot be written \(No space left on device\).*--resume"):
        log.write("step", 1, {"loss": 1.0})
    log.close()  # says nothing again


def test_a_snapshot_that_claims_too_much_is_refused_before_it_is_read(tmp_path, monkeypatch):
    _, read = write_picture_data(tmp_path)
    monkeypatch.setattr(snapshot, "_MOST_BYTES", 1000)
    monkeypatch.setattr(np, "load", lambda *arguments, **options: pytest.fail("read"))
    with pytest.raises(SpkverError, match=r"it claims to hold \d+ bytes"):
        read()
