"""Any encoder through all stages: training, resuming, averaging, embedding, fine-tuning, export."""

import numpy as np
import pytest
import torch

import spkver
from spkver.cli import main
from spkver.config import load_config
from spkver.data.audio import read_audio
from spkver.data.audio_check import keep_usable
from spkver.data.directory import read_data_directory
from spkver.embedding.folder import read_embeddings
from spkver.experiment.log import read_log
from spkver.experiment.model_fingerprint import embedding_fingerprint
from spkver.experiment.model_folder import load_model, load_tensors
from spkver.features import EncoderInput
from spkver.models import build_encoder
from spkver.training.norm_statistics import batch_norms, renew_statistics

POOLED = ["model={name: 'networks:Pooled'}"]
SHORT = ["training.epochs=2", "head.margin=0.0", "snapshots.speakers=2", "snapshots.utterances=2"]
OF_SAMPLES = ["model={name: 'networks:OfSamples'}", "features={name: waveform}"]


@pytest.fixture(autouse=True)
def trusted(monkeypatch):
    monkeypatch.setenv("SPKVER_TRUST", "networks")


def run_of(tmp_path_factory, tiny_config, voices, overrides):
    exp = tmp_path_factory.mktemp("exp") / "other"
    assert main(["train", str(tiny_config), "--data", str(voices), "--exp", str(exp), *overrides, *SHORT]) == 0
    return exp


@pytest.fixture(scope="module")
def pooled(tmp_path_factory, tiny_config, voices):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPKVER_TRUST", "networks")
        exp = run_of(tmp_path_factory, tiny_config, voices, POOLED)
        assert main(["average", str(exp)]) == 0
        return exp


@pytest.fixture(scope="module")
def of_samples(tmp_path_factory, tiny_config, voices):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPKVER_TRUST", "networks")
        exp = run_of(tmp_path_factory, tiny_config, voices, OF_SAMPLES)
        assert main(["average", str(exp)]) == 0
        return exp


@pytest.mark.parametrize("name", ["pooled", "of_samples"])
def test_it_learns_is_averaged_embedded_and_scored(name, request, voices, capsys):
    exp = request.getfixturevalue(name)
    losses = [record["loss"] for record in read_log(exp / "log.jsonl", "step")]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert main(["embed", str(voices), str(exp)]) == 0
    assert main(["plda", str(voices), str(exp), "--train", str(voices), "scoring.bootstrap=0"]) in (0, 1)
    embeddings, utts = read_embeddings(exp / "embeddings" / voices.name)
    model = load_model(exp / "model")
    assert model.config.model.embed_dim == 16
    # Whoever computes it by hand has the same.
    samples = torch.from_numpy(read_audio(voices / "wav" / "v3" / "2.wav", 16000))[None]
    features, _, _ = EncoderInput(model.config.features, 16000)(samples)
    expected = model.encoder(features)[0].detach().numpy()
    np.testing.assert_allclose(embeddings[utts.index("v3-2")], expected, atol=1e-5)
    np.testing.assert_allclose(spkver.load(exp / "model").embed(voices / "wav" / "v3" / "2.wav"), expected, atol=1e-5)


def test_a_resumed_run_logs_the_losses_of_one_that_was_not_stopped(pooled, tiny_config, voices, tmp_path, monkeypatch):
    exp = tmp_path / "resumed"
    words = ["train", str(tiny_config), "--data", str(voices), "--exp", str(exp), *POOLED, *SHORT]
    from spkver.training import trainer
    from spkver.training.stopping import StopNow

    finish = trainer.Trainer._finish_epoch

    def stop_after_the_first(self):
        finish(self)
        raise StopNow(15)

    monkeypatch.setattr(trainer.Trainer, "_finish_epoch", stop_after_the_first)
    assert main(words) == 128 + 15
    monkeypatch.setattr(trainer.Trainer, "_finish_epoch", finish)
    assert main([*words, "--resume"]) == 0
    runs = pooled, exp
    both = [[(r["epoch"], r["step"], r["loss"]) for r in read_log(e / "log.jsonl", "step")] for e in runs]
    assert both[0] == both[1]
    assert len(both[0]) == 28


def test_a_model_that_names_code_of_a_stranger_is_refused_in_one_line(pooled, voices, monkeypatch, capsys):
    monkeypatch.delenv("SPKVER_TRUST")
    recording = str(voices / "wav" / "v3" / "2.wav")
    assert main(["verify", recording, recording, "--model", str(pooled / "model")]) == 1
    assert "is the code of networks:Pooled, which spkver does not know" in capsys.readouterr().err
    assert main(["average", str(pooled)]) == 1
    assert "set SPKVER_TRUST=networks" in capsys.readouterr().err


