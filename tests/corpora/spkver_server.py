"""``spkver`` without its start: one process imports everything and forks for each command.

A recipe calls the command dozens of times, and each start imports torch for seconds. The command's words, its working
directory and its output streams come over a socket; its exit status goes back.
"""

import contextlib
import importlib
import json
import os
import socket
import sys
import traceback

# What the verbs, and the libraries under them, import when they are first used.
USED = (
    "spkver.corpora.voxceleb",
    "spkver.scoring.evaluation",
    "spkver.scoring.stages",
    "spkver.embedding.stage",
    "spkver.training.averaging",
    "spkver.training.trainer",
    "torch._dynamo",
    "pandas",
)

CLIENT = """
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as link:
    link.connect(sys.argv[1])
    socket.send_fds(link, [json.dumps([os.getcwd(), *sys.argv[2:]]).encode()], [1, 2])
    sys.exit(link.recv(1)[0])
"""


def serve(address: str) -> None:
    for name in USED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        print("ready", flush=True)
        server.settimeout(5)
        tests = os.getppid()
        while os.getppid() == tests:  # whoever started it may have been killed
            try:
                link, _ = server.accept()
            except TimeoutError:
                continue
            link.setblocking(True)
            message, streams, _, _ = socket.recv_fds(link, 1 << 16, 2)
            if os.fork() == 0:
                _answer(link, json.loads(message), streams)
            for handle in (link.detach(), *streams):
                os.close(handle)
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _answer(link: socket.socket, message: list[str], streams: list[int]) -> None:
    from spkver.cli import main

    status = 1
    try:
        os.chdir(message[0])
        for stream, handle in zip((1, 2), streams):
            os.dup2(handle, stream)
        status = main(message[1:])
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    link.send(bytes([status]))
    os._exit(0)


if __name__ == "__main__":
    serve(sys.argv[1])
