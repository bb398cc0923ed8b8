"""Networks of other toolkits as models: their features, what is checked of them, and all verbs on them."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import spkver
from spkver.cli import main
from spkver.data.audio import read_audio
from spkver.data.directory import read_data_directory, write_data_directory
from spkver.embedding.folder import read_embeddings
from spkver.errors import SpkverError
from spkver.experiment.model_fingerprint import embedding_fingerprint
from spkver.experiment.model_folder import load_model
from spkver.export.import_model import import_onnx
from spkver.models.imported_encoder import _import_module

onnx = pytest.importorskip("onnx", reason="needs onnx: pip install spkver[onnx]")
pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install spkver[onnx]")
SYSTEMS = ("cosine", "cosine+asnorm", "plda", "cosine+asnorm+calibration")
HELPER, NUMBERS = onnx.helper, onnx.numpy_helper


def write_onnx(path, names=("feats", "embs"), batch="batch", n_mels=80, metadata=None, nodes=None):
    """A network of two matrix products: features less an offset, rectified, their mean over time, an embedding."""
    rng = np.random.default_rng(3)
    weights = {"A": rng.standard_normal((80, 24)), "b": rng.standard_normal(24), "C": rng.standard_normal((24, 16))}
    constants = [NUMBERS.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    constants += [NUMBERS.from_array(np.array([1]), "time"), NUMBERS.from_array(np.array([0]), "items")]
    node = HELPER.make_node
    usual = [
        node("MatMul", [names[0], "A"], ["mixed"]),
        node("Add", ["mixed", "b"], ["moved"]),
        node("Relu", ["moved"], ["rectified"]),
        node("ReduceMean", ["rectified", "time"], ["mean"], keepdims=0),
        node("MatMul", ["mean", "C"], [names[1]]),
    ]
    floats = onnx.TensorProto.FLOAT
    graph = HELPER.make_graph(
        nodes(node, names) if nodes else usual,
        "network",
        [HELPER.make_tensor_value_info(names[0], floats, [batch, "time", n_mels])],
        [HELPER.make_tensor_value_info(names[1], floats, None)],
        constants,
    )
    model = HELPER.make_model(graph, opset_imports=[HELPER.make_opsetid("", 18)], ir_version=9)
    HELPER.set_model_props(model, metadata or {})
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def parts(tmp_path_factory, voices):
    """``voices`` in two: six speakers to fit a back end to, four with trials."""
    directory = read_data_directory(voices)
    folder = tmp_path_factory.mktemp("data")
    for name, speakers in (("train", directory.speakers[:6]), ("test", directory.speakers[6:])):
        part = directory.subset(speakers=speakers)
        write_data_directory(folder / name, part.utterances, genders=part.genders)
    pairs = [(a, b) for a in part.utterances for b in part.utterances if a.id < b.id]
    lines = [f"{int(a.speaker == b.speaker)} {a.id} {b.id}\n" for a, b in pairs]
    (folder / "test" / "trials").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def imported(tmp_path_factory, parts):
    """An imported model with a back end."""
    folder = tmp_path_factory.mktemp("imported")
    file, exp = write_onnx(folder / "net.onnx"), str(folder / "exp")
    train, test = str(parts / "train"), str(parts / "test")
    settings = ["scoring.bootstrap=20", "scoring.norm.top_n=3", "scoring.calibration.joined_pairs=6"]
    assert main(["import-model", str(file), exp, *settings]) == 0
    for words in (
        ["embed", train, exp],
        ["embed", test, exp],
        ["score", test, exp],
        ["norm", test, exp, "--train", train],
        ["plda", test, exp, "--train", train],
        ["calibrate", test, exp, "--train", train, "--system", "cosine+asnorm"],
        *(["evaluate", test, exp, "--system", system] for system in SYSTEMS),
    ):
        assert main(words) == 0, words
    return folder / "exp"


def test_the_file_decides_which_features_it_is_given(tmp_path):
    sherpa = {"framework": "3d-speaker", "sample_rate": "8000"}
    cases = [
        (write_onnx(tmp_path / "a.onnx"), "auto", ("hamming", "int16", 16000)),
        (write_onnx(tmp_path / "b.onnx", ("feature", "embedding")), "auto", ("povey", "unit", 16000)),
        (write_onnx(tmp_path / "c.onnx", ("x", "y"), metadata=sherpa), "sherpa-onnx", ("povey", "unit", 8000)),
        (write_onnx(tmp_path / "d.onnx", ("x", "y")), "wespeaker", ("hamming", "int16", 16000)),
        (write_onnx(tmp_path / "e.onnx"), "3dspeaker", ("povey", "unit", 16000)),
    ]
    for file, like, expected in cases:
        import_onnx(file, tmp_path / file.stem, like)
        config = load_model(tmp_path / file.stem / "model").config
        assert (config.features.window, config.features.scale, config.data.sample_rate) == expected
        assert config.model.embed_dim == 16
    with pytest.raises(SpkverError, match="holds a model already"):
        import_onnx(cases[0][0], tmp_path / "a")


def test_a_file_and_words_of_the_command_line_change_them(tmp_path):
    (tmp_path / "other.yaml").write_text("features: {window: povey, mean_normalisation: false}\n")
    file = write_onnx(tmp_path / "net.onnx", ("x", "y"))
    import_onnx(file, tmp_path / "exp", config=tmp_path / "other.yaml", overrides=["features.scale=unit"])
    features = load_model(tmp_path / "exp" / "model").config.features
    assert (features.window, features.scale, features.mean_normalisation) == ("povey", "unit", False)


def unpooled(node, names):
    return [node("MatMul", [names[0], "A"], [names[1]])]


def constant(node, names):
    return [
        node("Sub", [names[0], names[0]], ["zero"]),
        node("MatMul", ["zero", "A"], ["flat"]),
        node("Add", ["flat", "b"], ["same"]),
        node("ReduceMean", ["same", "time"], [names[1]], keepdims=0),
    ]


def over_the_batch(node, names):
    return [
        node("ReduceMean", [names[0], "items"], ["mean"], keepdims=1),
        node("Add", ["mean", names[0]], ["all"]),
        node("Relu", ["all"], ["positive"]),
        node("ReduceMean", ["positive", "time"], [names[1]], keepdims=0),
    ]


def not_finite(node, names):
    return [
        node("Sub", [names[0], names[0]], ["zero"]),
        node("Div", [names[0], "zero"], ["nan"]),
        node("ReduceMean", ["nan", "time"], [names[1]], keepdims=0),
    ]


@pytest.mark.parametrize(
    ("options", "like", "message"),
    [
        ({"names": ("x", "y")}, "auto", "does not say which features it takes; name its toolkit by --like wespeaker"),
        ({"metadata": {"framework": "nemo"}}, "auto", "is of nemo, whose features spkver does not make"),
        ({"names": ("x", "y")}, "sherpa-onnx", r"has no metadata of sherpa-onnx \(no 'framework'\)"),
        ({"nodes": unpooled}, "auto", "does not embed sounds of 0.05 to 4 s alike"),
        ({"nodes": constant}, "auto", "gives noise and other sounds the same embedding"),
        ({"nodes": not_finite}, "auto", "embeddings that are not finite"),
        ({"nodes": over_the_batch}, "auto", "another embedding in a batch than alone, by"),
    ],
)
def test_what_is_no_speaker_model_is_refused_in_one_line(tmp_path, options, like, message):
    file = write_onnx(tmp_path / "net.onnx", **options)
    with pytest.raises(SpkverError, match=message) as caught:
        import_onnx(file, tmp_path / "exp", like)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "exp").exists()


def test_damaged_and_missing_files_are_one_line(tmp_path, capsys):
    (tmp_path / "net.onnx").write_bytes(b"\x08\x09nothing")
    assert main(["import-model", str(tmp_path / "net.onnx"), str(tmp_path / "exp")]) == 1
    assert "cannot be read as ONNX" in capsys.readouterr().err
    assert main(["import-model", str(tmp_path / "none.onnx"), str(tmp_path / "exp")]) == 1
    assert "there is no such file" in capsys.readouterr().err
    assert main(["import-model", str(tmp_path / "exp")]) == 1
    assert "name the network, FILE.onnx or --weights FILE.pt" in capsys.readouterr().err
    write_onnx(tmp_path / "net.onnx", n_mels="mels")
    assert main(["import-model", str(tmp_path / "net.onnx"), str(tmp_path / "exp"), "features.n_mels=40"]) == 1
    assert "fails on an input of shape (1, 398, 40)" in capsys.readouterr().err
    import_onnx(tmp_path / "net.onnx", tmp_path / "exp")
    (tmp_path / "exp" / "model" / "model.onnx").write_bytes(b"cut")
    with pytest.raises(SpkverError, match="cannot be read as ONNX"):
        load_model(tmp_path / "exp" / "model")
    (tmp_path / "exp" / "model" / "model.onnx").unlink()
    with pytest.raises(SpkverError, match=r"model\.onnx: there is no such file"):
        spkver.load(tmp_path / "exp" / "model")


def test_a_file_for_one_utterance_at_a_time_is_taken(tmp_path):
    said = import_onnx(write_onnx(tmp_path / "net.onnx", batch=1), tmp_path / "exp")
    assert "it takes one utterance at a time" in said


def test_all_that_comes_after_embeddings_works_on_it(imported, parts, tmp_path, capsys):
    (metrics,) = json.loads((imported / "metrics.json").read_text()).values()
    assert set(metrics) == set(SYSTEMS)
    # Voices of unlike formants: even a random projection tells most of them apart.
    assert all(record["eer"] < 0.3 for record in metrics.values())
    assert metrics["cosine+asnorm+calibration"]["cllr"] < metrics["cosine"]["cllr"]
    wav = [next((parts / "test").glob("wav.scp")).read_text().split()[i] for i in (1, 3, -1)]
    one, same, other = (str((parts / "test" / path).resolve()) for path in wav)
    model, store = str(imported / "model"), str(tmp_path / "store")
    assert main(["verify", one, same, "--model", model]) == 0
    assert main(["verify", one, other, "--model", model]) == 3
    assert main(["enroll", "anna", one, "--store", store, "--model", model]) == 0
    assert main(["identify", same, "--store", store]) == 0
    assert main(["identify", other, "--store", store]) == 3
    assert main(["export", model, str(tmp_path / "again.onnx")]) == 1
    assert "is the network of an ONNX file already" in capsys.readouterr().err


def test_its_embeddings_are_those_of_the_file_for_its_features(imported, parts):
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi", reason="needs torchaudio")
    import onnxruntime

    embeddings, utts = read_embeddings(imported / "embeddings" / "test")
    directory = read_data_directory(parts / "test")
    session = onnxruntime.InferenceSession(imported / "model" / "model.onnx")
    for utterance in directory.utterances[::5]:
        samples = torch.from_numpy(read_audio(utterance.path, 16000))[None] * 32768
        features = kaldi.fbank(samples, num_mel_bins=80, window_type="hamming", sample_frequency=16000)
        features = (features - features.mean(0))[None].numpy()
        (expected,) = session.run(None, {"feats": features})
        found = embeddings[utts.index(utterance.id)]
        np.testing.assert_allclose(found, expected[0] / np.linalg.norm(expected[0]), atol=1e-4)


def test_the_fingerprint_covers_the_file_and_its_features(tmp_path):
    prints = []
    for name, batch, overrides in (("a", "n", []), ("b", "n", []), ("c", "m", []), ("d", "n", ["features.scale=unit"])):
        import_onnx(write_onnx(tmp_path / "net.onnx", batch=batch), tmp_path / name, overrides=overrides)
        prints.append(embedding_fingerprint(tmp_path / name / "model"))
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_a_report_is_made_of_it(imported, tmp_path):
    pytest.importorskip("matplotlib")
    assert main(["report", str(imported), "--out", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "cosine+asnorm+calibration" in page


@pytest.fixture(scope="module")
def recordings(speechocean762):
    lines = (speechocean762 / "test" / "wav.scp").read_text().split()
    return [(speechocean762 / path).with_suffix(".ogg") for path in lines[1:80:40]]


def kaldi_features(path, window, scale):
    """As both toolkits call torchaudio."""
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi", reason="needs torchaudio")
    samples = torch.from_numpy(read_audio(path, 16000))[None] * scale
    features = kaldi.fbank(samples, num_mel_bins=80, window_type=window, sample_frequency=16000, dither=0.0)
    return (features - features.mean(0))[None]


def toolkit_network(module, name, **arguments):
    pytest.importorskip("kaldiio")
    try:
        network = getattr(_import_module(module), name)(**arguments)
    except ModuleNotFoundError as error:
        pytest.skip(f"needs {error.name}: pip install --no-deps wespeaker-unofficial speakerlab")
    for norm in network.modules():
        if isinstance(norm, torch.nn.modules.batchnorm._BatchNorm):
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 1.5)
    return network.eval()


class Last(torch.nn.Module):
    """As the toolkit's own export does."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, features):
        output = self.network(features)
        return output[-1] if isinstance(output, tuple) else output