def test_a_fine_tune_starts_from_its_weights_and_freezes_by_pattern(pooled, tiny_config, voices, tmp_path, capsys):
    exp = tmp_path / "fine"
    words = ["training.epochs=1", "snapshots.speakers=0", 'optimizer.freeze=["network.blocks.0.*"]']
    command = ["train", str(tiny_config), "--data", str(voices), "--exp", str(exp), "--init", str(pooled / "model")]
    assert main([*command, *POOLED, *words]) == 0
    assert "kept 7, new 0, dropped 0 speakers" in capsys.readouterr().out
    before, after = (load_tensors(e / "model.safetensors") for e in (pooled / "model", exp / "untrained"))
    assert all(torch.equal(before[name], after[name]) for name in before)
    last = load_tensors(exp / "checkpoints" / "epoch-001.safetensors")
    assert torch.equal(last["encoder.network.blocks.0.weight"], before["network.blocks.0.weight"])
    assert not torch.equal(last["encoder.network.blocks.3.weight"], before["network.blocks.3.weight"])


def test_the_fingerprint_knows_the_class_and_its_arguments(pooled, tmp_path):
    made = embedding_fingerprint(pooled / "model")
    for old, new in (("networks:Pooled", "networks:Started"), ("args: {}", "args: {width: 24}")):
        folder = tmp_path / new.strip("}")[-3:]
        folder.mkdir()
        (folder / "model.safetensors").write_bytes((pooled / "model" / "model.safetensors").read_bytes())
        text = (pooled / "model" / "config.yaml").read_text()
        assert old in text
        (folder / "config.yaml").write_text(text)
        assert embedding_fingerprint(folder) == made
        (folder / "config.yaml").write_text(text.replace(old, new))
        assert embedding_fingerprint(folder) != made


@pytest.mark.parametrize("name", ["of_samples", pytest.param("pooled", marks=pytest.mark.slow)])
def test_it_is_exported_where_it_can_be_traced(name, request, voices, tmp_path, capsys):
    pytest.importorskip("onnxscript", reason="needs the exporter: pip install spkver[onnx]")
    exp = request.getfixturevalue(name)
    assert main(["export", str(exp), str(tmp_path / "model.onnx"), "--data", str(voices)]) == 0
    said = capsys.readouterr().out
    assert ("alone and padded" if name == "pooled" else "alone, as its encoder takes no padding") in said
    assert main(["embed", str(voices), str(exp), "--onnx", str(tmp_path / "model.onnx")]) == 0
    by_onnx, _ = read_embeddings(exp / "embeddings" / f"{voices.name}-onnx")
    main(["embed", str(voices), str(exp)])
    by_torch, _ = read_embeddings(exp / "embeddings" / voices.name)
    np.testing.assert_allclose(by_onnx, by_torch, atol=1e-4)


def test_statistics_of_all_batch_norms_are_those_of_clean_speech(tiny_config, voices):
    config = load_config(tiny_config, POOLED)
    directory = keep_usable(read_data_directory(voices), 16000)
    torch.manual_seed(1)
    encoder = build_encoder(config.model, 80)
    encoder.embed_dim = 16
    renew_statistics(encoder, directory, config)
    outputs = {norm: [] for norm in batch_norms(encoder)}
    for norm, kept in outputs.items():
        norm.register_forward_hook(lambda module, inputs, output, kept=kept: kept.append(output.detach()))
        assert norm.momentum == 0.1
    encoder.eval()
    for utterance in directory.utterances:
        waveform = read_audio(utterance.path, 16000)
        start = (len(waveform) - 8000) // 2
        encoder(EncoderInput(config.features, 16000)(torch.from_numpy(waveform[None, start : start + 8000]))[0])
    for kept in outputs.values():
        values = torch.cat(kept).transpose(0, 1).flatten(1)
        assert values.mean(1).abs().max() < 1e-3
        torch.testing.assert_close(values.var(1), torch.ones(len(values)), atol=0.01, rtol=0)


def test_its_architecture_can_be_drawn(pooled, of_samples):
    pytest.importorskip("matplotlib")
    from spkver.pictures.architecture import architecture, model_parts

    parts, total, kind = model_parts(pooled / "model")
    assert kind == "Pooled"
    assert total == sum(part.n_parameters for part in parts) == 24 * (80 + 1 + 24 + 1 + 2 * 2) + 16 * 25
    architecture(of_samples / "model")
