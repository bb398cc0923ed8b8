"""Frozen layers stay to the bit and work as in use; others learn at their own rates."""

from pathlib import Path

import numpy as np
import pytest
import torch

from spkver.cli import main
from spkver.config import load_config
from spkver.data.audio_check import keep_usable
from spkver.data.directory import read_data_directory
from spkver.errors import SpkverError
from spkver.experiment.log import read_log
from spkver.experiment.model_folder import load_tensors
from spkver.experiment.paths import Experiment
from spkver.models import build_encoder
from spkver.training.finetune import freeze, learning_rate_factors
from spkver.training.schedules import learning_rate
from spkver.training.trainer import Trainer

CONF = Path(__file__).parents[2] / "conf"
FREEZE = "optimizer.freeze=['front_end.*', 'layers.0.attention*', 'pooled_norm.*', 'embedding_norm.*']"
FACTORS = "optimizer.lr_factors={'layers.*': 0.5, '*.bias': 0.25, 'position.*': 0.1}"


@pytest.fixture
def trainer_of(tiny_config, voices, tmp_path):
    directory = keep_usable(read_data_directory(voices), 16000)

    def make(*overrides, exp="run", resume=False):
        config = load_config(tiny_config, ["training.epochs=2", *overrides])
        return Trainer(config, directory, Experiment(tmp_path / exp), None, resume)

    return make


def state(trainer):
    return {name: tensor.clone() for name, tensor in trainer.encoder.state_dict().items()}


def is_frozen(name):
    return name.startswith(("front_end.", "layers.0.attention", "pooled_norm.", "embedding_norm."))


def step(trainer, watch=False):
    trainer.sampler.set_epoch(0)
    trainer.to_train_mode()
    return trainer.training_step(next(iter(trainer.loader())), 1, 0, trainer.sampler.n_batches, watch)


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_frozen_weights_and_statistics_stay_to_the_bit_and_all_others_move(trainer_of, name):
    trainer = trainer_of(FREEZE, f"optimizer.name={name}", "training.epochs=1")
    assert "M frozen) + ArcMarginProduct" in trainer.description()
    before, head = state(trainer), trainer.head.weight.detach().clone()
    trainer.run({})
    after = state(trainer)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if not is_frozen(name)}
    assert not torch.equal(head, trainer.head.weight)


def test_the_averaged_model_keeps_what_was_frozen(trainer_of, voices, tmp_path):
    trainer = trainer_of(FREEZE)
    before = state(trainer)
    trainer.run({"data": str(voices)})
    assert main(["average", str(tmp_path / "run")]) == 0
    model = load_tensors(tmp_path / "run" / "model" / "model.safetensors")
    assert {name for name in before if torch.equal(before[name], model[name])} == {n for n in before if is_frozen(n)}


def test_a_wholly_frozen_module_works_in_training_as_in_use(trainer_of):
    trainer = trainer_of("optimizer.freeze=['layers.0.*', 'pooled_norm.*']", "model.n_layers=2")
    trainer.to_train_mode()
    modes = {name: module.training for name, module in trainer.encoder.named_modules()}
    assert not modes["layers.0"] and not modes["layers.0.qkv"] and not modes["pooled_norm"]
    assert modes[""] and modes["layers"] and modes["layers.1"] and modes["embedding_norm"]
    x = torch.randn(3, 5, 16)
    layer, learning = trainer.encoder.layers
    torch.testing.assert_close(layer(x, None), layer(x, None), rtol=0, atol=0)
    assert not torch.equal(learning(x, None), learning(x, None))  # dropout


def test_a_partly_frozen_layer_keeps_its_dropout(trainer_of):
    trainer = trainer_of("optimizer.freeze=['layers.0.attention*']")
    trainer.to_train_mode()
    assert trainer.encoder.layers[0].training
    assert not trainer.encoder.layers[0].attention_norm.training


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_with_all_of_the_encoder_frozen_the_head_learns_alone(trainer_of, name):
    trainer = trainer_of("optimizer.freeze=['*']", f"optimizer.name={name}", "training.epochs=1")
    before, head = state(trainer), trainer.head.weight.detach().clone()
    trainer.run({})
    assert all(torch.equal(before[name], tensor) for name, tensor in state(trainer).items())
    assert not torch.equal(head, trainer.head.weight)
    steps = read_log(trainer.experiment.log_file, "step")
    assert np.isfinite([record["loss"] for record in steps]).all()


