"""A run that is killed and resumed logs the losses of one that was not."""

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
from forked import Forked

from spkver.experiment.log import read_log


def start(tiny_config, voices, exp, *words):
    return Forked("train", tiny_config, "--data", voices, "--exp", exp, *words)


def wait_for_steps(process, exp, n):
    log = exp / "log.jsonl"
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if log.exists() and len(read_log(log, "step")) >= n:
            return
        time.sleep(0.005)
    pytest.fail(f"no {n} steps: {process.communicate()}")


def figures(exp):
    steps = [(r["epoch"], r["step"], r["loss"], r["grad_norm"]) for r in read_log(exp / "log.jsonl", "step")]
    keys = ("epoch", "loss", "accuracy", "held_out_eer", "held_out_threshold")
    return steps, [[r[key] for key in keys] for r in read_log(exp / "log.jsonl", "epoch")]


# With kill -9 nothing can be saved: the run goes on from the last checkpoint, here of a moment before,
# in the middle of an epoch. Steps 9 and 20 are in epochs 1 and 2; 1 is before the first checkpoint.
@pytest.mark.parametrize(
    "signal_number, at_step, checkpoint_minutes",
    [(signal.SIGKILL, 9, 0.002), (signal.SIGKILL, 20, 0.002), (signal.SIGKILL, 1, 5), (signal.SIGTERM, 17, 5)],
)
def test_a_stopped_run_goes_on_to_the_same_losses(
    trained, tiny_config, voices, tmp_path, signal_number, at_step, checkpoint_minutes
):
    exp = tmp_path / "exp"
    words = (f"training.checkpoint_minutes={checkpoint_minutes}", "data.workers=1")
    process = start(tiny_config, voices, exp, *words)
    wait_for_steps(process, exp, at_step)
    process.send_signal(signal_number)
    _, errors = process.communicate(timeout=60)
    if signal_number == signal.SIGTERM:
        assert process.returncode == 128 + signal.SIGTERM
        assert "stopped and saved at epoch" in errors
        assert "Traceback" not in errors
    else:
        assert process.returncode == -signal.SIGKILL
    assert len(read_log(exp / "log.jsonl", "epoch")) < 3, "it was stopped too late to show anything"

    resumed = start(tiny_config, voices, exp, *words, "--resume")
    assert resumed.wait(timeout=120) == 0, resumed.communicate()
    assert figures(exp) == figures(trained)


def test_a_run_whose_worker_was_killed_is_saved_and_goes_on_to_the_same_losses(trained, tiny_config, voices, tmp_path):
    exp = tmp_path / "exp"
    process = start(tiny_config, voices, exp, "data.workers=1")
    wait_for_steps(process, exp, 4)
    (worker,) = (int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
    os.kill(worker, signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75  # EX_TEMPFAIL: try again
    (line,) = errors.splitlines()
    assert re.fullmatch(
        rf"{exp}: data worker \(process {worker}\) was killed by SIGKILL: .* memory .*; "
        r"saved at epoch 1, step \d+; go on with --resume",
        line,
    )
    resumed = start(tiny_config, voices, exp, "data.workers=1", "--resume")
    assert resumed.wait(timeout=120) == 0, resumed.communicate()
    assert figures(exp) == figures(trained)


def test_a_second_training_in_the_same_folder_is_refused_and_the_first_not_disturbed(
    trained, tiny_config, voices, tmp_path
):
    exp = tmp_path / "exp"
    first = start(tiny_config, voices, exp)
    wait_for_steps(first, exp, 1)
    for words in ((), ("--resume",)):
        second = start(tiny_config, voices, exp, *words)
        _, errors = second.communicate(timeout=60)
        if first.poll() is None:
            assert second.returncode == 1
            assert re.fullmatch(rf"{exp}: training is under way .*process {first.pid} on \S+, since .*\n", errors)
    assert first.wait(timeout=120) == 0
    assert figures(exp) == figures(trained)


def test_a_stopped_run_with_sampled_classes_goes_on_to_the_same_losses(tiny_config, voices, tmp_path):
    words = ("training.sampled_share=0.6", "training.checkpoint_minutes=0.002", "training.epochs=2")
    whole = start(tiny_config, voices, tmp_path / "whole", *words)
    assert whole.wait(timeout=120) == 0, whole.communicate()
    process = start(tiny_config, voices, tmp_path / "killed", *words)
    wait_for_steps(process, tmp_path / "killed", 16)
    process.kill()
    process.communicate(timeout=60)
    resumed = start(tiny_config, voices, tmp_path / "killed", *words, "--resume")
    assert resumed.wait(timeout=120) == 0, resumed.communicate()
    assert figures(tmp_path / "killed") == figures(tmp_path / "whole")


def test_a_finished_run_resumes_to_nothing(trained, tiny_config, voices):
    before = (trained / "log.jsonl").read_bytes()
    process = start(tiny_config, voices, trained, "--resume")
    assert process.wait(timeout=120) == 0
    assert (trained / "log.jsonl").read_bytes() == before


def test_the_log_is_json_with_every_digit(trained):
    for line in (trained / "log.jsonl").read_text().splitlines():
        record = json.loads(line)
        assert json.dumps(record) == line
