"""``kill -9`` at random moments of a training, and ``--resume``: losses and bytes as of one that nothing happened to.

``tests/campaign/run.sh`` runs it. Only the training process is killed, as the system does when memory runs out: its
data workers end by themselves.
"""

import os
import signal
import time
from pathlib import Path
from random import Random

import pytest
from children import ended, started

from spkver.experiment.log import read_log

pytestmark = pytest.mark.slow

WORDS = ["data.workers=1", "training.checkpoint_minutes=0.005"]


def test_a_training_that_is_killed_again_and_again_ends_as_if_nothing_had_happened(
    tiny_config, voices, tmp_path, pytestconfig
):
    def words(exp):
        return ["train", str(tiny_config), "--data", str(voices), "--exp", str(tmp_path / exp), *WORDS]

    begun = time.monotonic()
    assert ended(started(words("whole"))) == 0
    seconds = time.monotonic() - begun
    whole = _contents(tmp_path / "whole")

    rng = Random("training")
    kills, runs = 10 * pytestconfig.getoption("--kills", 5), 0
    while kills > 0:
        runs += 1
        exp = tmp_path / f"killed-{runs}"
        status = None
        while status != 0:
            # Before the folder holds a configuration there is nothing to resume.
            again = ["--resume"] if (exp / "config.yaml").exists() else []
            process = started([*words(exp.name), *again])
            if kills > 0:
                time.sleep(seconds * rng.random())
                os.kill(process, signal.SIGKILL)
                kills -= 1
            status = ended(process)
            assert status in (0, -signal.SIGKILL)
        assert _contents(exp) == whole


def _contents(exp: Path) -> tuple:
    """Losses and measures, the names of all files, and the bytes of those that hold no times."""
    log = exp / "log.jsonl"
    steps = [(r["epoch"], r["step"], r["loss"], r["grad_norm"]) for r in read_log(log, "step")]
    epochs = [(r["epoch"], r["loss"], r["held_out_eer"], r["held_out_threshold"]) for r in read_log(log, "epoch")]
    files = {str(path.relative_to(exp)): path for path in exp.rglob("*") if path.is_file()}
    timed = {"log.jsonl", "config.yaml", "untrained/config.yaml", "checkpoints/last.pt"}
    return steps, epochs, {name: name in timed or path.read_bytes() for name, path in files.items()}
