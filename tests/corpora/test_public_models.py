"""Public models are fetched by their names, checked, and imported; against a local server."""

import hashlib
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from spkver.cli import main
from spkver.corpora import public_models
from spkver.corpora.public_models import MODELS, fetch_model
from spkver.errors import SpkverError


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder whose files a server on this machine gives, and its address."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def put(monkeypatch, url, content):
    model = replace(
        MODELS["wespeaker-resnet34"], url=url, size=len(content), sha256=hashlib.sha256(content).hexdigest()
    )
    monkeypatch.setitem(public_models.MODELS, "wespeaker-resnet34", model)


def test_a_model_is_fetched_and_imported_by_its_name(served, tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install spkver[onnx]")
    onnx = pytest.importorskip("onnx", reason="needs onnx: pip install spkver[onnx]")
    folder, address = served
    floats = onnx.TensorProto.FLOAT
    pooled = onnx.helper.make_graph(
        [onnx.helper.make_node("ReduceMax", ["feats"], ["embs"], axes=[1], keepdims=0)],
        "network",
        [onnx.helper.make_tensor_value_info("feats", floats, ["batch", "time", 80])],
        [onnx.helper.make_tensor_value_info("embs", floats, ["batch", 80])],
    )
    opset = onnx.helper.make_opsetid("", 13)
    content = onnx.helper.make_model(pooled, opset_imports=[opset], ir_version=9).SerializeToString()
    (folder / "net.onnx").write_bytes(content)
    put(monkeypatch, f"{address}/net.onnx", content)
    monkeypatch.chdir(tmp_path)
    assert main(["download-model", "wespeaker-resnet34"]) == 0
    said = capsys.readouterr().out
    assert "trained on VoxCeleb2 dev (5,994 speakers" in said
    assert "80 dimensions" in said
    assert (tmp_path / "exp" / "wespeaker-resnet34" / "model" / "model.onnx").read_bytes() == content
    (folder / "net.onnx").unlink()  # what is here is not fetched again
    assert main(["download-model", "wespeaker-resnet34", "exp/other"]) == 0


def test_an_address_that_moved_and_another_file_are_one_line(served, tmp_path, monkeypatch):
    folder, address = served
    put(monkeypatch, f"{address}/gone.onnx", b"network")
    with pytest.raises(
        SpkverError, match=r"is not there any more \(404\); get the file with SHA-256 [0-9a-f]{64} elsewhere"
    ):
        fetch_model("wespeaker-resnet34", tmp_path / "downloads")
    (folder / "net.onnx").write_bytes(b"netwerk")
    put(monkeypatch, f"{address}/net.onnx", b"network")
    with pytest.raises(SpkverError, match=r"fetched .*; removed"):
        fetch_model("wespeaker-resnet34", tmp_path / "downloads")
    assert not list((tmp_path / "downloads").glob("[!.]*"))


def test_a_name_that_is_none_gets_those_that_there_are(tmp_path, capsys):
    with pytest.raises(SpkverError, match="no model 'resnet' \\(there are: wespeaker-resnet34, "):
        fetch_model("resnet", tmp_path)
    assert main(["download-model"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed and model.licence in listed for name, model in MODELS.items())


def test_every_entry_says_what_a_file_is_known_by():
    for model in MODELS.values():
        assert model.url.startswith("https://") and model.url.endswith(".onnx")
        assert len(model.sha256) == 64 and int(model.sha256, 16)
        assert 20e6 < model.size < 40e6
        assert model.like in ("wespeaker", "3dspeaker")
