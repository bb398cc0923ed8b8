"""Learning rate and margin as functions of the position in a run, in epochs (3.5 = half of epoch 4).

Being plain functions, they need no state when a run is resumed.
"""

import math

from spkver.config.schema import LearningRateSchedule, MarginSchedule


def learning_rate(schedule: LearningRateSchedule, peak: float, epochs: int, position: float) -> float:
    """Linear warm-up to ``peak``, then cosine or exponential to ``final_lr`` at the end, or constant.

    The cosine is that of Loshchilov & Hutter (2017) without restarts.
    """
    if position < schedule.warmup_epochs:
        return peak * position / schedule.warmup_epochs
    if schedule.name == "constant":
        return peak
    done = min((position - schedule.warmup_epochs) / max(epochs - schedule.warmup_epochs, 1e-9), 1.0)
    if schedule.name == "exponential":
        return peak * (schedule.final_lr / peak) ** done
    return schedule.final_lr + (peak - schedule.final_lr) * 0.5 * (1 + math.cos(math.pi * done))


def margin(schedule: MarginSchedule, final: float, position: float) -> float:
    """``initial`` until ``start_epoch``, then exponential growth to ``final`` at ``end_epoch``, in radians.

    The growth is fast at first and slow at the end, 1 - 0.001^x scaled to reach ``final``: most of the
    margin is there early, and the last part, where targets get hard, comes gently (as in WeSpeaker).
    """
    if position >= schedule.end_epoch:
        return final
    if position < schedule.start_epoch:
        return schedule.initial
    done = (position - schedule.start_epoch) / (schedule.end_epoch - schedule.start_epoch)
    return schedule.initial + (final - schedule.initial) * (1 - 0.001**done) / (1 - 0.001)
