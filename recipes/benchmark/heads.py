"""Margin heads with many classes: forward and backward of spkver's chunked loss beside the heads that hold all logits.

``python recipes/benchmark/heads.py [key=value ...]``; see ``heads.yaml``. Each row is a process of its own. Memory is
the highest resident set less what the process held before the step (weights and embeddings included) and less the
gradients. ESPnet's and WeSpeaker's heads are measured where they are installed:
``pip install --no-deps espnet wespeaker-unofficial``.
"""

import importlib.util
import json
import resource
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field

from spkver import native
from spkver.config import load_config
from spkver.config.schema import Count, Section
from spkver.heads import ArcMarginProductIntertopkSubcenter
from spkver.heads.chunked import chunked_loss
from spkver.models.device import choose_dtype

HERE = Path(__file__).parent
MARGIN = 0.2


class Sizes(Section):
    classes: Annotated[list[Count], Field(min_length=1)]
    sub_centers: Annotated[list[Count], Field(min_length=1)]
    batch: Count
    dimensions: Count
    repeats: Count
    most_usual_rows: Count
    seed: Count


# Each: (dimensions, classes, sub-centers) -> (head, its loss of embeddings and labels). The docstring names the row.


def ours_float32(dimensions, classes, k):
    """spkver, chunked, float32"""
    head = ArcMarginProductIntertopkSubcenter(dimensions, classes, margin=MARGIN, K=k)
    return head, lambda embedding, label: chunked_loss(head, embedding, label)[0]


def ours_bfloat16(dimensions, classes, k):
    """spkver, chunked, bfloat16 products"""
    head = ArcMarginProductIntertopkSubcenter(dimensions, classes, margin=MARGIN, K=k)
    return head, lambda embedding, label: chunked_loss(head, embedding, label, "bfloat16")[0]


def torch_float32(dimensions, classes, k):
    """.. without kernels, float32"""
    native.AVAILABLE = False
    return ours_float32(dimensions, classes, k)


def torch_bfloat16(dimensions, classes, k):
    """.. without kernels, bfloat16"""
    native.AVAILABLE = False
    return ours_bfloat16(dimensions, classes, k)


def usual(dimensions, classes, k):
    """spkver, all logits at once"""
    head = ArcMarginProductIntertopkSubcenter(dimensions, classes, margin=MARGIN, K=k)
    return head, lambda embedding, label: F.cross_entropy(head(embedding, label), label)


def espnet(dimensions, classes, k):
    """ESPnet"""
    from espnet2.spk.loss.aamsoftmax_subcenter_intertopk import ArcMarginProduct_intertopk_subcenter

    head = ArcMarginProduct_intertopk_subcenter(dimensions, classes, margin=MARGIN, K=k)
    head.update(MARGIN)  # without it, its penalty is 0
    return head, lambda embedding, label: head(embedding, label)[0]


def wespeaker(dimensions, classes, k):
    """WeSpeaker"""
    # By its path: the package's __init__ imports what --no-deps leaves out.
    path = next(f for f in files("wespeaker-unofficial") if f.as_posix() == "wespeaker/models/projections.py")
    spec = importlib.util.spec_from_file_location("projections", path.locate())
    projections = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(projections)
    head = projections.ArcMarginProduct_intertopk_subcenter(dimensions, classes, margin=MARGIN, K=k)
    head.update(MARGIN)

    def loss(embedding, label):
        logits = head(embedding, label)
        return F.cross_entropy(logits[0] if isinstance(logits, tuple) else logits, label)

    return head, loss


OURS = ours_float32, ours_bfloat16, torch_float32, torch_bfloat16
USUAL = usual, espnet, wespeaker
BFLOAT16 = ours_bfloat16, torch_bfloat16


