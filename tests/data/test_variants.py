"""Views: the embedding of an utterance from its recording at several speeds and with several vocal tracts."""

import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml

from spkver.cli import main
from spkver.config import dump_config, load_config
from spkver.data.resampling import resample_up_down, speed
from spkver.data.variants import ORIGINAL, Variant
from spkver.embedding.extractor import Extractor
from spkver.embedding.folder import read_embeddings
from spkver.errors import SpkverError
from spkver.experiment.model_folder import load_model, read_config
from spkver.export.resampler import Resampler
from spkver.export.waveform_encoder import WaveformEncoder
from spkver.features import Fbank, mean_normalise
from spkver.scoring.backend_folder import Backend
from spkver.verification.speaker_store import SpeakerStore
from spkver.verification.verifier import load

PAIRS = [(1.0, 1.0), (1.0, 0.8), (0.9, 1.1), (0.9, 0.8), (1.1, 1.0), (0.9, 1.0)]
VARIANTS = [f"scoring.variants={[list(pair) for pair in PAIRS]}"]


def noise(n, seed):
    return (0.1 * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


@pytest.fixture
def config(trained):
    return load_config(trained / "config.yaml", VARIANTS)


@pytest.fixture
def of_envelopes(trained):
    """As `config`, with formant factors that leave the harmonics in place."""
    return load_config(trained / "config.yaml", [*VARIANTS, "features.formant_envelope_hz=120"])


@pytest.fixture
def encoder(trained):
    return load_model(trained / "model").encoder


@pytest.mark.parametrize("variants", ["[[0.9, 1.0]]", "[[1.0, 1.0], [0.9]]", "[[1.0, 1.0], [1.0, 1.0]]"])
def test_variants_that_are_none_are_refused_by_name(tiny_config, variants):
    with pytest.raises(
        SpkverError, match=r"key 'scoring.variants' must hold pairs .speed factor, formant factor., first"
    ):
        load_config(tiny_config, [f"scoring.variants={variants}"])


def test_an_embedding_is_those_of_its_variants_side_by_side(encoder, config):
    extractor = Extractor(encoder, config)
    waveform = noise(20000, 1)
    parts, lengths = [], []
    with torch.inference_mode():
        for speed_factor, formant_factor in PAIRS:
            played = torch.from_numpy(speed(waveform, speed_factor))[None]
            features, average = mean_normalise(Fbank(formant_factors=[formant_factor])(played)[0])
            raw = encoder.eval().unnormalised(features, average=average)[0]
            parts.append(F.normalize(raw, dim=0))
            lengths.append(raw.norm().item())
    extracted = extractor.extract([waveform])
    assert extractor.embed_dim == 6 * 16
    assert extracted.embeddings[0] == pytest.approx((torch.cat(parts) / 6**0.5).numpy(), abs=1e-5)
    assert np.linalg.norm(extracted.embeddings[0]) == pytest.approx(1, abs=1e-5)
    assert extracted.magnitudes[0] == pytest.approx(np.mean(lengths), rel=1e-4)


def test_the_cosine_of_two_utterances_is_the_mean_over_like_variants(encoder, config):
    waveforms = [noise(20000, 1), noise(32000, 2)]
    a, b = Extractor(encoder, config).embed(waveforms)
    alike = [np.prod(Extractor(encoder, config, [variant]).embed(waveforms), axis=0).sum() for variant in PAIRS]
    assert a @ b == pytest.approx(np.mean(alike), abs=1e-5)


def test_with_the_recording_alone_nothing_changes(encoder, trained):
    waveform = noise(20000, 1)
    plain = Extractor(encoder, read_config(trained / "model"))
    assert plain.variants == ORIGINAL
    with torch.inference_mode():
        features, average = mean_normalise(Fbank()(torch.from_numpy(waveform)[None])[0])
        expected = encoder.eval()(features, average=average)
    assert plain.embed([waveform]) == pytest.approx(expected.numpy(), abs=1e-6)


def test_variants_do_not_depend_on_batch_mates(encoder, config):
    extractor = Extractor(encoder, config)
    waveforms = [noise(n, n) for n in (5, 3000, 20000, 47001)]
    together = extractor.embed(waveforms)
    alone = np.concatenate([extractor.embed([waveform]) for waveform in waveforms])
    assert np.abs(together - alone).max() < 1e-5


@pytest.mark.parametrize("up, down", [(10, 9), (10, 11), (5, 4), (4, 5), (2, 1), (1, 3), (100, 97), (1, 1)])
def test_the_graph_resamples_as_files_are(up, down):
    waveforms = [noise(n, n) for n in (1, 37, 1000, 4999)]
    padded = torch.from_numpy(np.stack([np.pad(w, (0, 5000 - len(w)), constant_values=7) for w in waveforms]))
    resampled, lengths = Resampler(up, down)(padded, torch.tensor([len(w) for w in waveforms]))
    for row, n, waveform in zip(resampled, lengths, waveforms):
        expected = resample_up_down(waveform, up, down)
        assert n == len(expected)
        assert row[:n].numpy() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("formants", ["config", "of_envelopes"])
def test_the_graph_makes_the_variants_that_python_makes(encoder, formants, request):
    extractor = Extractor(encoder, request.getfixturevalue(formants))
    waveforms = [noise(n, n) for n in (700, 3000, 20000, 47001)]
    padded = torch.from_numpy(np.stack([np.pad(w, (0, 48000 - len(w)), constant_values=3) for w in waveforms]))
    with torch.inference_mode():
        embeddings, magnitudes = WaveformEncoder(extractor)(padded, torch.tensor([len(w) for w in waveforms]))
    expected = extractor.extract(waveforms)
    assert np.abs(embeddings.numpy() - expected.embeddings).max() < 1e-4
    assert magnitudes.numpy() == pytest.approx(expected.magnitudes, rel=1e-4)


def test_variants_move_the_envelope_alone_where_the_configuration_says_so(encoder, config, of_envelopes):
    waveform = noise(20000, 1)
    embedding, stretched = (
        Extractor(encoder, of_envelopes).embed([waveform])[0],
        Extractor(encoder, config).embed([waveform])[0],
    )
    assert embedding[:16] == pytest.approx(stretched[:16], abs=1e-5)
    assert np.abs(embedding[16:32] - stretched[16:32]).max() > 1e-3
    played = torch.from_numpy(speed(waveform, 0.9))[None]
    fbank = Fbank(formant_factors=[1.0, 1.1], formant_envelope_hz=120.0)
    with torch.inference_mode():
        features, average = mean_normalise(fbank(played, formants=torch.tensor([1]))[0])
        expected = encoder.eval()(features, average=average)[0]
    assert embedding[32:48] * 6**0.5 == pytest.approx(expected.numpy(), abs=1e-5)


def test_a_class_of_another_voice_is_one_view(encoder, config):
    waveform = noise(20000, 3)
    changed = Extractor(encoder, config, [Variant(0.9, 1.0)]).embed([waveform])
    assert np.abs(changed - Extractor(encoder, config, ORIGINAL).embed([speed(waveform, 0.9)])).max() < 1e-5


@pytest.fixture
def in_variants(trained, config, tmp_path):
    """The model of `trained`, in six variants."""
    shutil.copytree(trained, tmp_path / "exp")
    for folder in (tmp_path / "exp", tmp_path / "exp" / "model"):
        run = yaml.safe_load((folder / "config.yaml").read_text())["run"]
        (folder / "config.yaml").write_text(dump_config(config, run))
    return tmp_path / "exp"


def test_speakers_enrolled_in_other_variants_are_refused(trained, in_variants, voices, tmp_path):
    recording = next(voices.rglob("*.wav"))
    SpeakerStore(tmp_path / "people", trained / "model").enroll("anna", [recording])
    assert load(in_variants / "model").embed_dim == 96
    with pytest.raises(SpkverError, match="made by other weights or settings than those of"):
        SpeakerStore(tmp_path / "people", in_variants / "model").identify(recording)


def test_a_trained_model_gets_other_variants_and_counts_as_another(trained, voices, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "exp")
    before = Backend(tmp_path / "exp" / "model").digest
    assert main(["average", str(tmp_path / "exp"), "--data", str(voices), *VARIANTS]) == 0
    model = load_model(tmp_path / "exp" / "model")
    assert [tuple(variant) for variant in model.config.scoring.variants] == PAIRS
    assert Backend(tmp_path / "exp" / "model").digest != before
    assert main(["average", str(tmp_path / "exp"), "--data", str(voices)]) == 0
    assert Backend(tmp_path / "exp" / "model").digest == before
    assert main(["average", str(tmp_path / "exp"), "--data", str(voices), "optimizer.lr=1"]) == 1
    assert (
        "override 'optimizer.lr=1': the model is trained; only scoring.* can still be changed"
        in capsys.readouterr().err
    )


def test_the_stages_make_the_variants_of_the_configuration(in_variants, voices):
    assert main(["average", str(in_variants), "--data", str(voices)]) == 0
    assert main(["embed", str(voices), str(in_variants)]) == 0
    embeddings = read_embeddings(in_variants / "embeddings" / voices.name)[0]
    assert embeddings.shape[1] == 96
    assert np.linalg.norm(embeddings, axis=1) == pytest.approx(1, abs=1e-5)


def test_the_epochs_of_a_training_embed_the_original_alone(tiny_config, voices, tmp_path, monkeypatch):
    embedded = []
    embed_utterances = Extractor.embed_utterances

    def watched(extractor, *arguments):
        embedded.append((arguments[-1], extractor.variants))
        return embed_utterances(extractor, *arguments)

    monkeypatch.setattr(Extractor, "embed_utterances", watched)
    words = ["train", tiny_config, "--data", voices, "--exp", tmp_path / "run", *VARIANTS, "training.epochs=1"]
    assert main([str(word) for word in words]) == 0
    assert {variants for title, variants in embedded if title == "held-out EER"} == {ORIGINAL}
    assert main(["average", str(tmp_path / "run")]) == 0
    assert [len(variants) for title, variants in embedded if title == "held-out EER"] == [1, 6]
