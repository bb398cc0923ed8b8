"""What training shows: the line that it begins with, the means of an epoch while it runs, and the line that stays."""

import math

from torch import nn

from spkver.config.schema import Augment
from spkver.experiment.progress import Progress
from spkver.heads import Head
from spkver.models import ImportedEncoder


class RunningMeans:
    """Sums over the steps of an epoch; skipped steps count as skipped only."""

    def __init__(self, values: dict | None = None):
        self._values = dict(values or {})

    def add(self, record: dict, items: int, seconds: float) -> None:
        """Add a step's record."""
        new = {"items": items, "seconds": seconds, "skipped": record["skipped"]}
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


def epoch_progress(epoch: int, epochs: int, n_steps: int, first_step: int) -> Progress:
    """Progress through one epoch, counted from 0."""
    return Progress(_epoch_title(epoch + 1, epochs), n_steps, "step", first_step)


def epoch_line(record: dict, epochs: int) -> str:
    """The line that stays of an epoch."""
    line = f"{_epoch_title(record['epoch'], epochs)}  {figures(record)}"
    if "held_out_eer" in record:
        line += f"  held-out EER {record['held_out_eer']:.2%} (threshold {record['held_out_threshold']:.3f})"
    if record["skipped"]:
        line += f"  {record['skipped']} steps skipped as not finite"
    return line


def training_line(
    encoder: nn.Module, head: Head, n_speakers: int, augment: Augment, n_held_out: int, where: str
) -> str:
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
    network = encoder.network if isinstance(encoder, ImportedEncoder) else encoder
    return (
        f"training {type(network).__name__} ({of_encoder}) + {type(head).__name__} on "
        f"{n_speakers} speakers{variants}{held_out} ({where})"
    )


def _epoch_title(epoch: int, epochs: int) -> str:
    return f"epoch {epoch:{len(str(epochs))}}/{epochs}"


def figures(means: dict) -> str:
    """The means of an epoch, in words."""
    return (
        f"loss {means['loss']:6.3f}  acc {means['accuracy']:.3f}  margin {means['margin']:.3f}  "
        f"lr {means['lr']:.1e}  {means['utterances_per_second']:.0f} utt/s"
    )
