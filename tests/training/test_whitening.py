"""The whitening of the finished model: what it does to embeddings, and how it is kept."""

import shutil

import numpy as np
import pytest
import torch
from scipy.linalg import fractional_matrix_power

from spkver.config import load_config
from spkver.data.directory import read_data_directory
from spkver.data.survey import keep_usable
from spkver.extraction import Extractor
from spkver.heads import build_head
from spkver.model_folder import load_model, load_tensors, read_speakers, save_tensors
from spkver.models import build_encoder
from spkver.training.init import start_from
from spkver.training.whitening import within_class_whitening


def voices_of(seed=0, n_speakers=12, n_each=9, dim=6):
    """Embeddings of speakers who all vary more along some directions than along others."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((dim, dim)) * np.array([3, 2, 1, 1, 0.5, 0.2])
    centres = rng.standard_normal((n_speakers, dim)).repeat(n_each, 0)
    embeddings = centres + 0.3 * rng.standard_normal((n_speakers * n_each, dim)) @ mixing.T
    speakers = [f"s{number}" for number in range(n_speakers) for _ in range(n_each)]
    order = rng.permutation(len(speakers))
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return torch.from_numpy(unit[order]).float(), [speakers[place] for place in order]


def within(embeddings, speakers):
    embeddings, speakers = np.asarray(embeddings, np.float64), np.array(speakers)
    deviations = [embeddings[speakers == s] - embeddings[speakers == s].mean(0) for s in sorted(set(speakers))]
    return sum(part.T @ part for part in deviations) / len(embeddings)


def test_speakers_vary_equally_in_all_directions_afterwards():
    embeddings, speakers = voices_of()
    covariance = within(embeddings @ within_class_whitening(embeddings, speakers, 0.0), speakers)
    assert np.allclose(covariance, covariance[0, 0] * np.eye(6), atol=1e-4 * covariance[0, 0])
    before = within(embeddings, speakers)
    assert np.linalg.cond(before) > 10


@pytest.mark.parametrize("shrinkage", [0.0, 0.3, 0.9])
def test_it_is_the_inverse_root_of_the_shrunk_covariance(shrinkage):
    embeddings, speakers = voices_of(seed=1)
    covariance = within(embeddings, speakers)
    shrunk = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / 6 * np.eye(6)
    expected = fractional_matrix_power(shrunk, -0.5)
    expected *= 6 / np.trace(expected)
    assert np.allclose(within_class_whitening(embeddings, speakers, shrinkage), expected, atol=1e-4)


def test_nothing_is_whitened_where_that_is_asked_for_or_nobody_speaks_twice():
    embeddings, speakers = voices_of()
    assert torch.equal(within_class_whitening(embeddings, speakers, 1.0), torch.eye(6))
    alone = [f"{speaker}-{place}" for place, speaker in enumerate(speakers)]
    assert torch.equal(within_class_whitening(embeddings, alone, 0.5), torch.eye(6))


def test_fewer_utterances_than_dimensions_give_finite_numbers():
    embeddings, speakers = torch.nn.functional.normalize(torch.randn(4, 50)), ["a", "a", "b", "b"]
    for shrinkage in (0.0, 0.5):
        assert torch.isfinite(within_class_whitening(embeddings, speakers, shrinkage)).all()


def test_the_model_holds_the_whitening_of_its_training_speakers_utterances(trained, voices):
    model = load_model(trained / "model")
    kept = model.encoder.whitening.clone()
    assert not torch.allclose(kept, torch.eye(len(kept)), atol=0.01)
    directory = keep_usable(read_data_directory(voices), 16000).subset(speakers=read_speakers(trained / "model"))
    model.encoder.whitening.copy_(torch.eye(len(kept)))
    extractor = Extractor(model.encoder, model.config)
    raw = extractor.embed_utterances(directory.utterances, directory.durations, "")
    speakers = [utterance.speaker for utterance in directory.utterances]
    shrinkage = model.config.training.whitening_shrinkage
    assert torch.allclose(within_class_whitening(torch.from_numpy(raw), speakers, shrinkage), kept, atol=1e-4)
    model.encoder.whitening.copy_(kept)
    whitened = torch.from_numpy(extractor.embed_utterances(directory.utterances, directory.durations, ""))
    expected = torch.nn.functional.normalize(torch.from_numpy(raw) @ kept)
    assert torch.allclose(whitened, expected, atol=1e-5)


def test_training_does_not_see_it(trained):
    model = load_model(trained / "model")
    features = torch.randn(4, 60, 80)
    model.encoder.train()
    torch.manual_seed(0)
    before = model.encoder(features)
    model.encoder.whitening.mul_(0).add_(torch.randn(16, 16))
    torch.manual_seed(0)
    assert torch.equal(model.encoder(features), before)


def test_a_model_from_before_there_was_one_is_read_without(trained, tmp_path):
    shutil.copytree(trained / "model", tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    tensors = load_tensors(path)
    del tensors["whitening"]
    save_tensors(path, tensors)
    assert torch.equal(load_model(tmp_path / "model").encoder.whitening, torch.eye(16))


def test_a_fine_tune_starts_without_the_whitening_of_its_model(trained, tiny_config, voices):
    config = load_config(tiny_config)
    directory = keep_usable(read_data_directory(voices), 16000).subset(speakers=read_speakers(trained / "model"))
    encoder = build_encoder(config.model, config.features.n_mels)
    head = build_head(config.head, config.model.embed_dim, 2 * len(directory.speakers))
    start_from(trained / "model", encoder, head, directory, config)
    assert torch.equal(encoder.whitening, torch.eye(16))