WESPEAKER = ("wespeaker.models.resnet", "ResNet34", {"feat_dim": 80, "embed_dim": 256})
CAMPPLUS = ("speakerlab.models.campplus.DTDNN", "CAMPPlus", {"feat_dim": 80, "embedding_size": 192})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("network", "names", "window", "scale"),
    [
        pytest.param(WESPEAKER, ("feats", "embs"), "hamming", 32768, id="wespeaker"),
        # Its export alone takes as long as all other tests here; the next one has its network by its weights.
        pytest.param(CAMPPLUS, ("feature", "embedding"), "povey", 1, id="3dspeaker", marks=pytest.mark.slow),
    ],
)
def test_embeddings_are_those_of_the_toolkit_on_real_speech(network, names, window, scale, recordings, tmp_path):
    torch.manual_seed(0)
    module, name, arguments = network
    module = Last(toolkit_network(module, name, **arguments))
    torch.onnx.export(
        module,
        torch.randn(1, 345, 80),
        tmp_path / "net.onnx",
        input_names=[names[0]],
        output_names=[names[1]],
        dynamic_axes={names[0]: {0: "batch", 1: "time"}, names[1]: {0: "batch"}},
        opset_version=14,
        dynamo=False,
    )
    module.eval()  # the exporter leaves it in training mode
    import_onnx(tmp_path / "net.onnx", tmp_path / "exp", recording=recordings[0])
    voice = spkver.load(tmp_path / "exp" / "model")
    for path in recordings:
        with torch.no_grad():
            expected = F.normalize(module(kaldi_features(path, window, scale)))[0].numpy()
        np.testing.assert_allclose(voice.embed(path), expected, atol=1e-4)


