"""A step goes down its batch's gradient; one that is not finite changes nothing, weights, statistics and optimizer."""

import contextlib
import copy
import math
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.utils import counters

from spkver.config import load_config
from spkver.errors import SpkverError
from spkver.experiment.snapshots import GRADIENT_EDGES
from spkver.features import Fbank, mean_normalise
from spkver.heads import ArcMarginProductIntertopkSubcenter, ClassSlice, build_head, chunked_loss
from spkver.models import build_encoder
from spkver.training import step as step_module
from spkver.training.distributed import Ranks
from spkver.training.step import TrainingStep, plain_loss

N_CLASSES, N_STEPS = 12, 10
SUBCENTERS = [
    "head.name=intertopk_subcenter",
    "head.scale=32.0",
    "head.margin=0.2",
    "head.easy_margin=false",
    "head.K=2",
    "head.mp=0.06",
    "head.k_top=2",
    "head.do_lm=false",
]


@pytest.fixture
def make_step(tiny_config):
    def make(*overrides):
        config = load_config(tiny_config, ["training.device=cpu", "training.precision=float32", *overrides])
        torch.manual_seed(0)
        encoder = build_encoder(config.model, config.features.n_mels).train()
        head = build_head(config.head, config.model.embed_dim, N_CLASSES)
        return TrainingStep(config, encoder, head, torch.device("cpu"), torch.float32, Path("exp"))

    return make


def batch_of(seed):
    waveforms = 0.1 * torch.randn(6, 8000, generator=torch.Generator().manual_seed(seed))
    return waveforms, torch.arange(6), torch.zeros(6, dtype=torch.long)


def too_loud(step, batch):
    """Features that are infinite: a sample whose power is none of float32's numbers."""
    batch[0][0, 100] = 2e38


def not_a_number(step, batch):
    batch[0][1] = math.nan


def loss_of_nan(step, batch):
    step.encoder.register_forward_hook(lambda encoder, inputs, embeddings: embeddings * math.nan)


def infinite_gradient(step, batch):
    step.encoder.embedding.register_forward_hook(
        lambda module, inputs, output: output.register_hook(lambda gradient: gradient * math.inf) and None
    )


def overflowing_statistics(step, batch):
    """Loss and gradients stay finite: what is divided by an infinite deviation is 0."""
    step.encoder.pooling.register_forward_hook(lambda module, inputs, output: output * 1e25)


def state_of(step):
    return copy.deepcopy([step.encoder.state_dict(), step.head.state_dict(), step.optimizer.state_dict()])


def assert_equal(a, b):
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a.keys() - {"lr"}:  # the schedule's, set before each step
            assert_equal(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for one, other in zip(a, b):
            assert_equal(one, other)
    else:
        assert a == b


@pytest.mark.parametrize("fault", [too_loud, not_a_number, loss_of_nan, infinite_gradient, overflowing_statistics])
@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["optimizer.name=sgd"],
        ["optimizer.name=sgd", "optimizer.momentum=0"],
        ["optimizer.name=adamw", "model.average_spectrum=true"],
        ["optimizer.name=radam"],
        ["training.sampled_share=0.75", *SUBCENTERS],
        ["training.chunked_head_rows=1"],
    ],
    ids=["muon", "sgd", "plain sgd", "average_spectrum", "radam", "sampled sub-centers", "chunked head"],
)
def test_a_step_that_is_not_finite_leaves_everything_as_it_was(make_step, overrides, fault):
    step = make_step(*overrides)
    assert not step(batch_of(0), 0, 1, N_STEPS)["skipped"]
    before = state_of(step)
    batch = batch_of(1)
    fault(step, batch)
    record = step(batch, 0, 2, N_STEPS)
    assert record["skipped"]
    assert_equal(state_of(step), before)


@pytest.mark.parametrize("name", ["muon", "sgd", "adamw", "adam", "radam", "nadam"])
def test_a_first_step_that_is_not_finite_leaves_an_optimizer_as_if_new(make_step, name):
    plain, skipping = make_step(f"optimizer.name={name}"), make_step(f"optimizer.name={name}")
    bad = batch_of(1)
    not_a_number(skipping, bad)
    assert skipping(bad, 0, 2, N_STEPS)["skipped"]
    records = [step(batch_of(2), 0, 3, N_STEPS) for step in (plain, skipping)]
    assert records[0] == records[1]
    assert_equal(plain.encoder.state_dict(), skipping.encoder.state_dict())


