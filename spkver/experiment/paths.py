"""The experiment's folder: its names, the configuration as run, and what it ran on."""

import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import spkver
from spkver.config import Config, dump_config, load_run
from spkver.errors import SpkverError
from spkver.files import atomic_write, is_file, remove_leftovers

# Keys that may differ when a run is resumed: they change no crop and no loss.
_OF_THE_MACHINE = {
    "data.workers",
    "data.prefetch",
    "data.cache_gigabytes",
    "augment.recordings_megabytes",
    "training.log_every",
    "training.head",
}


class Experiment:
    """``exp/NAME/`` and the files in it."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.config_file = self.folder / "config.yaml"
        self.log_file = self.folder / "log.jsonl"
        self.checkpoints = self.folder / "checkpoints"
        self.snapshots = self.folder / "snapshots"
        self.model = self.folder / "model"
        self.untrained = self.folder / "untrained"
        self.metrics_file = self.folder / "metrics.json"
        self.training_lock = self.folder / ".training.lock"

    def remove_leftovers(self) -> None:
        """Remove the temporary files of a training that was killed."""
        for folder in (self.folder, self.checkpoints, self.snapshots, self.untrained):
            remove_leftovers(folder)

    def begin(self, config: Config, run: dict) -> None:
        """Keep the configuration of a new run.

        Raises:
            SpkverError: the folder already holds a run.
        """
        if self.log_file.exists():
            raise SpkverError(f"{self.folder}: already holds a run; go on with --resume, or choose another folder")
        with atomic_write(self.config_file) as file:
            file.write(dump_config(config, run))

    def read(self, overrides: Sequence[str] = ()) -> tuple[Config, dict]:
        """The configuration as run, and what it ran on.

        Raises:
            SpkverError: there is no run in the folder.
        """
        if not is_file(self.config_file):
            raise SpkverError(f"{self.folder}: holds no run (no config.yaml); start it with `spkver train`")
        return load_run(self.config_file, overrides)

    def recorded_path(self, path: str | None) -> Path | None:
        """A path that a run keeps beside its configuration: relative to its folder (runs of before: absolute)."""
        return None if path is None else Path(os.path.normpath(self.folder.resolve() / path))

    def check_same(self, config: Config) -> None:
        """Refuse to resume with other values than the run began with.

        Raises:
            SpkverError: naming the first key that differs.
        """
        before = flat(self.read()[0].model_dump())
        now = flat(config.model_dump())
        for key in [*now, *before]:
            if before.get(key) != now.get(key) and key not in _OF_THE_MACHINE:
                raise SpkverError(
                    f"{self.config_file}: the run began with {key}={before.get(key)}, not {now.get(key)}; "
                    "resume with the same values, or choose another folder"
                )


def epoch_files(folder: Path, suffix: str) -> dict[int, Path]:
    """The files ``epoch-NNN.SUFFIX`` of a folder by epoch, in order."""
    found = {}
    for path in folder.glob(f"epoch-*.{suffix}"):
        match = re.fullmatch(rf"epoch-(\d+)\.{suffix}", path.name)
        if match:
            found[int(match[1])] = path
    return dict(sorted(found.items()))


def describe_run(experiment: Experiment, data: Path, init: Path | None) -> dict:
    """What a run is made of besides its configuration: data, versions, machine, commit.

    Paths are relative to the experiment's folder, see `Experiment.recorded_path`: the file says nothing about the
    machine's folders, and stays right where an experiment moves together with its data.
    """
    import torch  # here, as pictures read what a run left without it

    folder = experiment.folder.resolve()
    return {
        "data": os.path.relpath(Path(data).resolve(), folder),
        "init": None if init is None else os.path.relpath(Path(init).resolve(), folder),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["spkver", *sys.argv[1:]]),
        "spkver": spkver.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
        + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""),
    }


def _commit() -> str | None:
    """The git commit of spkver's own source, with ``+`` when files differ from it; None outside git."""
    source = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", source, *arguments], capture_output=True, text=True, timeout=10)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        # An installed copy may lie inside somebody else's repository.
        if not git("ls-files", Path(__file__).name):
            return None
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.TimeoutExpired):
        return None


def flat(values: dict, prefix: str = "") -> dict:
    """Nested dictionaries as one, by keys such as ``head.margin``."""
    found: dict = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found