def test_weights_of_a_checkpoint_are_taken_with_the_toolkits_configuration(recordings, tmp_path, capsys):
    torch.manual_seed(0)
    network = toolkit_network("wespeaker.models.resnet", "ResNet18", feat_dim=80, embed_dim=64)
    torch.save({**network.state_dict(), "projection.weight": torch.randn(5, 64)}, tmp_path / "avg_model.pt")
    (tmp_path / "config.yaml").write_text(
        "model: ResNet18\nmodel_args: {embed_dim: 64, feat_dim: 80, pooling_func: TSTP, two_emb_layer: false}\n"
    )
    words = ["import-model", "--weights", tmp_path / "avg_model.pt", "--like", "wespeaker"]
    words = list(map(str, [*words, "--config", tmp_path / "config.yaml", "data.crop_seconds=0.5"]))
    assert main([*words, str(tmp_path / "exp")]) == 0
    expected = F.normalize(Last(network)(kaldi_features(recordings[0], "hamming", 32768)))[0].detach().numpy()
    np.testing.assert_allclose(spkver.load(tmp_path / "exp" / "model").embed(recordings[0]), expected, atol=1e-4)
    (tmp_path / "config.yaml").write_text("model: ResNet34\nmodel_args: {embed_dim: 64, feat_dim: 80}\n")
    assert main([*words, str(tmp_path / "other")]) == 1
    assert "avg_model.pt: has no 'layer1.2" in capsys.readouterr().err


