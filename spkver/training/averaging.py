"""From an experiment's checkpoints to its final model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from spkver.data.directory import DataDirectory
from spkver.embedding.extractor import Extractor
from spkver.errors import SpkverError
from spkver.experiment.model_folder import fit, save_model
from spkver.experiment.paths import Experiment
from spkver.models import build_encoder
from spkver.models.imported_encoder import require_trust
from spkver.training import checkpoint
from spkver.training.distributed import Ranks
from spkver.training.held_out import HeldOut, split_as_begun
from spkver.training.norm_statistics import renew_statistics


@dataclass(frozen=True)
class Averaged:
    """What was averaged, and how good it is on the held-out speakers (None without any)."""

    epochs: list[int]
    held_out_eer: float | None
    threshold: float | None

    def __str__(self) -> str:
        first, last = self.epochs[0], self.epochs[-1]
        line = f"average of epochs {first}-{last}" if first < last else f"weights of epoch {last}"
        if self.held_out_eer is None:
            return line
        return f"{line}, held-out EER {self.held_out_eer:.2%} (threshold {self.threshold:.3f})"


def average_model(
    experiment: Experiment,
    directory: DataDirectory,
    overrides: Sequence[str] = (),
    device: torch.device | None = None,
    ranks: Ranks | None = None,
) -> Averaged:
    """Average the weights of the last epochs into ``model/``.

    ``overrides`` (``scoring.key=value``) hold for that model from then on, such as its variants; ``device`` is where it
    embeds the training utterances that renew its statistics, and the held-out ones (None: the CPU). These are shared by
    ``ranks``, the first of which writes (None: this process alone).

    The decision threshold of ``spkver verify`` is the one at the EER of the held-out training speakers.

    Raises:
        SpkverError: there are no checkpoints.
    """
    ranks = ranks or Ranks()
    config, run = experiment.read(overrides)
    kept = checkpoint.epochs_kept(experiment.checkpoints)
    if not kept:
        raise SpkverError(f"{experiment.checkpoints}: no epoch is finished yet; train first (or --resume)")
    # The best epoch may be kept from long before: only those in a row with the last belong together.
    last = max(kept)
    epochs = [epoch for epoch in kept if epoch > last - config.training.average_last]
    encoder_weights, head_weights = checkpoint.average([kept[epoch] for epoch in epochs])
    require_trust(config.model, experiment.config_file)
    encoder = build_encoder(config.model, config.features.n_mels)
    fit(encoder, encoder_weights, experiment.checkpoints)
    encoder.to(device)

    train_speakers, held_out_speakers = split_as_begun(directory, experiment.untrained)
    renew_statistics(encoder, directory.subset(speakers=train_speakers), config, ranks)
    eer = threshold = None
    if held_out_speakers:
        held_out = HeldOut.of(
            directory.subset(speakers=held_out_speakers), config.data.held_out_nontargets, config.seed
        )
        eer, threshold = held_out.equal_error_rate(ranks.shared(Extractor(encoder, config)))
    run = {**run, "epochs_averaged": epochs, "held_out_eer": eer, "threshold": threshold}
    if ranks.is_first:
        save_model(experiment.model, config, run, encoder.state_dict(), head_weights, train_speakers)
    return Averaged(epochs, eer, threshold)


def directory_of(experiment: Experiment, data: Path | None) -> Path:
    """The data directory given, or the one that the run was trained on.

    Raises:
        SpkverError: that one is gone, or not known.
    """
    path = data or experiment.recorded_path(experiment.read()[1].get("data"))
    if path is None:
        raise SpkverError(f"{experiment.folder}: does not say where its data directory is; name it with --data")
    if not path.is_dir():
        raise SpkverError(f"{path}: the data directory of this run is gone; name it with --data")
    return path
