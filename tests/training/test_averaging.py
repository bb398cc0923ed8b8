"""The final model has BatchNorm statistics of its own."""

import torch

from spkver.data.audio import read_audio
from spkver.embedding.extractor import Extractor
from spkver.experiment.model_folder import load_model


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
