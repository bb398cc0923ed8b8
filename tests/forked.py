"""``spkver``, or a script, as a process of its own, without the seconds that its imports take each time.

A server imports once what training needs and forks for each command. It has computed nothing, so that no thread of
its own is lost in a fork.
"""

import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    ["spkver.training.trainer", "spkver.embedding.stage", "spkver.pictures.run", "sklearn.metrics", "torch._dynamo"]
)


class Forked:
    """A ``spkver`` command under way, with what is used here of `subprocess.Popen`; output goes to files.

    >>> Forked("train", config, "--data", data, "--exp", exp).communicate(timeout=60)    # doctest: +SKIP
    """

    def __init__(self, *words, environment: dict[str, str] | None = None):
        # Removed when this object is.
        self._files = [tempfile.NamedTemporaryFile("r", encoding="utf-8") for _ in range(2)]  # noqa: SIM115
        paths = [file.name for file in self._files]
        self._process = _SERVER.Process(target=_run, args=([str(word) for word in words], *paths, environment or {}))
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            self._process.kill()
            raise subprocess.TimeoutExpired("spkver", timeout, *(file.read() for file in self._files))
        return self.returncode

    def communicate(self, timeout: float = 60) -> tuple[str, str]:
        self.wait(timeout)
        output, errors = (file.read() for file in self._files)
        return output, errors

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def environments(n: int) -> list[dict[str, str]]:
    """What torchrun tells each of ``n`` processes on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n)}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(n)]


def on_ranks(n: int, function: Callable, *arguments) -> list:
    """What ``function(*arguments)`` returns in each of ``n`` processes, started as torchrun does."""
    queues = [_SERVER.SimpleQueue() for _ in range(n)]
    started = [
        _SERVER.Process(target=_put, args=(queue, environment, function, arguments), daemon=True)
        for queue, environment in zip(queues, environments(n))
    ]
    for process in started:
        process.start()
    results = [queue.get() for queue in queues]
    for process in started:
        process.join()
    return results


def _put(queue, environment: dict[str, str], function: Callable, arguments: tuple) -> None:
    os.environ.update(environment)
    queue.put(function(*arguments))


def run_script(words: list[str], cores: set[int]) -> tuple[int, str]:
    """Run ``words``, a Python script and what it is given, on some cores.

    Returns:
        Its exit status and standard output; what it writes to standard error is written to this process's.
    """
    with tempfile.NamedTemporaryFile("r", encoding="utf-8") as output, tempfile.NamedTemporaryFile("r") as errors:
        process = _SERVER.Process(target=_run_script, args=(words, cores, output.name, errors.name))
        process.start()
        process.join()
        sys.stderr.write(errors.read())
        return process.exitcode, output.read()


def _run_script(words: list[str], cores: set[int], output: str, errors: str) -> None:
    for path, stream in ((output, 1), (errors, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), stream)
    os.sched_setaffinity(0, cores)
    multiprocessing.set_start_method(None, force=True)
    sys.argv = words
    sys.path.insert(0, os.path.dirname(words[0]))
    runpy.run_path(words[0], run_name="__main__")


def _run(words: list[str], output: str, errors: str, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    for path, stream in ((output, 1), (errors, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), stream)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # For its own children, as in a process that was started from a shell.
    multiprocessing.set_start_method(None, force=True)
    from spkver.cli import main

    status = main(words)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)
