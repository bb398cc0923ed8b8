"""``spkver doctor``: what a machine and an installation have."""

import json
from importlib.metadata import PackageNotFoundError

import torch

from spkver import __version__, native
from spkver.cli import doctor
from spkver.data import machine
from spkver.data.machine import usable_cores


def found_by(run):
    status, out, _ = run("doctor", "--json")
    assert status == 0
    return json.loads(out)


def test_it_names_versions_device_precision_kernels_and_cores(run):
    found = found_by(run)
    assert found["spkver"].startswith(f"{__version__} in ")
    assert f"torch {torch.__version__.partition('+')[0]}" in found["packages"]
    assert ("none that torch sees" in found["GPU"]) == (not torch.cuda.is_available())
    assert found["precision"].startswith("training.precision: auto trains in ")
    assert (found["kernels"] == "in use") == native.AVAILABLE
    assert found["cores"].startswith(f"{usable_cores()} that this process may use")
    assert found["memory"].split()[1].startswith("GiB") and float(found["memory"].split()[0]) > 0
    out = run("doctor")[1]
    assert [line.split("  ")[0] for line in out.splitlines()] == list(found)


def test_what_is_missing_says_how_to_get_it(run, monkeypatch):
    def version(package):
        if package == "matplotlib":
            raise PackageNotFoundError
        return "1.0"

    monkeypatch.setattr(doctor, "version", version)
    monkeypatch.setattr(native, "AVAILABLE", False)
    monkeypatch.setenv("SPKVER_NATIVE", "0")
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    found = found_by(run)
    assert found["extra pictures"] == "pip install matplotlib"
    assert found["extra vad"] == "silero-vad 1.0, onnxruntime 1.0"
    assert found["ffmpeg"].startswith("not installed")
    assert "SPKVER_NATIVE=0" in found["kernels"]


def test_a_small_shared_memory_and_the_limit_of_a_container_are_told(run, monkeypatch, tmp_path):
    usage = type("Usage", (), {"free": 60 << 20, "total": 64 << 20})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(doctor, "_SHARED", tmp_path)
    monkeypatch.setattr(machine, "usable_memory", lambda: 256 << 20)
    found = found_by(run)
    assert found[str(tmp_path)] == (
        "0.1 GiB free of 0.1 GiB: little; batches go by pipes where it is full (docker run --shm-size=2g gives more)"
    )
    assert found["memory"].endswith(", 0.2 GiB in this container")
    monkeypatch.setattr(machine, "usable_memory", machine.machine_memory)
    assert "container" not in found_by(run)["memory"]
