"""BatchNorm statistics of whole utterances, for every BatchNorm that an encoder has."""

import numpy as np
import pytest
import torch

from spkver.config import load_config
from spkver.data.audio_check import keep_usable
from spkver.data.directory import read_data_directory
from spkver.data.variants import ORIGINAL
from spkver.embedding.extractor import Extractor
from spkver.errors import SpkverError
from spkver.models import build_encoder
from spkver.training.norm_statistics import batch_norms, renew_statistics


@pytest.fixture(scope="session")
def directory(voices):
    return keep_usable(read_data_directory(voices), 16000)


def encoder_of(config):
    torch.manual_seed(1)
    return build_encoder(config.model, config.features.n_mels)


def outputs_of(encoder, directory, config):
    """What each BatchNorm makes of whole utterances ``(n_utterances, n_features)``, less its own scale and shift."""
    seen = {norm: [] for norm in batch_norms(encoder)}
    for norm, outputs in seen.items():
        norm.register_forward_hook(lambda module, inputs, output, outputs=outputs: outputs.append(output))
    Extractor(encoder, config, ORIGINAL).embed_utterances(directory.utterances, "")
    return [torch.cat(outputs) for outputs in seen.values()]


@pytest.mark.parametrize("overrides, n_norms", [([], 2), (["model.average_spectrum=true"], 3)])
def test_every_batch_norm_is_renewed(tiny_config, directory, overrides, n_norms):
    config = load_config(tiny_config, overrides)
    encoder = encoder_of(config)
    renew_statistics(encoder, directory, config)
    outputs = outputs_of(encoder, directory, config)
    assert len(outputs) == n_norms
    for values in outputs:
        assert values.mean(0).abs().max() < 1e-3
        # 1 but for what BatchNorm's epsilon takes where a feature hardly moves.
        assert 0.9 < values.std(0).median() <= 1.001


def test_frozen_statistics_stay_and_the_others_are_renewed(tiny_config, directory):
    config = load_config(tiny_config, ["model.average_spectrum=true", 'optimizer.freeze=["pooled_norm.*"]'])
    encoder = encoder_of(config)
    before = encoder.pooled_norm.running_mean.clone()
    renew_statistics(encoder, directory, config)
    assert torch.equal(encoder.pooled_norm.running_mean, before)
    assert encoder.embedding_norm.running_mean.abs().max() > 1e-3
    assert encoder.average_spectrum.norm.running_mean.abs().max() > 0.1


def test_an_encoder_without_batch_norms_is_left_as_it_is(tiny_config, directory):
    config = load_config(tiny_config, ["model.embedding_norms=layer"])
    encoder = encoder_of(config)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    renew_statistics(encoder, directory, config)
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


def test_weights_that_are_not_finite_are_one_line(tiny_config, directory):
    config = load_config(tiny_config)
    encoder = encoder_of(config)
    with torch.no_grad():
        encoder.front_end.projection.weight[0, 0] = np.nan
    with pytest.raises(SpkverError, match="not finite: the weights are damaged"):
        renew_statistics(encoder, directory, config)