def test_records_are_read_when_asked_for_and_in_order(make_step):
    at_once, late = make_step(), make_step()
    records = [at_once(batch_of(number), 0, number, N_STEPS) for number in range(4)]
    for number in range(3):
        late.do(batch_of(number), 0, number, N_STEPS)
    assert late.read() == records[:3]
    assert late.read() == []
    late.do(batch_of(3), 0, 3, N_STEPS)
    assert late.read() == records[3:]


class FirstOfTwo(Ranks):
    """Beside a second process that has the same as this one."""

    def __init__(self):
        super().__init__(0, 2)

    def wrapped(self, encoder):
        return encoder

    def joined(self, part):
        return torch.cat([part, part])

    def average(self, tensors):
        pass

    def total(self, part):
        return part.mul_(2)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        [
            "optimizer.name=adamw",
            "model.average_spectrum=true",
            "model.position=rotary",
            "augment.formant_factors=[1, 1.1]",
        ],
        ["optimizer.name=adam", "model.position=sinusoidal", "model.pooling=statistics"],
        ["optimizer.name=adam", *SUBCENTERS, "margin_schedule.initial=0.1"],
        ["training.head_megabytes=0.0001", *SUBCENTERS, "margin_schedule.initial=0.1"],
        ["training.sampled_share=0.75", *SUBCENTERS],
        ["training.sampled_share=0.75", "training.head_megabytes=0.0001", "head.name=softmax"],
        ["training.head=sharded", *SUBCENTERS, "margin_schedule.initial=0.1"],
    ],
    ids=["plain", "average spectrum", "sinusoidal", "sub-centers", "chunks", "sampled", "sampled chunks", "sharded"],
)
def test_no_step_waits_for_the_device(tiny_config, monkeypatch, overrides):
    """On torch's device without values nothing can be read, nor can it be found out how large a result would be."""
    # What does not know this device.
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: contextlib.nullcontext())
    monkeypatch.setitem(
        vars(sys.modules["torch.optim.optimizer"]), "_get_fused_kernels_supported_devices", lambda: ["meta"]
    )
    config = load_config(tiny_config, ["training.precision=float32", *overrides])
    meta = torch.device("meta")
    with meta:
        encoder = build_encoder(config.model, config.features.n_mels).train()
        ranks = FirstOfTwo() if config.training.head == "sharded" else Ranks()
        head = build_head(config.head, config.model.embed_dim, N_CLASSES, ClassSlice(ranks.rank, ranks.size))
    step = TrainingStep(config, encoder, head, meta, torch.float32, Path("exp"), ranks)
    for number in range(2):
        step.do(tuple(part.to(meta) for part in batch_of(number)), 0, number, N_STEPS)
    with pytest.raises((RuntimeError, NotImplementedError)):
        step.read()


def test_a_growing_margin_does_not_compile_the_loss_again():
    head = ArcMarginProductIntertopkSubcenter(8, N_CLASSES, K=2, k_top=2)
    embeddings, labels = torch.randn(6, 8), torch.arange(6)
    before = counters["stats"]["unique_graphs"]
    loss = torch.compile(plain_loss, backend="eager")  # what is traced, and when it is traced again
    for margin in (0.05, 0.1, 0.15, 0.2):
        head.update(margin)
        assert torch.equal(loss(head, embeddings, labels)[0], F.cross_entropy(head(embeddings, labels), labels))
    assert counters["stats"]["unique_graphs"] == before + 1


@pytest.mark.slow
def test_a_compiled_step_gives_the_losses_of_one_that_is_not_and_no_schedule_compiles_it_again(make_step):
    words = [*SUBCENTERS, "margin_schedule.start_epoch=0", "margin_schedule.initial=0.05"]
    plain, compiled = make_step(*words), make_step(*words, "training.compile=true")
    for number in range(4):
        if number == 2:
            graphs = counters["stats"]["unique_graphs"]
        records = [step(batch_of(number), 1, number, N_STEPS) for step in (plain, compiled)]
        assert records[1]["loss"] == pytest.approx(records[0]["loss"], rel=1e-4)
        assert records[1]["grad_norm"] == pytest.approx(records[0]["grad_norm"], rel=1e-3)
    assert 1 <= graphs == counters["stats"]["unique_graphs"]


