"""SpeechEncoderV3: each known fault of the architecture's public sketch, and exactness under padding."""

import numpy as np
import pytest
import torch

from spkver.models.speech_encoder_v3 import SpeechEncoderV3, _attention

SMALL = {
    "channels": [8, 16],
    "groups": 4,
    "d_model": 32,
    "n_layers": 2,
    "n_heads": 2,
    "feedforward": 64,
    "pooling_hidden": 16,
    "embed_dim": 24,
}


def encoder(seed=0, **changes):
    torch.manual_seed(seed)
    return SpeechEncoderV3(**{**SMALL, **changes}).eval()


def features(batch, n_frames, seed=1):
    return 3 * torch.randn(batch, n_frames, 80, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("position", ["sinusoidal", "convolutional", "rotary", "none"])
@pytest.mark.parametrize("pooling", ["attentive_statistics", "statistics", "mean"])
@pytest.mark.parametrize("aggregate_layers", [True, False])
@torch.no_grad()
def test_an_utterance_alone_batched_and_padded_has_one_embedding(position, pooling, aggregate_layers):
    model = encoder(position=position, pooling=pooling, aggregate_layers=aggregate_layers)
    lengths = [50, 131, 97, 200]
    utterances = [features(1, n, seed=n) for n in lengths]
    padded = torch.full((4, 230, 80), 7.0)  # what stands in the padding must not matter
    for row, utterance, n in zip(padded, utterances, lengths):
        row[:n] = utterance[0]
    together = model(padded, torch.tensor(lengths))
    for utterance, n, embedding in zip(utterances, lengths, together):
        alone = model(utterance)
        assert (alone - embedding).abs().max() < 1e-5
        assert (model(utterance, torch.tensor([n])) - alone).abs().max() < 1e-5


@torch.no_grad()
def test_a_front_end_of_any_depth_leaves_padding_out():
    model = encoder(channels=[8, 16, 16], time_strides=[1, 2, 2], freq_strides=[2, 2, 1])
    padded = torch.full((2, 160, 80), 7.0)
    padded[0, :121] = features(1, 121)[0]
    padded[1] = features(1, 160, seed=2)[0]
    together = model(padded, torch.tensor([121, 160]))
    assert (model(features(1, 121)) - together[0]).abs().max() < 1e-5
    assert (model(features(1, 160, seed=2)) - together[1]).abs().max() < 1e-5


@torch.no_grad()
def test_aggregated_layers_reach_the_embedding_past_the_last_one():
    # With the last layer's branches silenced the others' outputs still differ, so pooling sees twice the width.
    model, last = encoder(aggregate_layers=True), encoder(aggregate_layers=False)
    assert model.pooling.out_features == 2 * last.pooling.out_features
    x = features(2, 100)
    before = model(x)
    model.embedding.weight[:, : SMALL["d_model"]] = 0  # the first layer's means
    assert (model(x) - before).abs().max() > 1e-3


@torch.no_grad()
def test_batch_mates_do_not_move_an_embedding():
    model = encoder()
    mine = features(1, 160)
    one = model(torch.cat([mine, features(3, 160, seed=2)]))[0]
    other = model(torch.cat([mine, features(3, 160, seed=3)]))[0]
    assert (one - other).abs().max() < 1e-6


@torch.no_grad()
def test_early_frames_move_the_embedding_as_late_ones_do():
    model = encoder()
    x = features(1, 160)
    base = model(x)
    moved = []
    for start in (0, 70, 140):
        changed = x.clone()
        changed[:, start : start + 20] = features(1, 20, seed=5)
        moved.append(1 - (model(changed) @ base.T).item())
    assert min(moved) > 1e-3
    assert moved[0] > 0.2 * moved[2]


@torch.no_grad()
def test_the_front_end_keeps_where_energy_lies():
    # A formant-like bump at mel bins 10-16, and the same at 24-30.
    low, high = torch.zeros(1, 60, 80), torch.zeros(1, 60, 80)
    low[:, :, 10:17] = 4
    high[:, :, 24:31] = 4
    outputs = [encoder().front_end(x - x.mean(), None)[0].flatten() for x in (low, high)]
    assert np.corrcoef(outputs)[0, 1] < 0.9


@pytest.mark.parametrize("position", ["sinusoidal", "convolutional", "rotary"])
@torch.no_grad()
def test_the_order_of_frames_matters_to_the_transformer(position):
    model = encoder(position=position)
    if position == "sinusoidal":
        model.position.scale.fill_(1.0)
    frames = torch.randn(1, 40, 32)
    shuffled = frames[:, torch.randperm(40, generator=torch.Generator().manual_seed(0))]

    def pooled(x):
        x = model.position(x, None)
        for layer in model.layers:
            x = layer(x, None)
        return x.mean(1)

    assert (pooled(frames) - pooled(shuffled)).abs().max() > 1e-3


@torch.no_grad()
def test_embeddings_fill_the_sphere_not_one_orthant():
    model = encoder()
    # The running statistics of a fresh BatchNorm are no statistics yet.
    model.train()
    for seed in range(30):
        model(features(16, 100, seed=seed))
    model.eval()
    embeddings = model(features(64, 100, seed=99))
    assert (embeddings < 0).float().mean() > 0.3
    assert torch.allclose(embeddings.norm(dim=1), torch.ones(64), atol=1e-6)
    cosines = (embeddings @ embeddings.T)[~torch.eye(64, dtype=bool)]
    assert cosines.abs().mean() < 0.5


@torch.no_grad()
@pytest.mark.parametrize("shared", [0.0, 5.0])
def test_what_all_utterances_share_does_not_reach_the_score(shared):
    model = encoder()
    model.pooled_norm.bias.fill_(shared)
    model.train()
    for seed in range(60):
        model(features(16, 100, seed=seed))
    embeddings = model.eval()(features(64, 100, seed=99))
    cosines = (embeddings @ embeddings.T)[~torch.eye(64, dtype=bool)]
    assert cosines.mean() < 0.3  # 0.99 without the last normalisation when all share an offset of 5


@torch.no_grad()
def test_without_norms_the_embedding_is_the_linear_map_of_the_pooled_values():
    model = encoder(embedding_norms="none")
    seen = []
    model.pooling.register_forward_hook(lambda _, __, output: seen.append(output))
    found = model(features(3, 100))
    expected = seen[0] @ model.embedding.weight.T
    torch.testing.assert_close(found, expected / expected.norm(dim=1, keepdim=True))


@torch.no_grad()
def test_layer_norms_make_each_embedding_of_mean_zero_whatever_its_batch():
    model = encoder(embedding_norms="layer").train()
    model.layers.eval()
    found = model(features(3, 100))
    assert found.mean(1).abs().max() < 1e-6
    torch.testing.assert_close(model(features(3, 100)[:1]), found[:1], rtol=1e-4, atol=1e-5)


def test_attention_of_training_equals_that_of_inference():
    query, key, value = torch.randn(3, 2, 4, 30, 8).double()
    fused = _attention(query, key, value, None)
    products = _attention(query.requires_grad_(), key, value, None)
    assert (fused - products).abs().max() < 1e-12


def test_channel_dropout_keeps_the_mean_and_drops_the_configured_share():
    layer = encoder(dropout=0.3, layer_drop=0.0).layers[0].train()
    torch.manual_seed(0)
    dropped = layer._drop(torch.ones(2000, 5, 32))
    assert (dropped == 0).float().mean() == pytest.approx(0.3, abs=0.01)
    assert dropped.mean() == pytest.approx(1.0, abs=0.01)
    assert (dropped == dropped[:, :1]).all()


def test_stochastic_depth_leaves_out_whole_branches_more_often_in_later_layers():
    model = encoder(dropout=0.0, layer_drop=0.4).train()
    torch.manual_seed(0)
    shares = [(layer._drop(torch.ones(4000, 1, 32)) == 0).float().mean().item() for layer in model.layers]
    assert shares == pytest.approx([0.2, 0.4], abs=0.03)


def test_the_smallest_utterance_that_fbank_gives_can_be_embedded():
    with torch.no_grad():
        embedding = encoder()(features(1, 1))
    assert torch.isfinite(embedding).all()


def test_bfloat16_training_step_gives_finite_gradients_close_to_float32():
    model = encoder(dropout=0.0, layer_drop=0.0).train()
    x, direction = features(8, 100), torch.randn(8, 24)

    def gradient(dtype):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            embedding = model(x)
        assert embedding.dtype == torch.float32
        (embedding * direction).sum().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    exact, rounded = gradient(torch.float32), gradient(torch.bfloat16)
    assert torch.cosine_similarity(exact, rounded, 0) > 0.98
