"""The final model: the mean of the last epochs, with BatchNorm statistics and a threshold of its own."""

import pytest
import torch

import spkver
from spkver.data.audio import read_audio
from spkver.data.directory import read_data_directory
from spkver.embedding.extractor import Extractor
from spkver.experiment.model_folder import load_model, load_tensors, read_speakers
from spkver.scoring.metrics import equal_error_rate


def test_the_model_is_the_average_of_the_last_epochs(trained):
    model = load_model(trained / "model")
    assert model.run["epochs_averaged"] == [2, 3]
    files = [load_tensors(trained / "checkpoints" / f"epoch-00{epoch}.safetensors") for epoch in (2, 3)]
    name = "embedding.weight"
    mean = (files[0][f"encoder.{name}"] + files[1][f"encoder.{name}"]) / 2
    assert torch.allclose(model.encoder.state_dict()[name], mean, atol=1e-7)


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


def test_the_threshold_is_the_score_at_which_both_errors_of_the_held_out_speakers_are_equal(trained, voices):
    run, trained_on = load_model(trained / "model").run, read_speakers(trained / "model")
    directory = read_data_directory(voices)
    voice = spkver.load(trained / "model")
    held_out = [(u.speaker, voice.embed(u.path)) for u in directory.utterances if u.speaker not in trained_on]
    assert len(held_out) == 3 * 6
    pairs = [(one, other) for n, one in enumerate(held_out) for other in held_out[:n]]
    alike = [pair for pair in pairs if directory.genders[pair[0][0]] == directory.genders[pair[1][0]]]
    labels = [one[0] == other[0] for one, other in alike]
    eer, threshold = equal_error_rate([one[1] @ other[1] for one, other in alike], labels)
    assert (run["held_out_eer"], run["threshold"]) == pytest.approx((eer, threshold), abs=1e-4)
    assert voice.threshold == run["threshold"] != eer
