"""Where the time of training goes: `spkver train CONF --data DIR --profile`."""

import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from spkver.errors import SpkverError
from spkver.training.batches import WorkerDied
from spkver.training.trainer import Trainer

# Steps before those that are timed: memory is taken, workers start, files are decoded for the first time.
WARM_UP = 5
WAITING = "waiting for data"
MODEL = ("encoder forward", "head and loss", "backward")


def profile_training(trainer: Trainer, n_steps: int) -> str:
    """Do a few steps as a run would begin, keep nothing of them, and tell where the time went.

    Args:
        trainer: of a run that has not begun.
        n_steps: steps that are timed, at most those of an epoch.

    Returns:
        A table of milliseconds a step, and lines on utterances a second and on arithmetic.

    Raises:
        SpkverError: an epoch has too few steps, a file cannot be read, or a data worker died.
    """
    n_batches = trainer.sampler.n_batches
    n_steps = min(n_steps, n_batches - WARM_UP)
    if n_steps < 1:
        raise SpkverError(f"--profile needs an epoch of more than {WARM_UP} steps; this one has {n_batches}")
    step, clock = trainer.training_step, trainer.training_step.clock
    clock.exact = True
    trainer.to_train_mode()
    try:
        with trainer.batches() as batches:
            for index in range(WARM_UP + n_steps):
                if index == WARM_UP:
                    clock.seconds.clear()
                    started = time.perf_counter()
                with clock(WAITING):
                    batch = next(batches)
                step(batch, 0, index, n_batches)
            seconds = time.perf_counter() - started
    except WorkerDied as died:
        raise SpkverError(str(died)) from None
    parts = {part: spent / n_steps for part, spent in clock.seconds.items()}
    with FlopCounterMode(display=False) as counter:
        step(batch, 0, index, n_batches)
    return _table(parts, seconds / n_steps, len(batch[1]), counter.get_total_flops(), _product_rate(trainer))


def _table(parts: dict[str, float], step_seconds: float, batch: int, flops: int, product_rate: float) -> str:
    parts = parts | {"the rest": step_seconds - sum(parts.values())}
    rows = [f"{part:<18} {1000 * spent:8.1f} ms {spent / step_seconds:7.1%}" for part, spent in parts.items()]
    model = sum(parts[part] for part in MODEL)
    return "\n".join(
        [
            *rows,
            f"{'a step':<18} {1000 * step_seconds:8.1f} ms   {batch / step_seconds:.0f} utterances/s",
            f"{model / step_seconds:.0%} of it in the model (forward, head, backward)",
            f"{flops / 1e9:.0f} GFLOP of products and convolutions a step, {flops / step_seconds / 1e9:.0f} GFLOP/s; "
            f"a plain product of this type makes {product_rate / 1e9:.0f} GFLOP/s here",
        ]
    )


def _product_rate(trainer: Trainer) -> float:
    """Floating point operations a second of one large matrix product of the run's type: the best of a few."""
    size = 2048
    a = torch.ones(size, size, device=trainer.device, dtype=trainer.dtype)
    rates = []
    for _ in range(4):
        start = time.perf_counter()
        a @ a
        if trainer.device.type == "cuda":
            torch.cuda.synchronize(trainer.device)
        rates.append(2 * size**3 / (time.perf_counter() - start))
    return max(rates)
