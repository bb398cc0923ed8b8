"""Embeddings of files: order, independence of batching, length limits, and bad files."""

import numpy as np
import pytest
import soundfile
import torch

from spkver.config import load_config
from spkver.data.audio import read_audio
from spkver.data.directory import Utterance, read_data_directory
from spkver.data.survey import keep_usable
from spkver.errors import SpkverError
from spkver.extraction import Extractor
from spkver.model_folder import load_model


@pytest.fixture(scope="session")
def directory(voices):
    return keep_usable(read_data_directory(voices), 16000)


@pytest.fixture
def extractor(trained):
    model = load_model(trained / "model")
    return Extractor(model.encoder, model.config)


@pytest.mark.parametrize("batch_seconds", [0.1, 5.0, 100.0])
def test_embeddings_keep_the_order_and_do_not_depend_on_batches(trained, directory, batch_seconds):
    model = load_model(trained / "model")
    config = load_config(trained / "config.yaml", [f"scoring.batch_seconds={batch_seconds}"])
    extractor = Extractor(model.encoder, config)
    together = extractor.embed_utterances(directory.utterances, directory.durations, "")
    alone = np.stack([extractor.embed([read_audio(u.path, 16000)])[0] for u in directory.utterances])
    assert np.abs(together - alone).max() < 1e-5
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


def test_the_whole_utterance_counts(extractor, directory):
    samples = read_audio(directory.utterances[0].path, 16000)
    other = read_audio(directory.utterances[20].path, 16000)
    whole = extractor.embed([np.concatenate([samples, other])])[0]
    assert whole @ extractor.embed([samples])[0] < 0.9999
    assert whole @ extractor.embed([np.concatenate([samples, samples])])[0] < 0.9999


def test_of_a_long_file_the_middle_is_used(trained):
    model = load_model(trained / "model")
    extractor = Extractor(model.encoder, load_config(trained / "config.yaml", ["scoring.max_seconds=1.0"]))
    noise = np.random.default_rng(0).standard_normal(48000).astype(np.float32) * 0.1
    assert np.allclose(extractor.embed([noise])[0], extractor.embed([noise[16000:32000]])[0], atol=1e-6)


def test_seconds_are_those_that_were_embedded(trained):
    model = load_model(trained / "model")
    extractor = Extractor(model.encoder, load_config(trained / "config.yaml", ["scoring.max_seconds=1.0"]))
    waveforms = [np.sin(np.arange(n) * np.arange(n) / 3e3).astype(np.float32) for n in (800, 12000, 48000)]
    # Repetition makes nothing longer, and of the last one a second is taken.
    assert extractor.extract(waveforms).seconds.tolist() == [0.05, 0.75, 1.0]


def test_a_file_of_a_few_samples_is_repeated(extractor):
    assert np.isfinite(extractor.embed([np.full(5, 0.1, np.float32) * [1, -1, 1, -1, 1]])).all()


def test_embedding_leaves_a_training_encoder_in_training(extractor):
    extractor.encoder.train()
    before = {name: tensor.clone() for name, tensor in extractor.encoder.state_dict().items()}
    extractor.embed([np.random.default_rng(0).standard_normal(16000).astype(np.float32)])
    assert extractor.encoder.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in extractor.encoder.state_dict().items())


def test_a_silent_file_is_named(extractor, tmp_path):
    path = tmp_path / "silent.wav"
    soundfile.write(path, np.zeros(16000), 16000)
    with pytest.raises(SpkverError, match=r"silent.wav: silent \(utterance 'u1'\)"):
        extractor.embed_utterances([Utterance("u1", path, "s")], {"u1": 1.0}, "")
