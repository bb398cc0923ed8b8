"""`--device`: every verb that embeds puts its encoder there."""

import shutil

import pytest
import torch

import spkver
from spkver.cli import main
from spkver.embedding import extractor
from spkver.errors import SpkverError
from spkver.models import device


@pytest.fixture
def asked(monkeypatch):
    """The devices on which embeddings were made, with a CPU in the place of the second of two GPUs."""
    places = []
    real = extractor.Extractor.extract
    gpus = {"cuda:1": torch.device("cpu", 0)}

    def choose(name, key="training.device"):
        return gpus[name] if name in gpus else device_chosen(name, key)

    device_chosen = device.choose_device
    monkeypatch.setattr(device, "choose_device", choose)
    monkeypatch.setattr("spkver.verification.verifier.choose_device", choose)
    monkeypatch.setattr(
        extractor.Extractor, "extract", lambda self, waveforms: places.append(self.placed) or real(self, waveforms)
    )
    moved = torch.nn.Module.to

    def to(module, *where, **more):
        module.placed = where[0] if where else None
        return moved(module, *where, **more)

    monkeypatch.setattr("spkver.models.speech_encoder_v3.SpeechEncoderV3.to", to, raising=False)
    monkeypatch.setattr(extractor.Extractor, "placed", property(lambda self: self.encoder.placed), raising=False)
    return places


@pytest.fixture
def trained_copy(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "exp")


@pytest.mark.parametrize("where", ["cpu", "cuda:1"])
@pytest.mark.parametrize("verb", ["embed", "average", "verify", "enroll", "identify"])
def test_a_verb_embeds_where_it_is_asked_to(asked, trained_copy, voices, tmp_path, verb, where):
    a, b = sorted(voices.rglob("*.wav"))[:2]
    model = trained_copy / "model"
    words = {
        "embed": ["embed", voices, trained_copy],
        "average": ["average", trained_copy, "--data", voices],
        "verify": ["verify", a, b, "--model", model],
        "enroll": ["enroll", "anna", a, "--store", tmp_path / "people", "--model", model],
        "identify": ["identify", b, "--store", tmp_path / "people"],
    }
    if verb == "identify":
        assert main([str(word) for word in words["enroll"]]) == 0
        asked.clear()
    assert main([str(word) for word in [*words[verb], "--device", where]]) in (0, 3)
    expected = torch.device("cpu", 0) if where == "cuda:1" else torch.device("cpu")
    assert asked and {str(place) for place in asked} == {str(expected)}


def test_a_gpu_that_is_not_there_is_one_line(trained, voices, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for words in (["embed", voices, trained], ["average", trained, "--data", voices]):
        assert main([*map(str, words), "--device", "cuda"]) == 1
        assert capsys.readouterr().err == "--device is cuda, but torch sees no GPU; use auto or cpu\n"
    with pytest.raises(SpkverError, match=r"^the device is cuda:3, but torch sees no GPU"):
        spkver.load(trained / "model", device="cuda:3")