def test_weights_of_3d_speaker_are_taken_by_the_name_of_the_class(recordings, tmp_path):
    torch.manual_seed(0)
    module, name, arguments = CAMPPLUS
    network = toolkit_network(module, name, **arguments)
    torch.save(network.state_dict(), tmp_path / "campplus.bin")
    given = [f"model.name={module}:{name}", *(f"model.args.{key}={value}" for key, value in arguments.items())]
    words = ["--weights", str(tmp_path / "campplus.bin"), "--like", "3dspeaker", *given]
    assert main(["import-model", str(tmp_path / "exp"), *words, "data.crop_seconds=0.5"]) == 0
    with torch.no_grad():
        expected = F.normalize(network(kaldi_features(recordings[0], "povey", 1)))[0].numpy()
    np.testing.assert_allclose(spkver.load(tmp_path / "exp" / "model").embed(recordings[0]), expected, atol=1e-4)


class Harmful:
    def __reduce__(self):
        return print, ("this ran",)


def test_a_checkpoint_that_holds_more_than_tensors_is_refused_and_not_run(tmp_path, capsys):
    torch.save({"a": Harmful()}, tmp_path / "bad.pt")
    name = "model.name=networks:Pooled"
    words = ["import-model", "--weights", str(tmp_path / "bad.pt"), "--like", "wespeaker", name, str(tmp_path / "exp")]
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert "cannot be read as a checkpoint of tensors alone" in err
    assert "this ran" not in out
    assert main([*words[:3], "--like", "auto", name, str(tmp_path / "exp")]) == 1
    assert "--weights needs --like wespeaker or 3dspeaker" in capsys.readouterr().err
