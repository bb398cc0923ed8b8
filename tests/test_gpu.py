"""On a GPU a step, an embedding and a loss are the CPU's, and a step waits for nothing.

``SPKVER_TEST_GPU=1 python -m pytest -m gpu tests``; `recipes/benchmark/run.sh gpu` runs them, too.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from spkver.config import load_config
from spkver.embedding.extractor import Extractor
from spkver.heads import ArcMarginProductIntertopkSubcenter, build_head, chunked_loss
from spkver.models import build_encoder
from spkver.training.step import TrainingStep

pytestmark = pytest.mark.gpu
GPU = torch.device("cuda")
N_CLASSES = 40
QUIET = ["model.dropout=0", "model.layer_drop=0", "model.embedding_dropout=0", "augment.specaugment.probability=0"]


def step_on(device, path, *overrides):
    config = load_config(path, ["training.precision=float32", "training.compile=false", *overrides])
    torch.manual_seed(0)
    encoder = build_encoder(config.model, config.features.n_mels).train()
    head = build_head(config.head, config.model.embed_dim, N_CLASSES)
    encoder.to(device, memory_format=torch.channels_last)
    return TrainingStep(config, encoder, head.to(device), device, torch.float32, Path("exp"))


def batch_of(seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randperm(N_CLASSES, generator=generator)[:12]
    return 0.1 * torch.randn(12, 16000, generator=generator), labels, torch.zeros(12, dtype=torch.int64)


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "sgd"])
def test_steps_are_those_of_a_cpu(tiny_config, optimizer):
    steps = [
        step_on(device, tiny_config, f"optimizer.name={optimizer}", *QUIET) for device in (torch.device("cpu"), GPU)
    ]
    for number in range(5):
        on_cpu, on_gpu = (step(batch_of(number), 0, number, 10) for step in steps)
        assert on_gpu["loss"] == pytest.approx(on_cpu["loss"], rel=1e-3)
        assert on_gpu["grad_norm"] == pytest.approx(on_cpu["grad_norm"], rel=1e-2)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["optimizer.name=adamw"],
        ["optimizer.name=sgd"],
        ["training.sampled_share=0.5"],
        ["training.head_megabytes=0.001"],
    ],
    ids=["muon", "adamw", "sgd", "sampled", "chunks"],
)
def test_a_step_waits_for_nothing(tiny_config, overrides):
    step = step_on(GPU, tiny_config, *overrides)
    batches = [tuple(part.to(GPU) for part in batch_of(number)) for number in range(3)]
    step(batches[0], 0, 0, 10)  # what is prepared once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number in (1, 2):
            step.do(batches[number], 0, number, 10)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [record["skipped"] for record in step.read()] == [False, False]


def test_a_step_that_is_not_finite_is_undone(tiny_config):
    step = step_on(GPU, tiny_config)
    step(batch_of(0), 0, 0, 10)
    before = [value.clone() for value in [*step.encoder.state_dict().values(), *step.head.state_dict().values()]]
    waveforms, *rest = batch_of(1)
    waveforms[0] = torch.nan
    assert step((waveforms, *rest), 0, 1, 10)["skipped"]
    after = [*step.encoder.state_dict().values(), *step.head.state_dict().values()]
    assert all(torch.equal(one, other) for one, other in zip(before, after))


@pytest.mark.parametrize("factors", ["float32", "bfloat16"])
def test_the_loss_in_chunks_is_the_plain_one(factors):
    torch.manual_seed(0)
    head = ArcMarginProductIntertopkSubcenter(64, 5000, K=3).to(GPU)
    embeddings = F.normalize(torch.randn(32, 64, device=GPU)).requires_grad_()
    labels = torch.randint(5000, (32,), device=GPU)
    expected = F.cross_entropy(head(embeddings, labels), labels)
    loss, _ = chunked_loss(head, embeddings, labels, factors, chunk_rows=2000)
    tolerance = 1e-5 if factors == "float32" else 2e-2
    assert loss.item() == pytest.approx(expected.item(), rel=tolerance)
    inputs = [embeddings, head.weight]
    for one, other in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs)):
        assert (one - other).norm() <= 5 * tolerance * other.norm()


def test_embeddings_are_those_of_a_cpu(tiny_config):
    config = load_config(tiny_config)
    torch.manual_seed(0)
    encoder = build_encoder(config.model, config.features.n_mels).eval()
    generator = np.random.default_rng(1)
    waveforms = [0.1 * generator.standard_normal(n).astype(np.float32) for n in (16000, 40000, 23456)]
    on_cpu = Extractor(encoder, config).embed(waveforms)
    on_gpu = Extractor(encoder.to(GPU), config).embed(waveforms)
    for one, other in zip(on_cpu, on_gpu):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), atol=1e-4)
