"""How many cores work can be spread over."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CGROUPS, _OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def usable_cores(cgroups: Path = _CGROUPS, own: Path = _OWN_CGROUPS) -> int:
    """The cores that this process may use: those that it may run on, or fewer where its container has a CPU quota.

    A container that is given two of 64 cores (``docker run --cpus 2``, a Kubernetes limit) sees all 64, and threads
    beyond its quota only wait. Half a core counts as one.

    Args:
        cgroups: where control groups are mounted, of version 2 (``cpu.max``) or 1 (``cpu.cfs_quota_us``).
        own: the file that names this process's groups.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *(math.ceil(quota) for quota in _quotas(cgroups, own))]))


def worker_count(asked: int | str, processes: int = 1) -> int:
    """The number of data workers: as asked for, or with ``auto`` a core less than there are, one at least.

    Args:
        asked: of each process that trains.
        processes: that share the cores.
    """
    return asked if isinstance(asked, int) else max(usable_cores() // processes - 1, 1)


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """While entered, torch computes on one thread: where others share the cores, or sums must not be divided."""
    import torch  # what only counts cores does without

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _quotas(cgroups: Path, own: Path) -> Iterator[float]:
    """The quotas, in cores, of the groups that this process is in and of those above them."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:  # not on Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = cgroups / controllers if controllers else cgroups
        # Within a container its own group may be the mount itself, and the path be that outside of it.
        group = mount / path.lstrip("/")
        for folder in (mount, *(each for each in (group, *group.parents) if mount in each.parents)):
            quota = _quota_of(folder)
            if quota is not None:
                yield quota


def _quota_of(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii")
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii")
        return None if quota == "max" or int(quota) <= 0 else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
