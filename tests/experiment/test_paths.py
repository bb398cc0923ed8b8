"""What an experiment's folder says of the run in it."""

import subprocess
from pathlib import Path

import pytest

from spkver.experiment.paths import describe_run

ROOT = Path(__file__).resolve().parent.parent.parent


def test_a_run_from_a_checkout_knows_its_commit(tmp_path):
    asked = subprocess.run(["git", "-C", ROOT, "ls-files", "spkver/__init__.py"], capture_output=True)
    if asked.returncode or not asked.stdout:
        pytest.skip("needs the tests in a git checkout of spkver")
    head = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    assert describe_run(tmp_path, None)["commit"].rstrip("+") == head
