"""The final model: which epochs it averages, BatchNorm statistics of its own, its EER and threshold."""

import os
import re
import shutil
from pathlib import Path

import pytest
import torch

from spkver.data.audio import read_audio
from spkver.data.audio_check import keep_usable
from spkver.data.directory import read_data_directory
from spkver.embedding.extractor import Extractor
from spkver.errors import SpkverError
from spkver.experiment.model_folder import load_model, load_tensors, read_speakers
from spkver.experiment.paths import Experiment
from spkver.training.averaging import Averaged, average_model, directory_of
from spkver.training.held_out import HeldOut


def test_whole_training_utterances_are_centred_with_unit_variance(trained, voices):
    model = load_model(trained / "model")
    speakers = set((trained / "model" / "speakers").read_text().split())
    assert len(speakers) == 7
    of = dict(line.split() for line in (voices / "utt2spk").read_text().splitlines())
    paths = [path for utt, path in (line.split() for line in (voices / "wav.scp").open()) if of[utt] in speakers]
    extractor = Extractor(model.encoder, model.config)
    for norm in (model.encoder.pooled_norm, model.encoder.embedding_norm):
        seen = []
        hook = norm.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output))
        for path in paths:
            extractor.embed([read_audio(voices / path, 16000)])
        hook.remove()
        values = torch.cat(seen)
        scale, shift = (norm.weight, norm.bias) if norm.affine else (torch.tensor(1.0), torch.tensor(0.0))
        assert (values.mean(0) - shift).abs().max() < 1e-3
        assert (values.std(0) / scale.abs() - 1).abs().max() < 0.03  # BatchNorm's epsilon takes a little


@pytest.fixture
def experiment(trained, tmp_path):
    return Experiment(shutil.copytree(trained, tmp_path / "exp"))


def test_the_last_epochs_in_a_row_are_averaged_and_a_best_one_of_long_before_is_not(experiment, voices):
    directory = keep_usable(read_data_directory(voices), 16000)
    epochs = {path.name: path for path in experiment.checkpoints.glob("epoch-*")}
    assert sorted(epochs) == ["epoch-002.safetensors", "epoch-003.safetensors"]
    shutil.copy(epochs["epoch-002.safetensors"], experiment.checkpoints / "epoch-001.safetensors")
    done = average_model(experiment, directory, ["scoring.max_seconds=30"])
    assert done.epochs == [2, 3]
    weights = [load_tensors(epochs[name]) for name in sorted(epochs)]
    model = load_model(experiment.model)
    name = "embedding.weight"
    mean = (weights[0][f"encoder.{name}"] + weights[1][f"encoder.{name}"]) / 2
    assert torch.allclose(model.encoder.state_dict()[name], mean, atol=1e-7)
    head = (weights[0]["head.weight"] + weights[1]["head.weight"]) / 2
    assert torch.allclose(load_tensors(experiment.model / "head.safetensors")["weight"], head, atol=1e-7)
    assert model.config.scoring.max_seconds == 30
    assert read_speakers(experiment.model) == read_speakers(experiment.untrained)

    trained_on = read_speakers(experiment.untrained)
    held_out = directory.subset(speakers=set(directory.speakers) - set(trained_on))
    config = model.config
    eer, threshold = HeldOut.of(held_out, config.data.held_out_nontargets, config.seed).equal_error_rate(
        Extractor(model.encoder, config)
    )
    assert (done.held_out_eer, done.threshold) == pytest.approx((eer, threshold), abs=1e-6)
    found = {key: model.run[key] for key in ("epochs_averaged", "held_out_eer", "threshold")}
    assert found == {"epochs_averaged": [2, 3], "held_out_eer": done.held_out_eer, "threshold": done.threshold}
    assert model.run["data"] == experiment.read()[1]["data"]  # what the run was made of stays


def test_without_an_epoch_there_is_nothing_to_average(experiment, voices):
    for path in experiment.checkpoints.glob("epoch-*"):
        path.unlink()
    with pytest.raises(SpkverError, match=rf"^{experiment.checkpoints}: no epoch is finished yet; train first"):
        average_model(experiment, read_data_directory(voices))


def test_what_was_averaged_is_said_in_a_line():
    assert str(Averaged([3, 4, 5], 0.03125, 0.25)) == "average of epochs 3-5, held-out EER 3.12% (threshold 0.250)"
    assert str(Averaged([3, 4], None, None)) == "average of epochs 3-4"
    assert str(Averaged([4], None, None)) == "weights of epoch 4"


def test_the_data_is_what_was_named_or_what_the_run_knows(experiment, voices, tmp_path):
    def with_data(path):
        text = re.sub(r"\n  data: .*", "" if path is None else f"\n  data: {path}", text_as_run)
        experiment.config_file.write_text(text)
        return experiment

    text_as_run = experiment.config_file.read_text()
    assert directory_of(with_data(voices), None) == voices  # as earlier versions kept it
    assert directory_of(with_data(os.path.relpath(voices, experiment.folder)), None) == voices
    assert directory_of(with_data("/nowhere"), tmp_path) == tmp_path
    with pytest.raises(SpkverError, match=r"^/nowhere: the data directory of this run is gone; name it with --data$"):
        directory_of(with_data("/nowhere"), None)
    with pytest.raises(SpkverError, match=r"^/gone: the data directory of this run is gone"):
        directory_of(with_data(voices), Path("/gone"))
    assert directory_of(with_data(None), tmp_path) == tmp_path
    with pytest.raises(SpkverError, match=rf"^{experiment.folder}: does not say where its data directory is; name it"):
        directory_of(with_data(None), None)
