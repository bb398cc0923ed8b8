"""What can be known of a run before its first step: it cannot work, or hardly as it was meant."""

from pathlib import Path

from spkver.config import Config
from spkver.config.schema import SpeechEncoderV3
from spkver.errors import SpkverError
from spkver.training.schedules import margin


def check_start(config: Config, init: Path | None) -> None:
    """Refuse what could only fail, or learn nothing.

    Args:
        config: of the run.
        init: the model to start from.

    Raises:
        SpkverError: ``init.required``, or frozen weights, and no ``init``; batches of one with BatchNorms.
    """
    own = config.model if isinstance(config.model, SpeechEncoderV3) else None
    if config.batch.speakers * config.batch.utterances < 2 and own and own.embedding_norms == "batch":
        raise SpkverError(
            "batch.speakers=1 with batch.utterances=1 leaves a BatchNorm nothing to take a mean of; raise one of them"
        )
    if init is not None:
        return
    if config.init.required:
        raise SpkverError(
            "this configuration goes on from a trained model: name it by --init MODEL "
            "(init.required=false trains without one)"
        )
    if config.optimizer.freeze and own:  # another encoder may be built from trained weights
        raise SpkverError(
            f"optimizer.freeze keeps '{config.optimizer.freeze[0]}' as it is, which is random without a trained model: "
            "name one by --init MODEL, or set optimizer.freeze=[]"
        )


def remarks(config: Config) -> list[str]:
    """Lines on schedules that the run does not reach the end of, or that run the wrong way."""
    found, epochs = [], config.training.epochs
    final = getattr(config.head, "margin", 0.0)
    reached = margin(config.margin_schedule, final, epochs)
    if abs(reached - final) > 1e-9:
        found.append(
            f"margin_schedule.end_epoch is {config.margin_schedule.end_epoch:g} and training.epochs {epochs}: the "
            f"margin ends at {reached:.3f} instead of head.margin {final:g}; lower the one, or raise the other"
        )
    schedule, peak = config.lr_schedule, config.optimizer.lr
    if schedule.warmup_epochs >= epochs:
        found.append(
            f"lr_schedule.warmup_epochs is {schedule.warmup_epochs:g} and training.epochs {epochs}: the learning rate "
            "rises to the end; lower the one, or raise the other"
        )
    if schedule.name != "constant" and schedule.final_lr > peak:
        found.append(
            f"lr_schedule.final_lr {schedule.final_lr:g} is above optimizer.lr {peak:g}: the learning rate rises to "
            "the end; lower it"
        )
    return found
