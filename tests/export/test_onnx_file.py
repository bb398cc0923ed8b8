"""``spkver export FILE.onnx``: one file that does what Python does, and what its users do with it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from spkver.cli import main
from spkver.data.trial_making import make_trials
from spkver.data.trials import write_trials
from spkver.embedding.extractor import Extractor
from spkver.embedding.folder import read_embeddings, read_measures
from spkver.experiment.model_folder import load_model
from spkver.export import onnx_file
from spkver.export.waveform_encoder import WaveformEncoder
from spkver.features import INT16_RANGE
from spkver.scoring.backend_folder import Backend

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "onnx_embed.py"


def run(*words):
    return main([str(word) for word in words])


@pytest.fixture(scope="module")
def exported(trained, voices, tmp_path_factory):
    """An experiment with its files: exp/, model.onnx and int8.onnx."""
    folder = tmp_path_factory.mktemp("exported")
    shutil.copytree(trained, folder / "exp")
    assert run("export", folder / "exp", folder / "model.onnx") == 0
    with pytest.MonkeyPatch.context() as patch:
        # The graph that the first export has made already: it is what takes the time.
        patch.setattr(onnx_file, "_graph", lambda extractor: onnx.load(folder / "model.onnx"))
        assert run("export", folder / "exp" / "model", folder / "int8.onnx", "--int8", "--data", voices) == 0
    return folder


@pytest.fixture(scope="module")
def extractor(trained):
    model = load_model(trained / "model")
    return Extractor(model.encoder, model.config)


@pytest.fixture(scope="module")
def session(exported):
    return onnxruntime.InferenceSession(exported / "model.onnx")


def embed(session, waveforms, padding=0.0):
    lengths = np.array([len(waveform) for waveform in waveforms])
    padded = np.full((len(waveforms), lengths.max()), padding, np.float32)
    for row, waveform in zip(padded, waveforms):
        row[: len(waveform)] = waveform
    return session.run(["embedding", "magnitude"], {"waveform": padded, "lengths": lengths})


def moved_by_rounding(extractor, speech):
    """How far embeddings move when samples do by what float32 rounds off on their way to a spectrum.

    That is half a unit in the last place of the loudest in each of the FFT's stages, of which weak bands, and so their
    logarithms, are made in the end. Two ways of computing the same may each be as far off.
    """
    stages = np.log2(extractor.fbank.n_fft)
    size = np.finfo(np.float32).eps / 2 * stages
    rng = np.random.default_rng(0)
    moved = [waveform + size * np.abs(waveform).max() * rng.uniform(-1, 1, len(waveform)) for waveform in speech]
    moved = [waveform.astype(np.float32) for waveform in moved]
    return np.abs(extractor.embed(speech) - extractor.embed(moved)).max()


def noise(n, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


@pytest.mark.parametrize("n_samples", [7, 399, 3199, 3200, 3201, 16000, 48123, 200000])
def test_a_waveform_of_any_length_has_the_embedding_of_python(session, extractor, n_samples):
    waveform = noise(n_samples)
    embedding, magnitude = embed(session, [waveform])
    expected = extractor.extract([waveform])
    assert embedding.shape == expected.embeddings.shape
    assert np.abs(embedding - expected.embeddings).max() < 1e-4
    assert (embedding * expected.embeddings).sum() > 0.99999
    assert magnitude == pytest.approx(expected.magnitudes, rel=1e-4)


@pytest.fixture(scope="module")
def other(tiny_config, voices, tmp_path_factory):
    """Another experiment and its files, with every part that the first has not: an export takes half a minute."""
    folder = tmp_path_factory.mktemp("other")
    shape = ["model.average_spectrum=true", "model.position=rotary", "model.embedding_norms=layer"]
    words = [*shape, "scoring.variants=[[1.0, 1.0], [0.9, 1.1]]"]
    assert run("train", tiny_config, "--data", voices, "--exp", folder / "exp", *words) == 0
    assert run("average", folder / "exp") == 0
    assert run("export", folder / "exp", folder / "model.onnx") == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_file, "_graph", lambda extractor: onnx.load(folder / "model.onnx"))
        assert run("export", folder / "exp", folder / "int8.onnx", "--int8", "--data", voices) == 0
    return folder


@pytest.mark.slow
def test_rotary_position_layer_norms_the_average_spectrum_and_variants_are_trained_averaged_and_exported(other):
    model = load_model(other / "exp" / "model")
    assert model.encoder.layers[0].rotary
    assert model.encoder.average_spectrum.norm.running_var.std() > 0
    extractor = Extractor(model.encoder, model.config)
    assert extractor.embed_dim == 2 * 16
    waveforms = [noise(n, n) for n in (3300, 16000, 40000)]
    found, magnitudes = embed(onnxruntime.InferenceSession(other / "model.onnx"), waveforms, np.nan)
    expected = extractor.extract(waveforms)
    assert np.abs(found - expected.embeddings).max() < 1e-4
    assert magnitudes == pytest.approx(expected.magnitudes, rel=1e-4)


@pytest.mark.slow
def test_one_encoder_embeds_all_variants_in_the_exported_file(other):
    graph = onnx.load(other / "int8.onnx").graph
    matrices = [each for each in graph.initializer if len(each.dims) == 2 and min(each.dims) >= 16]
    kinds = [each.data_type for each in matrices]
    # Weights of an encoder for each variant would be left as they are, and the file as large as before.
    assert kinds.count(onnx.TensorProto.INT8) >= 6
    assert kinds.count(onnx.TensorProto.FLOAT) <= 1


def test_a_model_without_norms_of_its_embedding_is_trained_averaged_and_ready_for_export(tiny_config, voices, tmp_path):
    exp = tmp_path / "exp"
    assert run("train", tiny_config, "--data", voices, "--exp", exp, "model.embedding_norms=none") == 0
    assert run("average", exp) == 0
    model = load_model(exp / "model")
    assert not any(name.endswith("running_mean") for name in model.encoder.state_dict())
    extractor = Extractor(model.encoder, model.config)
    waveforms = [noise(n, n) for n in (3300, 16000, 40000)]
    padded = np.stack([np.pad(w, (0, 40000 - len(w)), constant_values=np.nan) for w in waveforms])
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    with torch.inference_mode():
        found, _ = WaveformEncoder(extractor)(torch.from_numpy(padded), lengths)
    assert np.abs(found.numpy() - extractor.embed(waveforms)).max() < 1e-4


@pytest.mark.parametrize("padding", [0.0, 0.9, np.nan])
def test_a_padded_batch_has_the_embeddings_of_each_alone_whatever_it_is_padded_with(session, extractor, padding):
    waveforms = [noise(n, seed) for seed, n in enumerate([16000, 7, 3300, 40000, 24000])]
    together, magnitudes = embed(session, waveforms, padding)
    alone = np.concatenate([embed(session, [waveform])[0] for waveform in waveforms])
    assert np.abs(together - alone).max() < 1e-4
    assert np.abs(together - extractor.embed(waveforms)).max() < 1e-4
    assert magnitudes.shape == (5,)


def test_real_speech_has_the_embeddings_of_python(session, extractor, speechocean762):
    files = sorted(speechocean762.rglob("*.ogg"))[::500] or sorted(speechocean762.rglob("*.WAV"))[::500]
    speech = [soundfile.read(file, dtype="float32")[0] for file in files]
    expected = extractor.embed(speech)
    found = np.concatenate([embed(session, speech[i : i + 4])[0] for i in range(0, len(speech), 4)])
    assert len(speech) >= 10
    assert np.abs(found - expected).max() < 1e-4
    assert (found * expected).sum(1).min() > 0.99999


@pytest.mark.parametrize(
    "waveform",
    [
        np.zeros(16000, np.float32),
        np.full(16000, 1000 / INT16_RANGE, np.float32),
        noise(16000) * 1e-2 + np.float32(0.03),
        np.concatenate([np.zeros(9000, np.float32), noise(16000), np.zeros(9000, np.float32)]),
    ],
    ids=["digital silence", "a constant", "quiet noise on an offset", "silence before and after"],
)
def test_silence_and_offsets_are_taken_as_python_takes_them(session, extractor, waveform):
    assert np.abs(embed(session, [waveform])[0] - extractor.embed([waveform])).max() < 1e-4


def test_the_file_says_what_its_user_needs_and_nothing_of_this_machine(exported, trained):
    model = onnx.load(exported / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    said = {entry.key: entry.value for entry in model.metadata_props}
    stored = load_model(trained / "model")
    assert said["model_fingerprint"] == Backend(trained / "model").digest
    assert float(said["threshold"]) == stored.run["threshold"]
    assert (said["sample_rate"], said["embed_dim"], said["max_seconds"]) == ("16000", "16", "60.0")
    assert said["precision"] == "float32"
    assert [(i.name, i.type.tensor_type.shape.dim[0].dim_param) for i in model.graph.input] == [
        ("waveform", "batch"),
        ("lengths", "batch"),
    ]
    assert [opset.version for opset in model.opset_import if not opset.domain] == [onnx_file.OPSET]
    assert str(Path(onnx_file.__file__).parents[2]).encode() not in (exported / "model.onnx").read_bytes()


def test_int8_is_near_and_smaller_and_says_so(exported, extractor, voices):
    files = sorted(voices.rglob("*.wav"))[::4]
    speech = [soundfile.read(file, dtype="float32")[0] for file in files]
    session = onnxruntime.InferenceSession(exported / "int8.onnx")
    cosines = (embed(session, speech)[0] * extractor.embed(speech)).sum(1)
    assert cosines.min() > 0.98 and cosines.max() < 1 - 1e-9
    assert session.get_modelmeta().custom_metadata_map["precision"] == "int8"
    operators = {node.op_type for node in onnx.load(exported / "int8.onnx").graph.node}
    assert {"MatMulInteger", "Conv"} <= operators and "ConvInteger" not in operators


def test_embedding_by_the_file_is_a_system_of_its_own_in_the_table(exported, extractor, voices, tmp_path, capsys):
    exp = shutil.copytree(exported / "exp", tmp_path / "exp")
    data = shutil.copytree(voices, tmp_path / "test")
    utts = [line.split()[0] for line in (data / "wav.scp").read_text().splitlines()]
    write_trials(data / "trials", make_trials(utts, [utt.split("-")[0] for utt in utts], seed=1))
    assert run("score", data, exp, "--system", "onnx") == 1
    assert "--onnx FILE`" in capsys.readouterr().err
    assert run("embed", data, exp) == 0
    for name in ("model", "int8"):
        assert run("embed", data, exp, "--onnx", exported / f"{name}.onnx") == 0
    for system in ("cosine", "onnx", "onnx_int8"):
        assert run("score", data, exp, "--system", system) == 0
        assert run("evaluate", data, exp, "--system", system) == 0
    python, by_file, by_int8 = (
        read_embeddings(exp / "embeddings" / name) for name in ("test", "test-onnx", "test-onnx_int8")
    )
    assert python[1] == by_file[1] == by_int8[1]
    speech = [soundfile.read(file, dtype="float32")[0] for file in sorted(voices.rglob("*.wav"))]
    rounding = 2 * moved_by_rounding(extractor, speech)
    assert rounding < onnx_file.MAX_DIFFERENCE
    assert 0 < np.abs(by_file[0] - python[0]).max() < rounding < np.abs(by_int8[0] - python[0]).max()
    names = ["duration", "magnitude"]
    expected, found = (read_measures(exp / "embeddings" / name, names) for name in ("test", "test-onnx"))
    assert np.allclose(found["duration"], expected["duration"], rtol=1e-5)
    # A length moves by no more than the vector does, in all its dimensions.
    assert np.allclose(found["magnitude"], expected["magnitude"], rtol=rounding * extractor.embed_dim**0.5)
    metrics = json.loads((exp / "metrics.json").read_text())["test/trials"]
    assert metrics["onnx"]["eer"] == pytest.approx(metrics["cosine"]["eer"], abs=1e-6)
    assert metrics["onnx_int8"]["eer"] == pytest.approx(metrics["cosine"]["eer"], abs=0.02)
    capsys.readouterr()
    assert run("results", exp) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} >= {"cosine", "onnx", "onnx_int8"}


def test_the_file_of_another_model_is_refused(exported, voices, tmp_path, capsys):
    exp = shutil.copytree(exported / "exp", tmp_path / "exp")
    shutil.copytree(exp / "untrained", exp / "model", dirs_exist_ok=True)
    assert run("embed", voices, exp, "--onnx", exported / "model.onnx") == 1
    assert "model.onnx: was made from another model than" in capsys.readouterr().err
    assert not (exp / "embeddings").exists()


def test_a_waveform_of_one_sample_has_an_embedding(session):
    assert np.isfinite(embed(session, [np.full(1, 0.1, np.float32)])[0]).all()


def test_a_file_that_is_no_export_is_one_line(exported, voices, tmp_path, capsys):
    bare = onnx.load(exported / "model.onnx")
    del bare.metadata_props[:]
    onnx.save(bare, tmp_path / "bare.onnx")
    (tmp_path / "broken.onnx").write_bytes((exported / "model.onnx").read_bytes()[:999])
    for name, message in {
        "bare": "was not written by `spkver export`",
        "broken": "cannot be read as ONNX",
        "nowhere": "there is no such file",
    }.items():
        assert run("embed", voices, exported / "exp", "--onnx", tmp_path / f"{name}.onnx") == 1
        error = capsys.readouterr().err
        assert f"{name}.onnx: {message}" in error
        assert error.count("\n") == 1


def test_a_graph_that_does_something_else_is_not_written(exported, trained, tmp_path, capsys, monkeypatch):
    graph = onnx.load(exported / "model.onnx")
    weights = next(tensor for tensor in graph.graph.initializer if tensor.name.endswith("convs.0.weight"))
    kernels = onnx.numpy_helper.to_array(weights)
    weights.CopyFrom(onnx.numpy_helper.from_array(kernels[..., ::-1].copy(), weights.name))
    monkeypatch.setattr(onnx_file, "_graph", lambda extractor: graph)
    assert run("export", trained, tmp_path / "wrong.onnx") == 1
    error = capsys.readouterr().err
    assert f"{tmp_path / 'wrong.onnx'}: not written, its embeddings are not those of" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words, message",
    [
        (["nowhere", "a.onnx"], "nowhere: is no model folder"),
        (["MODEL"], "name what to write"),
        (["MODEL", "a.pt"], "a.pt is no name of an ONNX file"),
        (["MODEL", "--huggingface", "d", "--int8"], "name FILE.onnx"),
    ],
)
def test_a_mistake_is_one_line(trained, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert run("export", *[trained if word == "MODEL" else word for word in words]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_it_is_named(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert run("export", trained, tmp_path / "a.onnx") == 1
    assert "cannot import onnxscript" in (error := capsys.readouterr().err)
    assert "pip install 'spkver[onnx]'" in error


def test_thirty_lines_without_torch_say_what_python_says(exported, voices, extractor):
    block = "import sys; sys.modules['torch'] = sys.modules['spkver'] = None; import runpy; "
    code = f"{block}sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    files = [str(voices / "wav" / name) for name in ("v0/0.wav", "v0/1.wav", "v1/0.wav")]
    words = [sys.executable, "-c", code, str(EXAMPLE), str(exported / "model.onnx"), *files]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    embeddings = extractor.embed([soundfile.read(file, dtype="float32")[0] for file in files])
    threshold = load_model(exported / "exp/model").run["threshold"]
    lines = [line.split("  ") for line in done.stdout.splitlines()]
    assert len(lines) == 3
    for (a, b), line in zip([(0, 1), (0, 2), (1, 2)], lines):
        cosine = embeddings[a] @ embeddings[b]
        assert line[:2] == [files[a], files[b]]
        assert float(line[2]) == pytest.approx(cosine, abs=1e-4)
        assert line[3] == f"same speaker: {cosine >= threshold}"
    assert len(EXAMPLE.read_text().splitlines()) <= 33
