"""The average spectrum: what mean normalisation took away reaches the embedding, but for its level."""

import pytest
import torch

from spkver.features import mean_normalise
from spkver.models.average_spectrum import AverageSpectrum
from spkver.models.speech_encoder_v3 import SpeechEncoderV3


def encoder(average_spectrum=True):
    torch.manual_seed(0)
    return SpeechEncoderV3(d_model=32, n_layers=1, n_heads=2, feedforward=64, average_spectrum=average_spectrum).eval()


def log_mel(n_frames=120, seed=1):
    return 10 + 3 * torch.randn(1, n_frames, 80, generator=torch.Generator().manual_seed(seed))


def embed(model, features):
    normalised, average = mean_normalise(features)
    with torch.no_grad():
        return model(normalised, average=average)[0]


def test_a_filter_changes_the_embedding_only_of_an_encoder_that_gets_the_average():
    through_a_filter = log_mel() + torch.linspace(-2, 2, 80)
    hearing, other = encoder(), encoder(average_spectrum=False)
    assert embed(hearing, log_mel()) @ embed(hearing, through_a_filter) < 0.99
    assert embed(other, log_mel()) @ embed(other, through_a_filter) > 1 - 1e-6


def test_the_level_changes_nothing():
    assert embed(encoder(), log_mel()) @ embed(encoder(), log_mel() + 5) > 1 - 1e-5


def test_an_utterance_alone_and_padded_has_one_embedding():
    model, utterances, lengths = encoder(), [log_mel(90, 1), log_mel(160, 2)], torch.tensor([90, 160])
    padded = torch.full((2, 180, 80), 7.0)
    for row, utterance in zip(padded, utterances):
        row[: utterance.shape[1]] = utterance[0]
    features, average = mean_normalise(padded, lengths)
    with torch.no_grad():
        together = model(features, lengths, average)
    for utterance, embedding in zip(utterances, together):
        assert (embed(model, utterance) - embedding).abs().max() < 1e-5


def test_in_training_each_bin_is_standardised_over_the_batch_without_the_level():
    part = AverageSpectrum(8, 8, 0.0).train()
    torch.nn.init.eye_(part.projection.weight)
    torch.nn.init.zeros_(part.projection.bias)
    averages = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 9) + 10
    shapes = averages - averages.mean(1, keepdim=True)
    expected = (shapes - shapes.mean(0)) / shapes.std(0, correction=0)
    torch.testing.assert_close(part(averages)[:, 0], expected, rtol=1e-3, atol=1e-4)


def test_a_share_of_the_training_crops_does_not_get_it_and_all_do_in_evaluation():
    torch.manual_seed(0)
    part = AverageSpectrum(8, 8, 0.25).train()
    told = (part(torch.randn(4000, 8)) != part.projection.bias).any(2)
    assert told.float().mean().item() == pytest.approx(0.75, abs=0.03)
    assert (part.eval()(torch.randn(400, 8)) != part.projection.bias).any(2).all()


def test_a_missing_average_is_named():
    with pytest.raises(ValueError, match="give it what mean_normalise subtracted"):
        encoder()(mean_normalise(log_mel())[0])
