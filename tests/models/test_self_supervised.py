"""Front ends of transformers: tiny ones with random weights, made on the spot, beside transformers' own code."""

import shutil

import numpy as np
import pytest
import torch

from spkver.cli import main
from spkver.config import load_config
from spkver.errors import SpkverError
from spkver.experiment.model_folder import load_model, load_tensors
from spkver.features import EncoderInput
from spkver.models import build_encoder
from spkver.models.encoder_check import checked
from spkver.models.self_supervised import SelfSupervised

transformers = pytest.importorskip("transformers", reason="needs transformers: pip install transformers")
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
CONVOLUTIONS = {
    "conv_dim": (16, 16, 16),
    "conv_stride": (5, 8, 8),
    "conv_kernel": (10, 8, 8),
    "num_feat_extract_layers": 3,
}
CONFIGURATIONS = {
    "wavlm": ("WavLM", {**CONVOLUTIONS, "feat_extract_norm": "group"}),
    "wav2vec2": ("Wav2Vec2", {**CONVOLUTIONS, "feat_extract_norm": "layer", "do_stable_layer_norm": True}),
    "w2v_bert": ("Wav2Vec2Bert", {"feature_projection_input_dim": 160, "conv_depthwise_kernel_size": 5}),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Folders of tiny models, as ``save_pretrained`` writes them."""
    folder = tmp_path_factory.mktemp("models")
    for name, (kind, settings) in CONFIGURATIONS.items():
        torch.manual_seed(1)
        config = getattr(transformers, f"{kind}Config")(**SMALL, **settings)
        getattr(transformers, f"{kind}Model")(config).save_pretrained(folder / name)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder / "wav2vec2")
    return folder


def config_of(name, sources, *overrides):
    return load_config(f"encoders/{name}", [f"model.args.source={sources / name}", "data.crop_seconds=1.0", *overrides])


def encoder_of(config):
    torch.manual_seed(2)
    return build_encoder(config.model, config.features.n_mels)


def noise(seconds, seed=0):
    return 0.1 * torch.randn(1, round(seconds * 16000), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("name", "masks"), [("wavlm", False), ("wav2vec2", True), ("w2v_bert", True)])
def test_padding_is_masked_where_the_model_can_and_found_out_where_it_cannot(name, masks, sources):
    config = config_of(name, sources)
    section, said = checked(config, encoder_of(config))
    assert (section.embed_dim, section.masks_padding) == (192, masks)
    assert ("padded and masked" in said) is masks


@pytest.mark.parametrize("name", ["wavlm", "wav2vec2"])
def test_frames_are_the_mean_of_the_layers_that_transformers_gives(name, sources):
    network = SelfSupervised(str(sources / name)).eval()
    theirs = transformers.AutoModel.from_pretrained(sources / name).eval()
    samples = noise(0.7)
    given = transformers.Wav2Vec2FeatureExtractor(do_normalize=name == "wav2vec2")(
        samples[0].numpy(), sampling_rate=16000
    )
    with torch.no_grad():
        expected = theirs(torch.from_numpy(np.stack(given["input_values"])), output_hidden_states=True).hidden_states
        found, _ = network._frames(*network._samples(samples, None))
    torch.testing.assert_close(found, torch.stack(expected).mean(0), atol=1e-5, rtol=1e-5)


def test_w2v_bert_is_given_what_its_own_extractor_makes(sources):
    config = config_of("w2v_bert", sources)
    samples = noise(0.75)  # 73 frames: the odd one is left out, where theirs is padded and masked
    features, _, _ = EncoderInput(config.features, 16000)(samples)
    found, _ = SelfSupervised(str(sources / "w2v_bert"))._stacked(features, None)
    theirs = transformers.SeamlessM4TFeatureExtractor()(samples[0].numpy(), sampling_rate=16000, return_tensors="pt")
    expected = theirs["input_features"][theirs["attention_mask"].bool()]
    assert found.shape == (1, 36, 160)
    torch.testing.assert_close(found[0], expected, atol=2e-3, rtol=1e-3)


def test_the_same_network_is_built_without_its_source(sources):
    network = SelfSupervised(str(sources / "wav2vec2"), embed_dim=24).eval()
    again = SelfSupervised(**network.stored_args).eval()
    assert again.stored_args == network.stored_args
    again.load_state_dict(network.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(again(noise(0.5)), network(noise(0.5)))


@pytest.mark.parametrize("name", ["wavlm", "wav2vec2", "w2v_bert"])
def test_lora_alone_learns_and_learns_everywhere(name, sources):
    pytest.importorskip("peft", reason="needs peft: pip install peft")
    network = SelfSupervised(str(sources / name), lora_rank=2)
    learning = {key: weight for key, weight in network.front_end.named_parameters() if weight.requires_grad}
    assert learning
    assert all("lora_" in key for key in learning)
    x = torch.randn(4, 60, 80) if name == "w2v_bert" else 0.1 * torch.randn(4, 8000)
    optimizer = torch.optim.SGD(learning.values(), lr=1.0)
    for _ in range(2):  # one of the two factors of LoRA begins at 0
        optimizer.zero_grad()
        network(x)[:, 0].square().mean().backward()
        assert all(weight.grad is not None for weight in learning.values())
        optimizer.step()
    assert all(weight.grad.abs().max() > 0 for weight in learning.values())


def test_it_trains_frozen_and_is_loaded_without_its_source(sources, tiny_config, voices, tmp_path):
    shutil.copytree(sources / "wavlm", tmp_path / "wavlm")
    exp = tmp_path / "exp"
    (tmp_path / "frozen.yaml").write_text(f"base: [{tiny_config}, encoders/wavlm.yaml]\n")
    words = [
        f"model.args.source={tmp_path / 'wavlm'}",
        "model.args.embed_dim=16",
        "training.epochs=1",
        "snapshots.speakers=0",
    ]
    words += ["training.average_last=1", "training.keep_last=1", "margin_schedule.end_epoch=1", "data.crop_seconds=0.3"]
    assert main(["train", str(tmp_path / "frozen.yaml"), "--data", str(voices), "--exp", str(exp), *words]) == 0
    shutil.rmtree(tmp_path / "wavlm")
    assert main(["average", str(exp)]) == 0
    before, after = (load_tensors(exp / folder / "model.safetensors") for folder in ("untrained", "model"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert not any(name.startswith("network.front_end.") for name in changed)
    assert {"network.layer_weights", "network.embedding.weight", "network.pooled_norm.running_mean"} <= changed
    model = load_model(exp / "model")
    assert "source" not in model.config.model.args
    assert not model.encoder.training
    assert main(
        ["verify", *[str(voices / "wav" / "v3" / f"{take}.wav") for take in (0, 1)], "--model", str(exp / "model")]
    ) in (0, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "nowhere/at/all"}, "model.args.source: nowhere/at/all is no model that transformers can read"),
        ({}, "model.args: name the model to start from by source"),
        ({"architecture": {"model_type": "bert"}}, "is a model of kind 'bert'; these are front ends here: hubert, "),
        ({"source": "wavlm", "lora_rank": 2, "lora_targets": ["q_proj"]}, "WavLM's attention passes LoRA over"),
        ({"source": "wavlm", "lora_rank": 2, "lora_targets": ["nothing"]}, "model.args.lora_targets: "),
    ],
)
def test_mistakes_are_one_line(arguments, message, sources, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if "lora_rank" in arguments:
        pytest.importorskip("peft", reason="needs peft: pip install peft")
    if arguments.get("source") == "wavlm":
        arguments = arguments | {"source": str(sources / "wavlm")}
    with pytest.raises(SpkverError, match=message) as caught:
        SelfSupervised(**arguments)
    assert "\n" not in str(caught.value)


def test_features_of_the_other_kind_are_one_line(sources):
    config = config_of("wavlm", sources, "features={name: fbank}")
    with pytest.raises(SpkverError, match=r"wavlm takes samples \(features.name=waveform\)"):
        checked(config, encoder_of(config))
    with pytest.raises(SpkverError, match="no spectrum whose formants could be moved"):
        EncoderInput(load_config("encoders/wavlm").features, 16000, [1.0, 1.1])
