"""The architecture picture shows the real model."""

import torch
from torch import nn

from spkver.cli import main
from spkver.experiment.model_folder import load_model
from spkver.models import SpeechEncoderV3
from spkver.pictures.architecture import model_parts, parts_of


def test_parts_come_in_the_order_of_the_data_with_every_parameter_once(trained):
    parts, total, kind = model_parts(trained / "model")
    encoder = load_model(trained / "model").encoder
    assert kind == "SpeechEncoderV3"
    assert total == sum(parameter.numel() for parameter in encoder.parameters())
    assert sum(part.n_parameters * part.times for part in parts) == total
    names = [part.name for part in parts]
    assert names[:5] == [
        "front_end.convs.0",
        "front_end.norms.0",
        "front_end.convs.1",
        "front_end.norms.1",
        "front_end.projection",
    ]
    assert names[-1] == "embedding_norm"
    assert parts[-1].out_shape == (1, encoder.embed_dim)


def test_shapes_are_those_of_a_forward_pass_and_equal_layers_are_joined():
    encoder = SpeechEncoderV3(d_model=32, n_layers=3, feedforward=64, n_heads=2, position="none", time_strides=[1, 2])
    parts = {part.name: part for part in parts_of(encoder, features=torch.zeros(1, 100, 80))}
    assert parts["front_end.convs.0"].out_shape == (1, 32, 100, 40)
    assert parts["front_end.convs.1"].out_shape == (1, 64, 50, 20)
    assert parts["layers.0-2"].times == 3
    assert parts["layers.0-2"].out_shape == (1, 50, 32)
    assert encoder.training


def test_another_model_is_read_as_well():
    model = nn.Sequential(nn.Linear(80, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 8))
    parts = parts_of(model, input=torch.zeros(1, 10, 80))
    assert [(part.name, part.kind, part.n_parameters) for part in parts] == [
        ("0", "Linear", 648),
        ("2", "Linear", 72),
        ("3", "Linear", 72),
    ]


def test_plot_architecture_writes_the_picture(trained, tmp_path):
    assert main(["plot", "architecture", str(trained / "model"), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "architecture.png").stat().st_size > 10_000


def test_a_folder_without_a_model_is_refused(tmp_path, capsys):
    assert main(["plot", "architecture", str(tmp_path)]) == 1
    assert str(tmp_path) in capsys.readouterr().err
