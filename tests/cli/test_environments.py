"""The command where the environment is not what it usually is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "conf" / "mini.yaml"


def start(shell, **environment):
    """A command line in which ``$spkver`` is the command."""
    environment = {"spkver": f"{sys.executable} -m spkver", "PATH": os.environ["PATH"], **environment}
    environment["PYTHONPATH"] = str(ROOT)
    return subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=60, env=environment)


def test_the_command_runs_as_a_module_in_an_environment_without_a_home():
    done = start(f"$spkver config {CONFIG}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("seed: 1\n")


@pytest.mark.parametrize(
    "streams, said",
    [("<&-", "seed: 1"), (">&-", ""), ("2>&-", "seed: 1"), (">&- 2>&- <&-", "")],
    ids=["input", "output", "error", "all"],
)
def test_closed_standard_streams_do_no_harm(tmp_path, streams, said):
    done = start(f"$spkver config {CONFIG} {streams}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(said) and bool(done.stdout) == bool(said)
    # A mistake keeps its exit status, and what it says goes into no file that was opened meanwhile.
    done = start(f"$spkver config {CONFIG} head.margni=1 {streams}")
    assert (done.returncode, done.stdout) == (1, "")


def test_a_closed_stream_is_not_the_number_of_the_next_file(tmp_path):
    body = "from spkver.cli.standard_streams import open_closed_streams as o; o(); "
    body += "print(open('x', 'w').fileno(), flush=True)"
    for streams in ("<&-", "2>&-", "<&- 2>&-"):
        done = start(f'cd {tmp_path}; {sys.executable} -c "{body}" {streams}')
        assert int(done.stdout) > 2, done.stderr


def test_progress_needs_no_standard_error(tmp_path):
    speakers = [f"s{n}" for n in range(6)]
    pairs = [(a, b) for a in speakers for b in speakers]
    (tmp_path / "utt2spk").write_text("".join(f"{s}-{n} {s}\n" for s in speakers for n in range(2)))
    (tmp_path / "trials").write_text("".join(f"{int(a == b)} {a}-0 {b}-1\n" for a, b in pairs))
    (tmp_path / "scores").write_text("".join(f"{a}-0 {b}-1 {int(a == b)}\n" for a, b in pairs))
    done = start(f"cd {tmp_path}; $spkver evaluate --scores scores --trials trials --utt2spk utt2spk 2>&-")
    assert done.returncode == 0
    assert " 0.00 %" in done.stdout
