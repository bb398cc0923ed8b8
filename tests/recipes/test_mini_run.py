"""The built-in corpus from nothing to losses and an equal error rate that stay what they were."""

import json
from importlib.metadata import version
from pathlib import Path

import pytest

from spkver.cli import main
from spkver.experiment.log import read_log

pytest.importorskip("espeakng_loader", reason="needs the synthesiser: pip install spkver[mini]")

CONF = Path(__file__).resolve().parent.parent.parent / "conf"
SMALL = [
    "model.channels=[8, 16]", "model.d_model=48", "model.n_layers=2", "model.feedforward=96", "model.embed_dim=48",
    "model.pooling_hidden=16", "data.crop_seconds=1.0", "data.held_out_speakers=0", "data.workers=0",
    "batch.speakers=9", "snapshots.speakers=0", "training.epochs=2", "training.keep_last=1", "training.average_last=1",
    "lr_schedule.warmup_epochs=0.5", "margin_schedule.start_epoch=0", "margin_schedule.end_epoch=1",
    "training.precision=float32", "training.device=cpu", "training.threads=1",
]  # fmt: skip
# With this seed the rounding of another CPU, or of torch instead of the kernels, leaves the EER where it is
# and moves losses by less than 1e-4 of themselves.
STEADY = ["seed=3"]


def test_two_epochs_of_the_built_in_corpus_come_to_the_same_losses_and_eer_as_ever(tmp_path, in_this_process):
    if version("espeakng-loader") != "0.2.4":
        pytest.skip("the EER was measured with the voices of espeakng-loader 0.2.4")
    data, exp = tmp_path / "data", tmp_path / "exp"
    test, voices = data / "test", ["--train-voices", "6", "--test-voices", "4", "--sentences", "16"]
    for words in (
        ["prepare", "mini", data, *voices],
        ["train", CONF / "mini.yaml", "--data", data / "train", "--exp", exp, *SMALL, *STEADY],
        ["average", exp],
        ["embed", test, exp],
        ["score", test, exp],
        ["evaluate", test, exp, "scoring.bootstrap=0"],
    ):
        assert main([str(word) for word in words]) == 0
    metrics = json.loads((exp / "metrics.json").read_text())["test/trials"]["cosine"]
    # 480 target and 512 nontarget trials.
    assert metrics["eer"] == pytest.approx(0.1583, abs=0.002)
    losses = [record["loss"] for record in read_log(exp / "log.jsonl", "epoch")]
    assert losses == pytest.approx([12.2754, 11.2651], rel=1e-3)
