"""Encoders of other packages: what is found out of them, and whose code is run."""

import re
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from spkver.config import load_config
from spkver.errors import SpkverError
from spkver.models import build_encoder
from spkver.models.encoder_check import checked
from spkver.models.imported_encoder import require_trust

WAVEFORM = ["features={name: waveform}"]


def config_of(name, overrides=(), **args):
    words = [f"model={{name: '{name}'}}", *(f"model.args.{key}={value}" for key, value in args.items()), *overrides]
    return load_config("base", words)


def built(config):
    torch.manual_seed(1)
    return build_encoder(config.model, config.features.n_mels).eval()


@pytest.mark.parametrize(
    ("config", "masks", "line"),
    [
        (config_of("networks:Pooled"), True, "16 dimensions; utterances of a batch are padded and masked"),
        (
            config_of("networks:Pooled", counts_padding="true"),
            False,
            "16 dimensions; only utterances of equal length are embedded together: padding changes its embeddings",
        ),
        (
            config_of("networks:OfSamples", WAVEFORM, embed_dim=8),
            False,
            "8 dimensions; only utterances of equal length are embedded together: its forward takes no 'lengths'",
        ),
        (config_of("networks:Pooled", ["model.masks_padding=false"]), False, "embedded together"),
    ],
)
def test_what_an_encoder_does_with_padding_is_found_out_and_stored(config, masks, line):
    encoder = built(config).train()
    section, said = checked(config, encoder)
    assert (section.embed_dim, section.masks_padding) == (encoder.embed_dim, encoder.masks_padding)
    assert section.masks_padding is masks
    assert line in said
    assert encoder.training


@torch.no_grad()
@pytest.mark.parametrize("counts_padding", [False, True])
def test_a_padded_utterance_has_the_embedding_that_it_has_alone(counts_padding):
    config = config_of("networks:Pooled", counts_padding=str(counts_padding).lower())
    encoder = built(config)
    checked(config, encoder)
    features = torch.randn(5, 60, 80)
    lengths = torch.tensor([60, 20, 41, 20, 60])
    for row, n in zip(features, lengths):
        row[n:] = 0
    found = encoder(features, lengths)
    alone = torch.cat([encoder(row[None, :n]) for row, n in zip(features, lengths)])
    torch.testing.assert_close(found, alone, atol=1e-6, rtol=0)
    assert found.norm(dim=1).tolist() == pytest.approx([1] * 5)
    assert encoder.unnormalised(features, lengths).norm(dim=1).min() != pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("networks:Poled", {}, r"networks has no class 'Poled' of its own \(did you mean 'Pooled'\?\)"),
        ("networks:torch", {}, r"networks has no class 'torch' of its own"),
        (
            "netwroks:Pooled",
            {},
            r"cannot import netwroks \(ModuleNotFoundError: .*\); install its package",
        ),
        ("networks:Pooled", {"widht": 3}, r"does not take \(widht=3\) \(TypeError: .*unexpected keyword argument"),
        ("networks:no_network", {}, r"gives no torch.nn.Module but a str"),
        ("networks:Pooled", {"n_mels": 40}, r"fails on features of shape \(3, 198, 80\) \(RuntimeError: .*channels"),
        ("networks:OfSamples", {}, r"fails on features of shape \(3, 198, 80\)"),
        ("networks:NotPooled", {}, r"depend on the length: 15840 for 2 s, 20640 for 2\.6 s, 1440 for 0\.2 s"),
        ("networks:AcrossTheBatch", {}, r"changes with what else is in the batch"),
        ("networks:Constant", {}, r"the same embedding whatever its input"),
        ("networks:NotFinite", {}, r"values that are not finite"),
        ("torch.nn:Linear", {"in_features": 80, "out_features": 3}, r"gives torch.float32 of shape \(3, 198, 3\) for"),
        ("torch.nn:GRU", {"input_size": 80, "hidden_size": 3}, r"gives torch.float32 of shape \(1, 198, 3\)"),
        ("os:system", {"command": "exit 3"}, r"os has no class 'system' of its own"),
    ],
)
def test_what_is_no_encoder_is_one_line(name, args, message):
    with pytest.raises(SpkverError, match=message) as caught:
        config = config_of(name, **args)
        checked(config, built(config))
    assert str(caught.value).startswith(("model.name: ", "model.args: "))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.embed_dim=32", "model.embed_dim: is 32, and networks:Pooled gives 16 dimensions"),
        ("model.masks_padding=true", "model.masks_padding: is true, but only utterances of equal length"),
    ],
)
def test_a_configuration_that_says_otherwise_is_refused(override, message):
    config = config_of("networks:Pooled", [override], counts_padding="true")
    with pytest.raises(SpkverError, match=message):
        checked(config, built(config))


