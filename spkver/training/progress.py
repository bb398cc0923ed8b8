"""What training shows while it runs: a bar in a terminal, plain lines elsewhere."""

import math
import sys
import time

from tqdm import tqdm

# A plain line at most this often, in seconds, where there is no terminal.
_PLAIN_LINE_EVERY = 60.0


class RunningMeans:
    """Sums over the steps of an epoch; skipped steps count as skipped only."""

    def __init__(self, values: dict | None = None):
        self._values = dict(values or {})

    def add(self, record: dict, items: int, seconds: float) -> None:
        """Add a step's record."""
        new = {"steps": 1, "items": items, "seconds": seconds, "skipped": record["skipped"]}
        if not record["skipped"]:
            new |= {key: record[key] for key in ("loss", "accuracy", "grad_norm", "clipped")} | {"finite": 1}
        for key, value in new.items():
            self._values[key] = self._values.get(key, 0) + float(value)
        self._values |= {"lr": record["lr"], "margin": record["margin"]}

    def state(self) -> dict:
        """What ``RunningMeans(**state)`` makes the same sums of."""
        return {"values": dict(self._values)}

    def mean(self) -> dict:
        """The epoch's record: means over finite steps, the last learning rate and margin."""
        values = self._values
        finite = values.get("finite", 0)

        def mean_of(key: str) -> float:
            return values[key] / finite if finite else math.nan

        return {
            "loss": mean_of("loss"),
            "accuracy": mean_of("accuracy"),
            "lr": values["lr"],
            "margin": values["margin"],
            "grad_norm": mean_of("grad_norm"),
            "clipped": mean_of("clipped"),
            "skipped": int(values["skipped"]),
            "utterances_per_second": round(values["items"] / values["seconds"], 1),
        }

    def running(self, record: dict) -> dict:
        """The means so far with the present learning rate and margin."""
        return {**self.mean(), "lr": record["lr"], "margin": record["margin"]}


class Progress:
    """Progress through one epoch."""

    def __init__(self, epoch: int, epochs: int, n_steps: int, first_step: int):
        self._title = _epoch_title(epoch + 1, epochs)
        self._n_steps = n_steps
        self._bar = tqdm(total=n_steps, initial=first_step, desc=self._title, unit="step", leave=False, disable=None)
        self._said = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception) -> None:
        self._bar.close()

    def show(self, step: int, means: dict) -> None:
        """Show the means after ``step``."""
        if not self._bar.disable:
            self._bar.set_postfix_str(_figures(means), refresh=False)
            self._bar.update()
        elif time.monotonic() - self._said > _PLAIN_LINE_EVERY:
            print(f"{self._title}  step {step}/{self._n_steps}  {_figures(means)}", file=sys.stderr, flush=True)
            self._said = time.monotonic()

    @staticmethod
    def epoch_line(record: dict, epochs: int) -> str:
        """The line that stays of an epoch."""
        line = f"{_epoch_title(record['epoch'], epochs)}  {_figures(record)}"
        if "held_out_eer" in record:
            line += f"  held-out EER {record['held_out_eer']:.2%} (threshold {record['held_out_threshold']:.3f})"
        if record["skipped"]:
            line += f"  {record['skipped']} steps skipped as not finite"
        return line


def training_line(encoder, head, n_speakers: int, augment, n_held_out: int, where: str) -> str:
    """What trains on what: the line above the epochs.

    Args:
        encoder, head: the modules.
        n_speakers: trained on.
        augment: the configuration's section; its factors make speakers of their own.
        n_held_out: speakers kept aside.
        where: device and precision.
    """
    parameters = sum(parameter.numel() for parameter in encoder.parameters()) / 1e6
    frozen = sum(parameter.numel() for parameter in encoder.parameters() if not parameter.requires_grad) / 1e6
    of_encoder = f"{parameters:.1f} M, {frozen:.1f} M frozen" if frozen else f"{parameters:.1f} M"
    counts = ((len(augment.speed_factors), "speeds"), (len(augment.formant_factors), "formant factors"))
    variants = "".join(f" x {count} {name}" for count, name in counts if count > 1)
    held_out = f", {n_held_out} held out" if n_held_out else ""
    return (
        f"training {type(encoder).__name__} ({of_encoder}) + {type(head).__name__} on "
        f"{n_speakers} speakers{variants}{held_out} ({where})"
    )


def _epoch_title(epoch: int, epochs: int) -> str:
    return f"epoch {epoch:{len(str(epochs))}}/{epochs}"


def _figures(means: dict) -> str:
    return (
        f"loss {means['loss']:6.3f}  acc {means['accuracy']:.3f}  margin {means['margin']:.3f}  "
        f"lr {means['lr']:.1e}  {means['utterances_per_second']:.0f} utt/s"
    )