def measure(build, sizes: Sizes, classes: int, k: int) -> dict:
    """seconds, MiB, and for our rows the gradients' errors, of one head at one size."""
    torch.manual_seed(sizes.seed)
    _, warm_loss = build(sizes.dimensions, 100, k)  # libraries loaded on first use are no memory of the head
    warm_loss(torch.randn(sizes.batch, sizes.dimensions), torch.arange(sizes.batch) % 100).backward()
    head, loss = build(sizes.dimensions, classes, k)
    label = torch.randint(classes, (sizes.batch,))
    # Around their class's first row, as in training: targets at a cosine of about 0.5. Were they much nearer, the
    # gradient's target part would be 1 less almost 1, and the error that of the usual head.
    centre = F.normalize(head.weight.detach()[label * k]) * sizes.dimensions**0.5
    embedding = (0.6 * centre + torch.randn_like(centre)).requires_grad_()

    before, seconds = _resident_now(), []
    for _ in range(sizes.repeats):
        embedding.grad = head.weight.grad = None
        start = time.perf_counter()
        loss(embedding, label).backward()
        seconds.append(time.perf_counter() - start)
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    mib = highest - before - head.weight.grad.nbytes / 2**20
    row = {"seconds": min(seconds), "mib": max(mib, 0)}
    # Where the usual head would not fit, these would be compared with themselves.
    is_reference = build in (ours_float32, torch_float32) and len(head.weight) > sizes.most_usual_rows
    return row | _errors(head, embedding, label, sizes) if build in OURS and not is_reference else row


def _errors(head, embedding, label, sizes: Sizes) -> dict:
    """Of the gradients in ``grad``: norm of the difference from the usual head's, over its norm.

    Where the usual head would not fit, the chunked loss in float32 stands for it.
    """
    ours = embedding.grad, head.weight.grad
    embedding.grad = head.weight.grad = None
    if len(head.weight) > sizes.most_usual_rows:
        chunked_loss(head, embedding, label)[0].backward()
    else:
        F.cross_entropy(head(embedding, label), label).backward()
    expected = embedding.grad, head.weight.grad
    names = "embedding_error", "weight_error"
    return {name: (a.sub_(b).norm() / b.norm()).item() for name, a, b in zip(names, ours, expected)}


def _resident_now() -> float:
    """MiB in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main(overrides: list[str]) -> None:
    """Measure every row, ours first, and print the table."""
    sizes = load_config(HERE / "heads.yaml", overrides, Sizes)
    emulated = choose_dtype("auto", torch.device("cpu")) != torch.bfloat16
    columns = ("seconds", "beside ours", "MiB", "embedding error", "weight error")
    print(f"{'classes':>9} {'K':>2} {'how':<34}" + "".join(f"{name:>17}" for name in columns))
    for classes, k in ((classes, k) for classes in sizes.classes for k in sizes.sub_centers):
        own = None
        for build in (*OURS, *USUAL):
            start = f"{classes:>9,} {k:>2} {build.__doc__:<34}"
            if build in USUAL and classes * k > sizes.most_usual_rows:
                print(f"{start}  not run: more rows than most_usual_rows", flush=True)
                continue
            if build in BFLOAT16 and emulated:
                print(f"{start}  not run: this machine has to emulate bfloat16, which is slow", flush=True)
                continue
            command = [sys.executable, __file__, "--one", build.__name__, str(classes), str(k), *overrides]
            row = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
            if row is None:
                print(f"{start}  not installed", flush=True)
                continue
            own = own or row["seconds"]
            values = [f"{row['seconds']:.3f}", f"{row['seconds'] / own:.2f} x", f"{row['mib']:.0f}"]
            values += [f"{row[key]:.1e}" for key in ("embedding_error", "weight_error") if key in row]
            print(start + "".join(f"{value:>17}" for value in values), flush=True)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments[:1] == ["--one"]:
        name, classes, k = arguments[1:4]
        try:
            row = measure(globals()[name], load_config(HERE / "heads.yaml", arguments[4:], Sizes), int(classes), int(k))
        except (PackageNotFoundError, ModuleNotFoundError):
            row = None
        print(json.dumps(row))
    else:
        main(arguments)
