"""The verb ``doctor``: what this machine and this installation have.

Heavy imports stand inside the functions, so that ``spkver --help`` is instant.
"""

import argparse
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from spkver import __version__
from spkver.cli.json_output import add_json, show_both

_NEEDED = ("torch", "numpy", "scipy", "scikit-learn", "soundfile", "pyarrow")
# What an extra brings -> the packages that tell whether it is there.
_EXTRAS = {
    "pictures": ("matplotlib",),
    "mini": ("espeakng-loader",),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "vad": ("silero-vad", "onnxruntime"),
}
_SHARED = Path("/dev/shm")
_SMALL_SHARED = 1 << 30  # bytes; a container has 64 MiB unless it is given more


def add_doctor_verb(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """Give the parser the verb ``doctor``."""
    add_json(verb("doctor", doctor))


def doctor(options) -> None:
    """Say what this machine and installation have: for a first look, and for a report of a fault."""
    found = dict(findings())
    width = max(map(len, found))
    show_both(options, "\n".join(f"{name:<{width}}  {said}" for name, said in found.items()), found)


def findings() -> Iterator[tuple[str, str]]:
    """``(what, what was found)``, one after another."""
    yield "spkver", f"{__version__} in {Path(__file__).resolve().parents[1]}"
    yield "python", f"{platform.python_version()} in {sys.prefix}, {platform.system()} {platform.machine()}"
    yield "packages", ", ".join(f"{name} {_version(name)}" for name in _NEEDED)
    for extra, packages in _EXTRAS.items():
        missing = [name for name in packages if _version(name) is None]
        there = ", ".join(f"{name} {_version(name)}" for name in packages)
        yield f"extra {extra}", f"pip install {' '.join(missing)}" if missing else there
    yield "ffmpeg", shutil.which("ffmpeg") or "not installed: needed for .m4a recordings and .mp4 animations alone"
    yield "GPU", _gpus()
    yield "precision", _precisions()
    yield "kernels", _kernels()
    yield "cores", _cores()
    yield "memory", _memory()
    yield str(_SHARED), _shared_memory()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _gpus() -> str:
    import torch

    if not torch.cuda.is_available():
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
        return f"none that torch sees (it is built with {built}); the CPU computes"
    known = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return ", ".join(f"cuda:{i} {each.name}, {each.total_memory >> 30} GiB" for i, each in enumerate(known))


def _precisions() -> str:
    from spkver.models.device import choose_device, choose_dtype

    device = choose_device("auto")
    devices = [device] if device.type == "cpu" else [device, choose_device("cpu")]
    taken = (f"{str(choose_dtype('auto', each)).removeprefix('torch.')} on the {each.type}" for each in devices)
    return f"training.precision: auto trains in {', '.join(taken)}"


def _kernels() -> str:
    from spkver import native

    if native.AVAILABLE:
        return "in use"
    if os.environ.get("SPKVER_NATIVE") == "0":
        return "not in use, as SPKVER_NATIVE=0 asks for; torch computes in more time"
    return "not in use: not compiled, or of another version (a C compiler with OpenMP, and install spkver again)"


def _cores() -> str:
    from spkver.data.machine import usable_cores

    return f"{usable_cores()} that this process may use, of {os.cpu_count()}"


def _memory() -> str:
    from spkver.data.machine import machine_memory, usable_memory

    of_machine, usable = machine_memory(), usable_memory()
    if of_machine is None:
        return "not known on this system"
    limited = f", {_gibibytes(usable)} in this container" if usable < of_machine else ""
    return f"{_gibibytes(of_machine)}{limited}"


def _shared_memory() -> str:
    if not _SHARED.is_dir():
        return "none: data workers send their batches by pipes"
    usage = shutil.disk_usage(_SHARED)
    said = f"{_gibibytes(usage.free)} free of {_gibibytes(usage.total)}"
    if usage.free >= _SMALL_SHARED:
        return said
    return f"{said}: little; batches go by pipes where it is full (docker run --shm-size=2g gives more)"


def _gibibytes(n_bytes: int) -> str:
    return f"{n_bytes / (1 << 30):.1f} GiB"