@pytest.mark.parametrize(
    ("chosen", "device", "triton", "expected"),
    [
        ("auto", "cpu", True, False),
        ("auto", "cuda", True, True),
        ("auto", "cuda", False, False),
        (True, "cpu", False, True),
        (False, "cuda", True, False),
    ],
)
def test_a_step_is_compiled_on_its_own_on_a_gpu_only(monkeypatch, chosen, device, triton, expected):
    monkeypatch.setattr(step_module, "has_triton", lambda: triton)
    assert step_module.compiles(chosen, torch.device(device)) is expected


def test_after_a_skipped_step_the_next_is_as_if_it_had_not_been(make_step):
    plain, skipping = make_step(), make_step()
    for step in (plain, skipping):
        step(batch_of(0), 0, 1, N_STEPS)
    bad = batch_of(1)
    too_loud(skipping, bad)
    assert skipping(bad, 0, 2, N_STEPS)["skipped"]
    records = [step(batch_of(2), 0, 3, N_STEPS) for step in (plain, skipping)]
    assert records[0] == records[1]
    assert not records[0]["skipped"]
    assert_equal(state_of(plain), state_of(skipping))


def test_a_good_step_takes_its_batch_into_the_statistics(make_step):
    step = make_step()
    before = step.encoder.pooled_norm.running_mean.clone()
    step(batch_of(0), 0, 1, N_STEPS)
    assert not torch.equal(step.encoder.pooled_norm.running_mean, before)
    assert step.encoder.pooled_norm.num_batches_tracked == 1


STILL = [
    "model.dropout=0",
    "model.layer_drop=0",
    "augment.specaugment.probability=0",
    "augment.formant_factors=[1.0, 1.1]",
]


def by_definition(step, batch, margin):
    """Loss, logits, and the gradient of each weight, of a step without dropout or masks."""
    encoder, head = copy.deepcopy(step.encoder), copy.deepcopy(step.head)
    head.update(margin)
    waveforms, labels, formants = batch
    features, average = mean_normalise(Fbank(formant_factors=[1.0, 1.1])(waveforms, formants=formants)[0])
    logits = head(encoder(features, average=average), labels)
    loss = F.cross_entropy(logits, labels)
    parameters = [*encoder.parameters(), *head.parameters()]
    return loss, logits, torch.autograd.grad(loss, parameters)


@pytest.mark.parametrize("clip_norm", [1e9, 2.0])
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_a_step_goes_down_the_clipped_gradient_of_its_batch_as_its_record_says(make_step, clip_norm, momentum):
    words = ["optimizer.name=sgd", f"optimizer.momentum={momentum}", "optimizer.weight_decay=0.0"]
    step = make_step(*STILL, *words, f"training.clip_norm={clip_norm}", "lr_schedule.final_lr=0.001")
    waveforms, labels, _ = batch_of(0)
    batch = waveforms, labels, torch.tensor([0, 1, 0, 1, 1, 0])
    # Of 3 epochs, the second, a fifth in: 0.7 of the 2.5 after half an epoch of warm-up; the margin grows for two.
    lr = 0.001 + 0.009 * 0.5 * (1 + math.cos(math.pi * 0.7 / 2.5))
    margin = 0.2 * (1 - 0.001**0.6) / (1 - 0.001)
    loss, logits, gradients = by_definition(step, batch, margin)
    norm = math.sqrt(sum(gradient.square().sum().item() for gradient in gradients))
    before = [parameter.detach().clone() for parameter in [*step.encoder.parameters(), *step.head.parameters()]]

    record = step(batch, 1, 2, N_STEPS)
    assert record == {
        "epoch": 2,
        "step": 3,
        "loss": pytest.approx(loss.item(), rel=1e-5),
        "accuracy": pytest.approx((logits.argmax(1) == labels).float().mean().item()),
        "lr": pytest.approx(lr, rel=1e-9),
        "margin": pytest.approx(margin, rel=1e-9),
        "grad_norm": pytest.approx(norm, rel=1e-4),
        "clipped": norm > clip_norm,
        "skipped": False,
    }
    assert norm > 2.0
    factor = min(1.0, clip_norm / norm)
    # The first step of Nesterov's momentum looks ahead by what it has: the gradient itself.
    for own, old, gradient in zip([*step.encoder.parameters(), *step.head.parameters()], before, gradients):
        expected = old - lr * factor * (1 + momentum) * gradient
        assert (own - expected).abs().max() <= 1e-3 * (expected - old).abs().max() + 1e-7


