"""A link between two network namespaces on which every packet takes its time, for kernels without netem."""

import fcntl
import os
import select
import struct
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_TUN = "/dev/net/tun"
# Of linux/if_tun.h: give a descriptor its device; a device of whole IP packets, with nothing before them.
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
# Few large packets, so that passing them on leaves the cores to those who compute.
_PACKET = 65_000


def can_delay() -> bool:
    """Whether this system lets a program be a link."""
    return os.access(_TUN, os.R_OK | os.W_OK)


@contextmanager
def delayed_link(namespaces: tuple[str, str], name: str, seconds: float) -> Iterator[None]:
    """A device ``name`` in each namespace; what is sent by one arrives at the other so many seconds later."""
    ends = [_end(namespace, name, number) for number, namespace in enumerate(namespaces)]
    stop = threading.Event()
    passing = threading.Thread(target=_pass_on, args=(ends, seconds, stop))
    passing.start()
    try:
        yield
    finally:
        stop.set()
        passing.join()
        for end in ends:
            os.close(end)


def _end(namespace: str, name: str, number: int) -> int:
    """A device in a namespace; the descriptor by which its packets come here stays."""
    end = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK)
    for_now = f"spkver{os.getpid()}-{number}"[-15:]
    fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH22x", for_now.encode(), _IFF_TUN | _IFF_NO_PI))
    into = ["ip", "link", "set", "dev", for_now, "netns", namespace, "name", name, "mtu", str(_PACKET)]
    subprocess.run(into, check=True)
    return end


def _pass_on(ends: list[int], seconds: float, stop: threading.Event) -> None:
    waiting: deque[tuple[float, int, bytes]] = deque()  # when it is due, to whom, what
    others = dict(zip(ends, reversed(ends)))
    while not stop.is_set():
        left = waiting[0][0] - time.monotonic() if waiting else 0.1
        for end in select.select(ends, [], [], max(left, 0))[0]:
            waiting.append((time.monotonic() + seconds, others[end], os.read(end, 2 * _PACKET)))
        while waiting and waiting[0][0] <= time.monotonic():
            _, end, packet = waiting.popleft()
            with suppress(OSError):  # the other end is not up yet
                os.write(end, packet)
