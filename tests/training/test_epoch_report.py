"""What training says of itself: means over an epoch's steps, and the lines made of them."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from spkver.training.epoch_report import RunningMeans, epoch_line, epoch_progress, training_line


def step(loss, accuracy, grad_norm, clipped=False, skipped=False, lr=0.5, margin=0.1):
    return {
        "loss": loss,
        "accuracy": accuracy,
        "grad_norm": grad_norm,
        "clipped": clipped,
        "skipped": skipped,
        "lr": lr,
        "margin": margin,
    }


def three_steps():
    means = RunningMeans()
    means.add(step(4.0, 0.25, 2.0, clipped=True), items=6, seconds=0.5)
    means.add(step(math.nan, 0.5, math.inf, clipped=True, skipped=True), items=6, seconds=0.25)
    means.add(step(2.0, 0.5, 1.0, lr=0.25, margin=0.2), items=4, seconds=1.25)
    return means


def test_an_epochs_means_are_those_of_its_finite_steps_at_its_last_rate_and_margin():
    assert three_steps().mean() == {
        "loss": 3.0,
        "accuracy": 0.375,
        "lr": 0.25,
        "margin": 0.2,
        "grad_norm": 1.5,
        "clipped": 0.5,
        "skipped": 1,
        "utterances_per_second": 8.0,
    }


def test_the_rate_of_utterances_is_rounded_to_a_tenth():
    means = RunningMeans()
    means.add(step(1.0, 0.0, 1.0), items=10, seconds=3)
    assert means.mean()["utterances_per_second"] == 3.3


def test_an_epoch_of_skipped_steps_has_no_loss():
    means = RunningMeans()
    means.add(step(1.0, 0.5, 1.0, skipped=True), items=6, seconds=0.5)
    assert [key for key, value in means.mean().items() if math.isnan(value)] == [
        "loss",
        "accuracy",
        "grad_norm",
        "clipped",
    ]
    assert means.mean()["skipped"] == 1


def test_means_go_on_from_their_state_and_leave_it_alone():
    whole, state = three_steps(), three_steps().state()
    resumed = RunningMeans(**state)
    for means in (whole, resumed):
        means.add(step(1.0, 1.0, 4.0), items=2, seconds=1.0)
    assert resumed.mean() == whole.mean() != three_steps().mean()
    assert state == three_steps().state()


RECORD = {"loss": 3.0, "accuracy": 0.375, "lr": 0.0012, "margin": 0.2, "utterances_per_second": 81.6}


def test_the_line_of_an_epoch_has_its_figures():
    record = RECORD | {"epoch": 7, "skipped": 0}
    line = "epoch  7/10  loss  3.000  acc 0.375  margin 0.200  lr 1.2e-03  82 utt/s"
    assert epoch_line(record, 10) == line
    measured = record | {"held_out_eer": 0.0312, "held_out_threshold": 0.25, "skipped": 2}
    assert epoch_line(measured, 10) == (f"{line}  held-out EER 3.12% (threshold 0.250)  2 steps skipped as not finite")


def test_the_progress_of_an_epoch_has_its_title_and_begins_where_the_run_was_resumed():
    with epoch_progress(epoch=1, epochs=3, n_steps=50, first_step=20) as progress:
        assert (progress._title, progress._total, progress._unit, progress._done) == ("epoch 2/3", 50, "step", 20)


def test_the_line_above_the_epochs_counts_weights_speakers_and_their_variants():
    encoder, head = nn.Linear(1499, 1000), nn.Bilinear(1, 1, 1)
    plain = SimpleNamespace(speed_factors=[1.0], formant_factors=[1.0])
    assert training_line(encoder, head, 7, plain, 0, "cpu, float32") == (
        "training Linear (1.5 M) + Bilinear on 7 speakers (cpu, float32)"
    )
    encoder.register_parameter("frozen", nn.Parameter(torch.zeros(400_000), requires_grad=False))
    varied = SimpleNamespace(speed_factors=[1.0, 0.9, 1.1], formant_factors=[1.0, 1.1])
    assert training_line(encoder, head, 7, varied, 3, "cpu, float32") == (
        "training Linear (1.9 M, 0.4 M frozen) + Bilinear on 7 speakers x 3 speeds x 2 formant factors, 3 held out "
        "(cpu, float32)"
    )


@pytest.mark.parametrize(("epochs", "title"), [(9, "epoch 2/9"), (10, "epoch  2/10"), (100, "epoch   2/100")])
def test_epochs_stand_below_one_another(epochs, title):
    assert epoch_line(RECORD | {"epoch": 2, "skipped": 0}, epochs).startswith(f"{title}  loss")