def test_the_stored_arguments_are_those_that_the_class_names():
    config = config_of("networks:Started", source="'20'")
    section, _ = checked(config, built(config))
    assert section.args == {"width": 20}
    assert build_encoder(section, 80).network.embedding.in_features == 20


def test_speech_encoder_v3_takes_no_samples():
    config = load_config("base", WAVEFORM)
    with pytest.raises(SpkverError, match="speech_encoder_v3 takes filterbanks"):
        build_encoder(config.model, config.features.n_mels)


def test_a_stored_model_runs_only_code_that_is_known_or_trusted(monkeypatch):
    monkeypatch.delenv("SPKVER_TRUST", raising=False)
    require_trust(config_of("speechbrain.lobes.models.ECAPA_TDNN:ECAPA_TDNN").model, Path("exp/model"))
    require_trust(load_config("base").model, Path("exp/model"))
    known_package = config_of("speechbrain.lobes.models.huggingface_transformers.wavlm:WavLM").model
    for stranger in (config_of("networks:Pooled").model, known_package):
        with pytest.raises(SpkverError, match=re.escape(f"exp/model: its encoder is the code of {stranger.name}")):
            require_trust(stranger, Path("exp/model"))
    monkeypatch.setenv("SPKVER_TRUST", "others,networks")
    require_trust(config_of("networks:Pooled").model, Path("exp/model"))
    with pytest.raises(SpkverError, match="set SPKVER_TRUST=network in the environment"):
        require_trust(config_of("network:Pooled").model, Path("exp/model"))


def test_a_package_whose_own_init_lacks_something_is_opened_without_it(tmp_path, monkeypatch):
    folder = tmp_path / "toolkit" / "models"
    folder.mkdir(parents=True)
    (tmp_path / "toolkit" / "__init__.py").write_text("import a_package_that_is_not_there\n")
    (folder / "__init__.py").write_text("")
    (folder / "nets.py").write_text("from networks import Pooled as _Pooled\nclass Net(_Pooled):\n    pass\n")
    (folder / "broken.py").write_text("import another_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SpkverError, match=r"cannot import toolkit\.models\.broken .*another_package"):
        built(config_of("toolkit.models.broken:Net"))
    assert built(config_of("toolkit.models.nets:Net"))(torch.randn(1, 30, 80)).shape == (1, 16)
    for name in [name for name in sys.modules if name.partition(".")[0] == "toolkit"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def forgotten():
    """SpeechBrain's modules import others when they are only looked at, as hypothesis does with all that there are."""
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "speechbrain"]:
        del sys.modules[name]


SMALL_ECAPA = {"input_size": 80, "lin_neurons": 32, "channels": "[32,32,32,32,96]", "attention_channels": 16}


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("speechbrain.lobes.models.ECAPA_TDNN:ECAPA_TDNN", SMALL_ECAPA),
        ("wespeaker.models.resnet:ResNet18", {"feat_dim": 80, "embed_dim": 32}),
        ("speakerlab.models.campplus.DTDNN:CAMPPlus", {"feat_dim": 80, "embedding_size": 32, "init_channels": 32}),
    ],
)
@pytest.mark.usefixtures("forgotten")
def test_encoders_of_other_toolkits_are_taken_as_they_are(name, args):
    pytest.importorskip(name.split(".")[0] if "wespeaker" not in name else "kaldiio")
    config = config_of(name, ["data.crop_seconds=0.5"], **args)
    try:
        encoder = built(config)
    except SpkverError as error:
        pytest.skip(f"needs the toolkit: pip install --no-deps speechbrain wespeaker-unofficial speakerlab ({error})")
    section, _ = checked(config, encoder)
    assert (section.embed_dim, section.masks_padding) == (32, False)
    features = torch.randn(2, 48, 80)
    output = encoder.network(features)
    output = output[-1] if isinstance(output, tuple) else output
    torch.testing.assert_close(encoder(features), F.normalize(output.reshape(2, 32), dim=1))
