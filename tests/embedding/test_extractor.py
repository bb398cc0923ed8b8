"""Embeddings of files: order, independence of batching, length limits, and bad files."""

import threading

import numpy as np
import pytest
import soundfile
import torch

from spkver.config import load_config
from spkver.data.audio import read_audio
from spkver.data.audio_check import keep_usable
from spkver.data.directory import Utterance, read_data_directory
from spkver.embedding.extractor import Extractor
from spkver.errors import SpkverError
from spkver.experiment.model_folder import load_model


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
    together = extractor.embed_utterances(directory.utterances, "")
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


def test_an_utterance_below_a_fifth_of_a_second_is_repeated_up_to_it(extractor):
    samples = np.random.default_rng(0).standard_normal(3200).astype(np.float32)
    for n in (5, 800, 3199):
        short, repeated = samples[:n], np.resize(samples[:n], 3200)
        assert np.abs(extractor.embed([short]) - extractor.embed([repeated])).max() < 1e-6
    assert np.abs(extractor.embed([samples]) - extractor.embed([np.tile(samples, 2)])).max() > 1e-3


def test_embedding_leaves_a_training_encoder_in_training(extractor):
    extractor.encoder.train()
    before = {name: tensor.clone() for name, tensor in extractor.encoder.state_dict().items()}
    extractor.embed([np.random.default_rng(0).standard_normal(16000).astype(np.float32)])
    assert extractor.encoder.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in extractor.encoder.state_dict().items())


def test_an_error_leaves_a_training_encoder_in_training(extractor):
    extractor.encoder.train()
    frozen = next(iter(extractor.encoder.children()))
    frozen.eval()
    extractor.encoder.unnormalised = lambda *features: 1 / 0
    with pytest.raises(ZeroDivisionError):
        extractor.embed([np.ones(3200, np.float32)])
    assert extractor.encoder.training and not frozen.training


def test_threads_that_share_an_encoder_all_have_it_in_evaluation_mode(extractor):
    extractor.encoder.train()
    modes, both, first_left = [], threading.Barrier(2), threading.Event()
    original = extractor.encoder.unnormalised

    def slow(*features):
        both.wait(10)
        if threading.current_thread().name == "second":
            first_left.wait(10)
        modes.append(extractor.encoder.training)
        return original(*features)

    extractor.encoder.unnormalised = slow
    waveform = np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    threads = [threading.Thread(target=extractor.embed, args=([waveform],), name=name) for name in ("first", "second")]
    for thread in threads:
        thread.start()
    threads[0].join(10)
    first_left.set()
    threads[1].join(10)
    assert modes == [False, False]
    assert extractor.encoder.training


@pytest.fixture(params=["zeros", "quiet hiss", "hiss"])
def long_recording(request, voices):
    """Two utterances of a speaker with more than a minute and a half between them, and those utterances alone."""
    level = {"zeros": 0.0, "quiet hiss": 1e-4, "hiss": 1e-3}[request.param]
    talks = [
        np.concatenate([read_audio(voices / f"wav/v3/{take}.wav", 16000) for take in takes])
        for takes in (range(3), range(3, 6))
    ]
    samples = level * np.random.default_rng(0).standard_normal(95 * 16000).astype(np.float32)
    for start, talk in zip((2, 88), talks):
        swell = 0.55 - 0.45 * np.cos(2 * np.pi * 4 * np.arange(len(talk)) / 16000)
        samples[start * 16000 : start * 16000 + len(talk)] += (talk * swell).astype(np.float32)
    return samples


def test_of_a_long_recording_the_speech_is_embedded_wherever_it_lies(extractor, long_recording, tmp_path):
    chosen = extractor.choose(long_recording, "samples")
    speech = np.concatenate([long_recording[2 * 16000 : 6 * 16000], long_recording[88 * 16000 : 92 * 16000]])
    assert chosen.recorded_seconds == 95
    assert 4 < len(chosen.samples) / 16000 < 8
    assert extractor.embed([chosen.samples])[0] @ extractor.embed([speech])[0] > 0.9
    middle = extractor.middle(long_recording)
    assert np.abs(middle).max() < 0.01  # what was embedded before
    soundfile.write(tmp_path / "long.wav", long_recording, 16000, subtype="FLOAT")
    from_file = extractor.read(tmp_path / "long.wav")
    assert np.array_equal(from_file.samples, chosen.samples) and from_file.recorded_seconds == 95


def test_what_has_no_speech_is_refused_in_one_line(extractor, tmp_path):
    rng = np.random.default_rng(0)
    for seconds in (3, 70):
        hiss = (1e-3 * rng.standard_normal(seconds * 16000)).astype(np.float32)
        with pytest.raises(SpkverError, match=r"^a\.wav: no speech found, nothing but a steady sound"):
            extractor.choose(hiss, "a.wav")


def test_a_recording_within_the_limit_is_taken_as_it_is(extractor, directory):
    samples = read_audio(directory.utterances[0].path, 16000)
    assert extractor.choose(samples, "a").samples is samples
    assert np.array_equal(extractor.read(directory.utterances[0].path).samples, samples)


def test_training_embeds_what_has_no_speech_all_the_same(extractor, tmp_path):
    soundfile.write(tmp_path / "hiss.wav", 0.01 * np.random.default_rng(0).standard_normal(48000), 16000)
    found = extractor.embed_utterances([Utterance("u1", tmp_path / "hiss.wav", "s")], "")
    assert np.isfinite(found).all()


def test_a_silent_file_is_named(extractor, tmp_path):
    path = tmp_path / "silent.wav"
    soundfile.write(path, np.zeros(16000), 16000)
    with pytest.raises(SpkverError, match=r"silent.wav: silent \(utterance 'u1'\)"):
        extractor.embed_utterances([Utterance("u1", path, "s")], "")