def test_clipping_and_histograms_see_the_weights_that_learn(trainer_of):
    trainer = trainer_of(FREEZE, "training.clip_norm=0.5")
    record = step(trainer, watch=True)
    named = [*trainer.encoder.named_parameters(), *trainer.head.named_parameters()]
    learning = [parameter for name, parameter in named if not is_frozen(name)]
    assert record["grad_norm"] > 0.5
    assert torch.stack([p.grad.norm() for p in learning]).norm().item() == pytest.approx(0.5, rel=1e-4)
    assert all(parameter.grad is None for name, parameter in named if is_frozen(name))
    groups = trainer.training_step.optimizer.param_groups
    assert {parameter for group in groups for parameter in group["params"]} == set(learning)
    counted = trainer.training_step.gradients.sum(1)
    assert 0 < counted[0] <= sum(parameter.numel() for parameter in learning)
    assert counted.tolist() == [sum(int((p.grad != 0).sum()) for p in learning)] * 2


@pytest.mark.parametrize("name", ["muon", "adamw", "adam", "radam", "nadam", "sgd"])
def test_the_rate_of_each_weight_is_the_schedules_times_the_factor_of_its_last_pattern(trainer_of, name):
    trainer = trainer_of(FACTORS, f"optimizer.name={name}")
    record = step(trainer)
    schedule = learning_rate(trainer.config.lr_schedule, 0.01, 2, 1.0)
    assert record["lr"] == schedule
    groups = trainer.training_step.optimizer.param_groups
    rates = {parameter: group["lr"] for group in groups for parameter in group["params"]}
    assert len(rates) == len([*trainer.encoder.parameters(), *trainer.head.parameters()])
    for name, parameter in trainer.encoder.named_parameters():
        factor = 0.25 if name.endswith(".bias") else 0.5 if name.startswith("layers.") else 1.0
        factor = 0.1 if name.startswith("position.") else factor
        assert rates[parameter] == pytest.approx(schedule * factor), name
    assert rates[trainer.head.weight] == schedule


def test_a_tenth_of_the_rate_moves_weights_by_a_tenth(trainer_of):
    moves = []
    for factors in ("{}", "{'pooling.*': 0.1}"):
        words = (f"optimizer.lr_factors={factors}", "optimizer.name=adamw", "optimizer.weight_decay=0.0")
        trainer = trainer_of(*words)
        before = state(trainer)
        step(trainer)
        moves.append({name: tensor - before[name] for name, tensor in state(trainer).items()})
    for name, move in moves[0].items():
        factor = 0.1 if name.startswith("pooling.") else 1.0
        torch.testing.assert_close(moves[1][name], (factor * move).to(move.dtype), rtol=0.01, atol=2e-7)


def test_without_factors_the_groups_are_those_of_before(trainer_of):
    groups = trainer_of("optimizer.name=adamw").training_step.optimizer.param_groups
    assert [group["weight_decay"] for group in groups] == [0.05, 0.0]
    groups = trainer_of("optimizer.name=muon").training_step.optimizer.param_groups
    assert [group["weight_decay"] for group in groups] == [0.05, 0.05, 0.0]


def test_a_checkpoint_from_before_there_were_factors_goes_on_at_the_schedules_rate(trainer_of):
    trainer = trainer_of()
    groups = trainer.training_step.optimizer.param_groups
    for group in groups:
        del group["lr_factor"]
    record = step(trainer)
    assert [group["lr"] for group in groups] == [record["lr"]] * 3


