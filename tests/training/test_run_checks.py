"""What is said before the first step: refusals and remarks on schedules."""

import re
from pathlib import Path

import pytest

from spkver.cli import main
from spkver.config import load_config
from spkver.errors import SpkverError
from spkver.training.run_checks import check_start, remarks

CONF = Path(__file__).resolve().parents[2] / "conf"
FINE_TUNES = [*CONF.glob("*_lmf.yaml"), CONF / "finetune.yaml", CONF / "general_voices.yaml"]


@pytest.mark.parametrize("path", FINE_TUNES, ids=lambda path: path.stem)
def test_a_fine_tune_without_a_model_is_refused(path):
    config = load_config(path)
    with pytest.raises(SpkverError, match=r"--init MODEL"):
        check_start(config, None)
    check_start(config, Path("model"))


@pytest.mark.parametrize(
    "path", sorted(set(CONF.glob("*.yaml")) - {*FINE_TUNES, CONF / "lmf.yaml"}), ids=lambda path: path.stem
)
def test_shipped_configurations_need_no_model_and_no_remark(path):
    config = load_config(path)
    check_start(config, None)
    assert remarks(config) == []


def test_frozen_weights_without_a_model_are_refused(tiny_config):
    config = load_config(tiny_config, ['optimizer.freeze=["front_end.*"]'])
    with pytest.raises(SpkverError, match=r"'front_end\.\*' as it is, which is random"):
        check_start(config, None)


def test_a_batch_of_one_is_refused_where_a_norm_needs_more(tiny_config):
    with pytest.raises(SpkverError, match=r"batch\.speakers=1 with batch\.utterances=1"):
        check_start(load_config(tiny_config, ["batch.speakers=1"]), None)
    check_start(load_config(tiny_config, ["batch.speakers=1", "model.embedding_norms=layer"]), None)
    check_start(load_config(tiny_config, ["batch.speakers=1", "batch.utterances=2"]), None)
    check_start(load_config(tiny_config, ["batch.speakers=2"]), None)


@pytest.mark.parametrize(
    "overrides, said",
    [
        (
            ["training.epochs=1"],
            r"end_epoch is 2 and training\.epochs 1: the margin ends at 0\.194 instead of",
        ),
        (["lr_schedule.warmup_epochs=3"], r"warmup_epochs is 3 and training\.epochs 3"),
        (["lr_schedule.final_lr=0.5"], r"final_lr 0\.5 is above optimizer\.lr 0\.01"),
    ],
)
def test_a_schedule_that_does_not_work_out_is_remarked(tiny_config, overrides, said):
    (remark,) = remarks(load_config(tiny_config, overrides))
    assert re.search(said, remark)


@pytest.mark.parametrize(
    "overrides",
    [
        ["lr_schedule.name=constant", "lr_schedule.final_lr=0.5"],  # which a constant rate never comes to
        ["lr_schedule.final_lr=0.01"],
        ["lr_schedule.warmup_epochs=2.9"],
        ["margin_schedule.end_epoch=3"],
    ],
)
def test_a_schedule_that_just_works_out_is_not_remarked(tiny_config, overrides):
    assert remarks(load_config(tiny_config, overrides)) == []


def test_a_head_without_a_margin_needs_no_margin_schedule(tiny_config):
    assert remarks(load_config(tiny_config, ["head={name: softmax}", "training.epochs=1"])) == []


def test_both_are_said_before_any_data_is_read(tiny_config, tmp_path, capsys):
    words = [str(tiny_config), "--data", str(tmp_path / "none"), "--exp", str(tmp_path / "exp")]
    assert main(["train", *words, "init.required=true"]) == 1
    assert "--init MODEL" in capsys.readouterr().err
    assert main(["train", *words, "training.epochs=1"]) == 1
    assert capsys.readouterr().err.startswith("note: margin_schedule.end_epoch is 2")


@pytest.mark.parametrize(
    "override",
    [
        "optimizer.betas=[0.9,1.0]",
        "model.dropout=1.0",
        "model.layer_drop=1.0",
        "optimizer.lr=.inf",
        f"seed={2**70}",
        "data.crop_seconds=1e-9",
        "augment.babble.snr_db=[-1e6,1e6]",
        "augment.reverb.rt60_seconds=[0.0,0.1]",
        "augment.speed_factors=[1.0,1e-6]",
    ],
)
def test_values_that_end_in_nothing_are_refused(tiny_config, override):
    with pytest.raises(SpkverError, match=override.partition("=")[0].replace(".", r"\.")):
        load_config(tiny_config, [override])
