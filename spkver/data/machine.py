"""What a process may use of the machine: its cores and its memory, of which a container has a part."""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

Number = TypeVar("Number", int, float)
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
    return max(1, min([cores, *(math.ceil(quota) for quota in _limits(cgroups, own, "cpu", _cores_of))]))


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


def usable_memory(cgroups: Path = _CGROUPS, own: Path = _OWN_CGROUPS) -> int:
    """The bytes of memory that this process may use: the machine's, or fewer where its container has a limit.

    2**62 on a system that does not say.

    Args:
        cgroups: where control groups are mounted, of version 2 (``memory.max``) or 1 (``memory.limit_in_bytes``).
        own: the file that names this process's groups.
    """
    return min([machine_memory() or 1 << 62, *_limits(cgroups, own, "memory", _memory_of)])


def machine_memory() -> int | None:
    """The bytes of memory of the machine; None on a system that does not say."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _limits(cgroups: Path, own: Path, controller: str, limit_of: Callable[[Path], Number | None]) -> Iterator[Number]:
    """The limits of the groups that this process is in and of those above them."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:  # not on Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount: Path = cgroups / controllers if controllers else cgroups
        # Within a container its own group may be the mount itself, and the path be that outside of it.
        group: Path = mount / path.lstrip("/")
        for folder in (mount, *(each for each in (group, *group.parents) if mount in each.parents)):
            limit = limit_of(folder)
            if limit is not None:
                yield limit


def _cores_of(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii")
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii")
        return None if quota == "max" or int(quota) <= 0 else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _memory_of(folder: Path) -> int | None:
    name = "memory.max" if (folder / "memory.max").is_file() else "memory.limit_in_bytes"
    try:
        text = (folder / name).read_text(encoding="ascii").strip()
        return None if text == "max" else int(text)
    except (OSError, ValueError):
        return None