def test_masks_and_dropout_are_those_of_the_seed_epoch_and_step(make_step):
    def loss(seed, epoch, step_number):
        # The rate of the schedule does not change a step's own loss, and the margin has grown by then.
        step = make_step(f"seed={seed}", "margin_schedule.end_epoch=0.5")
        return step(batch_of(0), epoch, step_number, N_STEPS)["loss"]

    losses = [loss(1, 1, 2), loss(1, 1, 2), loss(2, 1, 2), loss(1, 2, 2), loss(1, 1, 3)]
    assert losses[0] == losses[1]
    assert len(set(losses)) == 4


def test_histograms_of_the_gradients_are_kept_of_a_watched_step_only(make_step):
    step = make_step("training.clip_norm=0.001")
    step(batch_of(0), 0, 1, N_STEPS)
    assert step.gradients is None
    record = step(batch_of(1), 0, 2, N_STEPS, watch=True)
    before, after = step.gradients.double()
    middle = torch.from_numpy((GRADIENT_EDGES[1:] + GRADIENT_EDGES[:-1]) / 2)
    assert before.sum() == after.sum() > 1000
    moved = (before - after) @ middle / before.sum()
    assert moved == pytest.approx(math.log10(record["grad_norm"] / 0.001), abs=0.05)


def test_so_many_skipped_steps_in_a_row_stop_the_run_and_a_good_one_counts_anew(make_step):
    step = make_step("training.max_skipped_in_a_row=3")
    bad = batch_of(1)
    not_a_number(step, bad)
    for turn in range(2):
        for count in (1, 2):
            assert step(bad, 0, count, N_STEPS)["skipped"]
            assert step.skipped_in_a_row == count
        assert not step(batch_of(turn), 0, 3, N_STEPS)["skipped"]
        assert step.skipped_in_a_row == 0
    for _ in range(2):
        step(bad, 1, 4, N_STEPS)
    with pytest.raises(SpkverError, match=r"^exp: 3 steps in a row were not finite \(epoch 2, step 5, loss nan, grad"):
        step(bad, 1, 4, N_STEPS)


@pytest.mark.parametrize(("rows", "chunked"), [(12, True), (13, False)])
def test_a_head_is_computed_in_chunks_from_so_many_rows_on(make_step, monkeypatch, rows, chunked):
    asked = []
    monkeypatch.setattr(
        step_module,
        "chunked_loss",
        lambda head, embeddings, labels, *more: asked.append(more) or chunked_loss(head, embeddings, labels),
    )
    step = make_step(f"training.chunked_head_rows={rows}", "training.chunked_head_products=bfloat16")
    assert not step(batch_of(0), 0, 1, N_STEPS)["skipped"]
    assert asked == ([("bfloat16",)] if chunked else [])


def test_logits_that_would_take_too_many_bytes_are_computed_in_chunks(make_step):
    by_rows, by_bytes = make_step(), make_step("training.head_megabytes=1")
    assert [by_rows._takes_chunks(rows, 10_000) for rows in (19_999, 20_000)] == [False, True]  # on a CPU, any batch
    assert [by_bytes._takes_chunks(rows, 256) for rows in (1024, 1025)] == [False, True]  # 4 bytes each
    by_rows.device = by_bytes.device = torch.device("cuda")
    assert [by_rows._takes_chunks(rows, 512) for rows in (1 << 20, (1 << 20) + 1)] == [False, True]  # 2 GiB
    assert [by_bytes._takes_chunks(rows, 256) for rows in (1024, 1025)] == [False, True]


def test_rows_of_sampled_classes_have_an_optimizer_of_their_own(make_step):
    step = make_step(
        "training.sampled_share=0.75", "optimizer.betas=[0.8, 0.9]", "optimizer.weight_decay=0.25", *SUBCENTERS
    )
    assert step.optimizer.parts[-1] is step.rows
    (group,) = step.rows.param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.01, (0.8, 0.9), 0.25)
    assert make_step().rows is None
