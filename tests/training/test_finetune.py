"""Fine-tuning: which rows of the head are kept, where new speakers begin, and what does not fit."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from spkver.cli import main
from spkver.config import load_config
from spkver.data.audio import read_audio
from spkver.data.audio_check import keep_usable
from spkver.data.directory import read_data_directory, write_data_directory
from spkver.data.resampling import speed
from spkver.embedding.extractor import Extractor
from spkver.errors import SpkverError
from spkver.experiment.log import read_log
from spkver.experiment.model_folder import load_model, load_tensors, save_model
from spkver.experiment.paths import Experiment
from spkver.features import Fbank, mean_normalise
from spkver.heads import build_head
from spkver.models import build_encoder
from spkver.training.finetune import Start, freeze, learning_rate_factors, spread_rows
from spkver.training.trainer import Trainer

NEW_HEAD = "head={name: intertopk_subcenter, scale: 32.0, margin: 0.2, easy_margin: false, K: 3, mp: 0.06, k_top: 5, "
NEW_HEAD += "do_lm: false}"
SOFTMAX = "head={name: softmax}"


@pytest.fixture(scope="module")
def directory(voices):
    return keep_usable(read_data_directory(voices), 16000)


@pytest.fixture(scope="module")
def others(directory, tmp_path_factory):
    """The recordings of ``directory`` under names that no model knows."""
    folder = tmp_path_factory.mktemp("others")
    write_data_directory(folder, [replace(u, speaker=f"x{u.speaker}") for u in directory.utterances])
    return keep_usable(read_data_directory(folder), 16000)


@pytest.fixture
def start(tiny_config, tmp_path, capsys):
    """A trainer that starts from a model, and the line that tells what became of the head."""

    def make(directory, init, *overrides):
        experiment = Experiment(tmp_path / "fine_tuned")
        trainer = Trainer(load_config(tiny_config, list(overrides)), directory, experiment, init)
        return trainer, capsys.readouterr().out.removeprefix(f"{init}: ").rstrip("\n")

    return make


@pytest.fixture
def softmax_model(tiny_config, tmp_path):
    """A model with a bias in its head, of three speakers at two speeds, with random weights."""
    config = load_config(tiny_config, [SOFTMAX])
    torch.manual_seed(5)
    head = build_head(config.head, 16, 6)
    head.bias.data.normal_()
    encoder = build_encoder(config.model, 80)
    folder = tmp_path / "softmax"
    save_model(folder, config, {}, encoder.state_dict(), head.state_dict(), ["v1", "v4", "v7"])
    return folder


def mean_embedding(encoder, utterances, speed_factor, formant_factor):
    """One utterance at a time, by the definitions."""
    fbank = Fbank(formant_factors=[1.0, formant_factor])
    embeddings = []
    with torch.inference_mode():
        for utterance in utterances:
            waveform = torch.from_numpy(speed(read_audio(utterance.path, 16000), speed_factor))[None]
            features, average = mean_normalise(fbank(waveform, formants=torch.tensor([1]))[0])
            embeddings.append(encoder.eval()(features, average=average)[0])
    return F.normalize(torch.stack(embeddings).mean(0), dim=0)


def test_other_speakers_begin_at_the_mean_of_their_embeddings_at_each_speed_and_formant_factor(start, others, trained):
    trainer, line = start(others, trained / "model", "augment.formant_factors=[1.0, 1.1]")
    assert line == (
        "kept 0, new 7, dropped 7 speakers; 0 of 28 classes keep their rows, 28 start at the mean of their embeddings"
    )
    encoder = load_model(trained / "model").encoder
    assert all(torch.equal(tensor, trainer.encoder.state_dict()[name]) for name, tensor in encoder.state_dict().items())
    rows = trainer.head.weight.detach()
    assert rows.shape == (28, 16)
    # Xavier's uniform distribution has the variance 2 / (28 + 16); 16 values make a row.
    assert rows.norm(dim=1).tolist() == pytest.approx([math.sqrt(16 * 2 / 44)] * 28, rel=0.1)
    assert rows.norm(dim=1).std() < 1e-6
    for place, (speed_factor, formant_factor) in enumerate([(1.0, 1.0), (1.0, 1.1), (0.9, 1.0), (0.9, 1.1)]):
        for index in (0, 6):
            of_speaker = [u for u in others.utterances if u.speaker == trainer.speakers[index]]
            wanted = mean_embedding(encoder, of_speaker, speed_factor, formant_factor)
            assert F.normalize(rows[7 * place + index], dim=0).tolist() == pytest.approx(wanted.tolist(), abs=2e-5)


def test_a_centre_takes_no_more_utterances_than_asked_for(start, others, trained, monkeypatch):
    embedded = []

    def embed_utterances(extractor, utterances, title):
        embedded.append((extractor.variants[0].speed_factor, utterances))
        return np.ones((len(utterances), 16), np.float32)

    monkeypatch.setattr(Extractor, "embed_utterances", embed_utterances)
    start(others, trained / "model", "init.utterances=2")
    assert [factor for factor, _ in embedded] == [1.0, 0.9]
    for _, utterances in embedded:
        assert len({utterance.id for utterance in utterances}) == 14
    assert embedded[0][1] == embedded[1][1]


def test_sub_centers_lie_around_the_centre_and_apart(start, others, trained):
    trainer, _ = start(others, trained / "model", NEW_HEAD, "init.subcenter_spread=0.2")
    rows = F.normalize(trainer.head.weight.detach().view(14, 3, 16), dim=2)
    encoder = load_model(trained / "model").encoder
    of_speaker = [u for u in others.utterances if u.speaker == trainer.speakers[2]]
    assert rows[2, 0].tolist() == pytest.approx(mean_embedding(encoder, of_speaker, 1.0, 1.0).tolist(), abs=2e-5)
    cosines = torch.einsum("cd,ckd->ck", rows[:, 0], rows)
    assert cosines[:, 1:].flatten().tolist() == pytest.approx([math.cos(math.atan(0.2))] * 28, abs=1e-5)
    assert (rows[:, 1] * rows[:, 2]).sum(1).max() < 0.9999


def test_without_spread_sub_centers_are_the_centre():
    centres, noise = F.normalize(torch.randn(4, 8), dim=1), torch.randn(4, 3, 8)
    rows = spread_rows(centres, noise, 0.0)
    assert torch.allclose(rows, centres[:, None].expand(4, 3, 8), atol=1e-6)


def test_added_speakers_leave_the_old_rows_as_they_are_in_the_new_order(start, directory, trained):
    trainer, line = start(directory, trained / "model", "data.held_out_speakers=0")
    assert line == (
        "kept 7, new 3, dropped 0 speakers; 14 of 20 classes keep their rows, 6 start at the mean of their embeddings"
    )
    before = load_tensors(trained / "model" / "head.safetensors")["weight"]
    old = (trained / "model" / "speakers").read_text().split()
    rows = trainer.head.weight.detach()
    assert trainer.speakers == directory.speakers
    encoder = load_model(trained / "model").encoder
    for index, speaker in enumerate(directory.speakers):
        for turn, factor in enumerate([1.0, 0.9]):
            row = rows[10 * turn + index]
            if speaker in old:
                assert torch.equal(row, before[7 * turn + old.index(speaker)])
            else:
                wanted = mean_embedding(encoder, [u for u in directory.utterances if u.speaker == speaker], factor, 1.0)
                assert F.normalize(row, dim=0).tolist() == pytest.approx(wanted.tolist(), abs=2e-5)


def test_speakers_that_are_gone_take_their_rows_along(start, directory, trained):
    old = (trained / "model" / "speakers").read_text().split()
    trainer, line = start(directory.subset(speakers=old[2:]), trained / "model", "data.held_out_speakers=0")
    assert line == "kept 5, new 0, dropped 2 speakers; 10 of 10 classes keep their rows"
    before = load_tensors(trained / "model" / "head.safetensors")["weight"]
    assert torch.equal(trainer.head.weight.detach(), torch.cat([before[2:7], before[9:]]))


def test_a_speed_that_the_model_does_not_know_is_new_the_others_stay(start, directory, trained):
    trainer, line = start(directory, trained / "model", "augment.speed_factors=[1.0, 1.1, 0.9]")
    assert line == (
        "kept 7, new 0, dropped 0 speakers; 14 of 21 classes keep their rows, 7 start at the mean of their embeddings"
    )
    before = load_tensors(trained / "model" / "head.safetensors")["weight"]
    rows = trainer.head.weight.detach()
    assert torch.equal(rows[:7], before[:7])
    assert torch.equal(rows[14:], before[7:])
    wanted = mean_embedding(
        load_model(trained / "model").encoder,
        [u for u in directory.utterances if u.speaker == trainer.speakers[3]],
        1.1,
        1,
    )
    assert F.normalize(rows[10], dim=0).tolist() == pytest.approx(wanted.tolist(), abs=2e-5)


def test_a_bias_is_kept_with_its_class_and_begins_at_zero_otherwise(start, directory, softmax_model):
    trainer, line = start(directory, softmax_model, SOFTMAX, "data.held_out_speakers=0")
    assert line.startswith("kept 3, new 7, dropped 0 speakers")
    before = load_tensors(softmax_model / "head.safetensors")
    wanted = torch.zeros(20)
    kept = [1, 4, 7, 11, 14, 17]
    wanted[kept] = before["bias"]
    assert torch.equal(trainer.head.bias.detach(), wanted)
    assert torch.equal(trainer.head.weight.detach()[kept], before["weight"])


@pytest.mark.parametrize(
    "override, expected",
    [
        (NEW_HEAD, r"head.safetensors: 'weight' has shape \(14, 16\), wanted is \(42, 16\); .*init.head=rebuild"),
        (SOFTMAX, r"head.safetensors: has no 'bias', wanted is \(14,\); .*init.head=rebuild"),
    ],
)
def test_another_head_is_named_or_rebuilt(start, directory, trained, override, expected):
    with pytest.raises(SpkverError, match=expected):
        start(directory, trained / "model", override)
    trainer, line = start(directory, trained / "model", override, "init.head=rebuild")
    assert line.startswith("kept 0, new 7, dropped 7 speakers; 0 of 14 classes keep their rows")
    encoder = load_model(trained / "model").encoder
    wanted = mean_embedding(encoder, [u for u in directory.utterances if u.speaker == trainer.speakers[0]], 1.0, 1.0)
    assert F.normalize(trainer.head.weight.detach()[0], dim=0).tolist() == pytest.approx(wanted.tolist(), abs=2e-5)


def test_a_weight_without_a_place_is_named_with_its_shape(start, directory, softmax_model):
    with pytest.raises(SpkverError, match=r"'bias' with shape \(6,\) has no place in the configuration's head"):
        start(directory, softmax_model, "data.held_out_speakers=0")


def test_nobody_is_held_out_whom_the_model_was_trained_on(start, directory, trained):
    old = set((trained / "model" / "speakers").read_text().split())
    directory.genders.clear()  # any two make trials
    for seed in range(1, 6):
        trainer, line = start(directory, trained / "model", "data.held_out_speakers=2", f"seed={seed}")
        assert line.startswith("kept 7, new 1, dropped 0 speakers")
        assert old.isdisjoint(utterance.speaker for utterance in trainer.held_out.utterances)


def test_a_stopped_fine_tune_goes_on_without_the_model_that_it_started_from(
    others, trained, tiny_config, tmp_path, monkeypatch, capsys
):
    model = tmp_path / "model"
    model.symlink_to(trained / "model")
    words = ["train", tiny_config, "data.held_out_speakers=2", "training.epochs=2", "training.checkpoint_minutes=1e-9"]
    words += ["--data", others.path]

    def run(exp, *more):
        return main([str(word) for word in [*words, "--exp", tmp_path / exp, *more]])

    assert run("whole", "--init", model) == 0
    original = Trainer._save

    def killed(self):
        original(self)
        if (self.epoch, self.step) == (0, 9):
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_save", killed)
    assert run("stopped", "--init", model) == 130
    monkeypatch.setattr(Trainer, "_save", original)
    model.unlink()
    capsys.readouterr()
    assert run("stopped", "--resume") == 0
    assert "kept" not in capsys.readouterr().out
    logs = [read_log(tmp_path / exp / "log.jsonl", "step") for exp in ("whole", "stopped")]
    assert len(logs[0]) == 32
    assert [r["loss"] for r in logs[0]] == [r["loss"] for r in logs[1]]
    assert main(["average", str(tmp_path / "stopped")]) == 0
    assert (tmp_path / "stopped/model/speakers").read_text() == (tmp_path / "whole/untrained/speakers").read_text()


def test_a_run_that_never_reached_a_checkpoint_begins_again_from_its_model(
    others, trained, tiny_config, tmp_path, monkeypatch, capsys
):
    words = ["train", tiny_config, "training.epochs=1", "--data", others.path, "--exp", tmp_path / "exp"]
    words = [str(word) for word in words]
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_epoch", lambda self, batches: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main([*words, "--init", str(trained / "model")]) == 130
    capsys.readouterr()
    assert main([*words, "--resume"]) == 0
    assert capsys.readouterr().out.startswith(f"{trained / 'model'}: kept 0, new 7, dropped 7 speakers")


def test_what_became_of_a_head_is_said_in_a_line():
    assert str(Start(kept=3, new=2, dropped=1, classes=10, classes_kept=6)) == (
        "kept 3, new 2, dropped 1 speakers; 6 of 10 classes keep their rows, 4 start at the mean of their embeddings"
    )
    assert str(Start(5, 0, 0, 10, 10)) == "kept 5, new 0, dropped 0 speakers; 10 of 10 classes keep their rows"


class Encoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.front = torch.nn.Linear(2, 2)
        self.layers = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)])
        self.norm = torch.nn.BatchNorm1d(2)


def test_frozen_weights_leave_training_and_modules_of_nothing_else_are_named():
    encoder = Encoder()
    modules = freeze(encoder, ["front.*", "layers.[1].weight", "norm.*"])
    assert modules == [encoder.front, encoder.norm]
    assert [name for name, parameter in encoder.named_parameters() if parameter.requires_grad] == [
        "layers.0.weight",
        "layers.0.bias",
        "layers.1.bias",
    ]
    with pytest.raises(SpkverError, match=r"^optimizer.freeze: 'norm.running_mean' moves while 'norm' learns; free"):
        freeze(Encoder(), ["norm.running_mean"])
    assert freeze(Encoder(), []) == []
    assert freeze(encoder, ["*"]) == list(encoder.modules())


def test_the_last_pattern_that_matches_a_weight_gives_its_factor():
    encoder = Encoder()
    found = learning_rate_factors(encoder, {"*": 0.5, "layers.*": 0.25, "*.bias": 2.0})
    names = {parameter: name for name, parameter in encoder.named_parameters()}
    assert {names[parameter]: factor for parameter, factor in found.items()} == {
        "front.weight": 0.5,
        "front.bias": 2.0,
        "layers.0.weight": 0.25,
        "layers.0.bias": 2.0,
        "layers.1.weight": 0.25,
        "layers.1.bias": 2.0,
        "norm.weight": 0.5,
        "norm.bias": 2.0,
    }
    assert set(learning_rate_factors(encoder, {}).values()) == {1.0}
    # Statistics have no rate.
    with pytest.raises(SpkverError, match=r"^optimizer.lr_factors: 'norm.running_\*' matches nothing in the encoder"):
        learning_rate_factors(encoder, {"norm.running_*": 0.5})
    with pytest.raises(SpkverError, match=r"'frontt.\*' matches nothing in the encoder \(did you mean 'front.\*'\?\)$"):
        learning_rate_factors(encoder, {"frontt.*": 0.5})


def test_rows_lie_by_the_tangent_of_the_spread_around_the_first():
    centres = F.normalize(torch.randn(50, 16, generator=torch.Generator().manual_seed(2)), dim=1)
    noise = torch.randn(50, 3, 16, generator=torch.Generator().manual_seed(1))
    rows = spread_rows(centres, noise, 0.75)
    assert rows.shape == (50, 3, 16)
    assert torch.equal(rows[:, 0], centres)
    torch.testing.assert_close(rows.norm(dim=2), torch.ones(50, 3))
    torch.testing.assert_close((rows * centres[:, None]).sum(2)[:, 1:], torch.full((50, 2), 0.8))
    # Each in a direction of its own: what is not along the centre has a cosine of 0 on average.
    aside = rows[:, 1:] - 0.8 * centres[:, None]
    assert abs((aside[:, 0] * aside[:, 1]).sum(1).mean() / 0.36) < 0.1
    assert torch.equal(rows, spread_rows(centres, noise, 0.75))
