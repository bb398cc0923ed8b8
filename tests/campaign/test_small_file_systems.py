"""Training on a full disk, and with the 64 MiB of /dev/shm that a container has (here less, as batches are small).

Needs root, for mounts in a name space of their own. ``tests/campaign/run.sh`` runs it.
"""

import os
import re
import shutil
import subprocess
import sys

import pytest

from spkver.experiment.log import read_log

SPKVER = f"{sys.executable} -m spkver.cli"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="mounts need root and unshare"),
]


def in_own_name_space(script):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["unshare", "-m", "bash", "-euc", script], capture_output=True, text=True, env=environment)
    assert "Traceback" not in done.stderr
    return done


def losses(exp):
    return [record["loss"] for record in read_log(exp / "log.jsonl", "step")]


@pytest.mark.parametrize("kilobytes", [60, 140, 208, 280])
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(
    trained, tiny_config, voices, tmp_path, kilobytes
):
    small = tmp_path / "small"
    small.mkdir()
    train = f"{SPKVER} train {tiny_config} --data {voices} --exp {small}/exp snapshots.speakers=3"
    done = in_own_name_space(
        f"mount -t tmpfs -o size={kilobytes}k tmpfs {small}\n"
        f"if {train}; then exit 3; fi\n"
        f"mount -o remount,size=16m {small}\n"
        f"again=; [ -e {small}/exp/config.yaml ] && again=--resume\n"
        f"{train} $again\n"
        f"cp -a {small}/exp {tmp_path}/exp\n"
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert re.match(rf"{small}/exp\S*: (cannot be written|training must write here).*\(No space left on device\)", line)
    assert losses(tmp_path / "exp") == losses(trained)
    assert not list((tmp_path / "exp").rglob(".*"))


def test_little_shared_memory_makes_training_slower_and_not_different(trained, tiny_config, voices, tmp_path):
    # A batch has 190 kB; the cache alone would need 4 MB.
    done = in_own_name_space(
        "mount -t tmpfs -o size=100k tmpfs /dev/shm\n"
        f"timeout 300 {SPKVER} train {tiny_config} --data {voices} --exp {tmp_path}/exp data.workers=1\n"
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("/dev/shm is too small for the batches: they come by a pipe")
    assert losses(tmp_path / "exp") == losses(trained)
