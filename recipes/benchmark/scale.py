"""Training in several processes: how many steps and crops a second, and what is exchanged for a step.

    python recipes/benchmark/scale.py [key=value ...]

Sizes stand in ``scale.yaml``. All rows have as many crops a process, so that what a step takes longer than with one
process is the exchange. Crops are made up and there from the start. torchrun starts the processes: those of this
machine, then one on each of two "machines", which are network namespaces with a link between them, as it is and with
the speed of a cable. What a process sends is what the system counted at the link, or at ``lo``, by which other programs
may send as well.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from slow_link import can_delay, delayed_link
from torch.profiler import ProfilerActivity, profile

from spkver.config import load_config
from spkver.config.schema import Count, Section
from spkver.errors import SpkverError
from spkver.heads import build_head
from spkver.models import build_encoder
from spkver.training.distributed import Ranks
from spkver.training.step import TrainingStep

HERE = Path(__file__).resolve().parent
SAMPLE_RATE = 16000
_LINK = "eth0"
_ADDRESS = "10.77.0.{}"
_PORT = 29500


class Sizes(Section):
    configuration: str
    classes: Count
    crops: Count
    crop_seconds: float
    threads: Count
    processes: list[Count]
    warm_up: Count
    steps: Count
    gigabits: float
    milliseconds: float


class Machine(NamedTuple):
    """A network namespace: what comes before a command that runs in it, and its address."""

    inside: list[str]
    address: str


def of_rank(out: Path, link: str, sizes: Sizes) -> None:
    """What torchrun starts: measure the steps of this process and the others; the first writes what it found."""
    torch.set_num_threads(sizes.threads)
    config = load_config(sizes.configuration, ["augment.speed_factors=[1.0]", "augment.formant_factors=[1.0]"])
    with Ranks.of_environment() as ranks:
        torch.manual_seed(1)
        encoder = build_encoder(config.model, config.features.n_mels).train()
        head = build_head(config.head, config.model.embed_dim, sizes.classes).train()
        step = TrainingStep(config, encoder, head, torch.device("cpu"), torch.float32, HERE, ranks)
        waveforms = torch.randn(sizes.crops, round(sizes.crop_seconds * SAMPLE_RATE)) / 10
        labels = (torch.arange(sizes.crops) + ranks.rank * sizes.crops) % sizes.classes
        batch = waveforms, labels, torch.zeros_like(labels)
        for number in range(sizes.warm_up):
            step(batch, 0, number, 1000)
        sent, start = bytes_sent(link), time.perf_counter()
        for number in range(sizes.steps):
            step(batch, 1, number, 1000)
        seconds, sent = (
            (time.perf_counter() - start) / sizes.steps,
            (bytes_sent(link) - sent) / sizes.steps / ranks.local_size,
        )
        exchanges = exchanges_of(lambda: step(batch, 2, 0, 1000)) if ranks.size > 1 else 0
        if ranks.is_first:
            weights = sum(one.numel() for one in (*encoder.parameters(), *head.parameters()))
            out.write_text(json.dumps({"seconds": seconds, "sent": sent, "exchanges": exchanges, "weights": weights}))


def exchanges_of(step: Callable[[], object]) -> int:
    """How often the processes talk to one another in a step."""
    with profile(activities=[ProfilerActivity.CPU]) as watched:
        step()
    return sum(event.count for event in watched.key_averages() if event.key.startswith("gloo:"))


def bytes_sent(link: str) -> int:
    """Bytes that the system has sent by a link so far, heads of packets included."""
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        name, _, counts = line.partition(":")
        if name.strip() == link:
            return int(counts.split()[8])
    return 0


@contextmanager
def two_machines(gigabits: float | None, milliseconds: float) -> Iterator[tuple[list[Machine], str]]:
    """Two network namespaces with a link between them; what the link is like, in words.

    Args:
        gigabits: a second; None: as fast as the machine is.
        milliseconds: that a packet takes, where the system can make it wait.

    Raises:
        SpkverError: no ``ip``, or no rights for namespaces.
    """
    names = (f"spkver-{os.getpid()}-1", f"spkver-{os.getpid()}-2")
    with ExitStack() as stack:
        for name in names:
            _do("ip", "netns", "add", name)
            stack.callback(subprocess.run, ["ip", "netns", "delete", name], capture_output=True, check=False)
        _do("ip", "link", "add", _LINK, "netns", names[0], "type", "veth", "peer", "name", _LINK, "netns", names[1])
        what = "no limit" if gigabits is None else _slow_down(names, gigabits, milliseconds, stack)
        for number, name in enumerate(names, 1):
            _do("ip", "-n", name, "address", "add", f"{_ADDRESS.format(number)}/24", "dev", _LINK)
            for link in ("lo", _LINK):
                _do("ip", "-n", name, "link", "set", link, "up")
        yield [Machine(["ip", "netns", "exec", name], _ADDRESS.format(n)) for n, name in enumerate(names, 1)], what


def _slow_down(names: tuple[str, str], gigabits: float, milliseconds: float, stack: ExitStack) -> str:
    """Give the link its speed and its delay; what became of it, in words."""
    rate = f"{round(1000 * gigabits)}mbit"
    what = f"{gigabits:g} Gbit/s, {milliseconds:g} ms"
    try:
        for name in names:
            slow = ("netem", "delay", f"{milliseconds}ms", "rate", rate, "limit", "100000")
            _do("tc", "-n", name, "qdisc", "add", "dev", _LINK, "root", *slow)
        return what
    except SpkverError:  # a kernel without netem
        pass
    if can_delay():
        _do("ip", "-n", names[0], "link", "delete", _LINK)
        stack.enter_context(delayed_link(names, _LINK, milliseconds / 1000))
        what += " by a program"
    else:
        what = f"{gigabits:g} Gbit/s, no delay: this kernel has no netem"
    for name in names:
        slow = ("tbf", "rate", rate, "burst", "256kb", "latency", "1s")
        _do("tc", "-n", name, "qdisc", "add", "dev", _LINK, "root", *slow)
    return what


def _do(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise SpkverError(f"two machines need {command[0]}, of iproute2, which is not installed") from None
    except subprocess.CalledProcessError as error:
        said = " ".join(error.stderr.split())
        raise SpkverError(f"two machines need rights for network namespaces: {' '.join(command)}: {said}") from None


def run(commands: list[list[str]], environment: dict[str, str]) -> None:
    """Run commands at once.

    Raises:
        SpkverError: one failed.
    """
    started = [subprocess.Popen(command, env={**os.environ, **environment}) for command in commands]
    if any([process.wait() for process in started]):
        raise SpkverError("a process stopped with an error, which stands above")


def row_of(machines: list[Machine], n_processes: int, overrides: list[str], sizes: Sizes) -> dict:
    """What ``n_processes`` on each machine find; without machines, on this one."""
    link = _LINK if machines else "lo"
    # The profiler would say that it finds no GPU.
    environment = {"OMP_NUM_THREADS": str(sizes.threads), "GLOO_SOCKET_IFNAME": link, "KINETO_LOG_LEVEL": "5"}
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "row.json"
        script = [str(HERE / "scale.py"), "--rank", str(out), link, *overrides]
        start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(n_processes)]
        commands = [[*start, "--standalone", *script]]
        if machines:
            meet = ["--nnodes", str(len(machines)), "--rdzv-backend", "c10d", "--rdzv-id", "scale"]
            meet += ["--rdzv-endpoint", f"{machines[0].address}:{_PORT}"]
            commands = []
            for place, machine in enumerate(machines):
                # Both have the name of this computer, which does not say who is who.
                who = ["--rdzv-conf", f"is_host={int(place == 0)}", "--local-addr", machine.address]
                commands.append([*machine.inside, *start, *meet, *who, *script])
        run(commands, environment)
        return json.loads(out.read_text())


def show(title: str, row: dict, n: int, sizes: Sizes) -> None:
    seconds = row["seconds"]
    figures = f"{1 / seconds:9.2f} {n * sizes.crops / seconds:9.1f} {1000 * seconds:9.0f}"
    exchanged = f"{row['sent'] / 1e6:9.2f} {row['exchanges']:9}" if n > 1 else ""
    print(f"{title:62}{figures} {exchanged}".rstrip(), flush=True)


def main(overrides: list[str]) -> None:
    """Measure every row, and print the table."""
    sizes = load_config(HERE / "scale.yaml", overrides, Sizes)
    columns = ("steps/s", "crops/s", "ms a step", "MB sent", "exchanges")
    print(f"{f'{sizes.configuration}, {sizes.crops} crops a process':62}" + " ".join(f"{name:>9}" for name in columns))
    for n in sizes.processes:
        row = row_of([], n, overrides, sizes)
        show(f"{n} of this machine", row, n, sizes)
    try:
        for gigabits in (None, sizes.gigabits):
            with two_machines(gigabits, sizes.milliseconds) as (machines, link):
                show(f"2, on two machines ({link})", row_of(machines, 1, overrides, sizes), 2, sizes)
    except SpkverError as error:
        print(f"not run: {error}")
    print(f"gradients of {row['weights']:,} weights: {4 * row['weights'] / 1e6:.2f} MB")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"]:
        of_rank(Path(sys.argv[2]), sys.argv[3], load_config(HERE / "scale.yaml", sys.argv[4:], Sizes))
    else:
        main(sys.argv[1:])