def test_a_killed_run_with_frozen_layers_and_factors_goes_on_to_the_same_losses(trainer_of, monkeypatch):
    words = (FREEZE, FACTORS, "training.checkpoint_minutes=1e-9")
    whole = trainer_of(*words, exp="whole")
    whole.run({})
    killed = trainer_of(*words, exp="killed")
    save = killed._save

    def save_and_die():
        save()
        if (killed.epoch, killed.step) == (1, 5):
            raise KeyboardInterrupt

    monkeypatch.setattr(killed, "_save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        killed.run({})
    resumed = trainer_of(*words, exp="killed", resume=True)
    resumed.run({})
    logs = [read_log(trainer.experiment.log_file, "step") for trainer in (whole, resumed)]
    assert len(logs[0]) == 28
    assert [(r["loss"], r["grad_norm"]) for r in logs[0]] == [(r["loss"], r["grad_norm"]) for r in logs[1]]
    assert all(torch.equal(tensor, state(whole)[name]) for name, tensor in state(resumed).items())


@pytest.mark.parametrize(
    "override, expected",
    [
        ("freeze=['frontend.*']", r"optimizer.freeze: 'frontend.*' matches nothing .*did you mean 'front_end.\*'\?"),
        ("freeze=['layers.7.*']", r"'layers.7.\*' matches nothing .*did you mean 'layers.0.\*'\?"),
        ("lr_factors={'embeding.weight': 0.1}", r"lr_factors: 'embeding.weight' .*did you mean 'embedding.weight'\?"),
        ("lr_factors={'embedding_norm.*': 0.1}", r"lr_factors: 'embedding_norm.\*' matches nothing"),
        ("freeze=['pooled_norm.running_mean']", r"'pooled_norm.running_mean' moves .*; freeze 'pooled_norm.\*'"),
    ],
)
def test_a_pattern_that_does_nothing_is_named_with_the_nearest(trainer_of, override, expected):
    with pytest.raises(SpkverError, match=expected):
        trainer_of(f"optimizer.{override}")


def test_patterns_are_a_shells_and_freeze_only_what_they_match():
    encoder = torch.nn.Sequential(*[torch.nn.Linear(2, 2) for _ in range(3)])
    assert freeze(encoder, ["[01].weight"]) == []
    assert [p.requires_grad for _, p in encoder.named_parameters()] == [False, True, False, True, True, True]
    assert freeze(encoder, []) == []
    assert freeze(encoder, ["2.*"]) == [encoder[2]]
    factors = learning_rate_factors(encoder, {"*": 0.5, "?.bias": 2.0, "1.*": 0.1})
    assert list(factors.values()) == [0.5, 2.0, 0.1, 0.1, 0.5, 2.0]


def test_a_factor_must_be_a_number_above_zero(tiny_config):
    with pytest.raises(SpkverError, match=r"'optimizer.lr_factors.layers.\*' must be greater than 0, got 0"):
        load_config(tiny_config, ["optimizer.lr_factors={'layers.*': 0}"])


def test_the_shipped_fine_tune_freezes_and_slows_the_lower_layers_of_its_base():
    config = load_config(CONF / "finetune.yaml")
    encoder = build_encoder(config.model, config.features.n_mels)
    assert encoder.front_end in freeze(encoder, config.optimizer.freeze)
    factors = learning_rate_factors(encoder, config.optimizer.lr_factors)
    of_layers = [{factors[parameter] for parameter in layer.parameters()} for layer in encoder.layers]
    assert of_layers == [{0.2}, {0.3}, {0.5}, {0.7}]
    assert factors[encoder.embedding.weight] == 1.0
    assert config.model == load_config(CONF / "base.yaml").model


def test_the_configuration_that_a_model_keeps_serves_as_the_base_of_a_fine_tune(trained, tmp_path):
    text = (CONF / "finetune.yaml").read_text()
    assert text.count("base: base.yaml") == 1
    (tmp_path / "mine.yaml").write_text(text.replace("base: base.yaml", f"base: {trained}/model/config.yaml"))
    config, before = load_config(tmp_path / "mine.yaml"), load_config(trained / "model" / "config.yaml")
    assert config.model == before.model
    assert (config.optimizer.freeze, config.init.utterances) == (["front_end.*"], 20)


def test_a_pattern_like_no_name_at_all_is_told_with_some_name():
    encoder = torch.nn.Sequential(torch.nn.Linear(2, 2))
    with pytest.raises(
        SpkverError, match=r"^optimizer.freeze: 'zzzzzz' matches nothing in the encoder \(did you mean '0"
    ):
        freeze(encoder, ["zzzzzz"])
