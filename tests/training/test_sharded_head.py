"""A head divided among processes: the losses, files and further runs of one that is not."""

import copy
import functools
import multiprocessing
import os
import resource
import shutil
import signal
import socket
from pathlib import Path

import forked  # noqa: F401  (its server has what training needs)
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from spkver.cli import main
from spkver.config import load_config
from spkver.errors import SpkverError
from spkver.experiment.log import read_log
from spkver.experiment.snapshots import read_snapshot, snapshot_files
from spkver.heads import (
    WHOLE,
    ArcMarginProduct,
    ArcMarginProductIntertopkSubcenter,
    ClassSlice,
    NormFace,
    Softmax,
    build_head,
    chunked_loss,
    draw_classes,
)
from spkver.models import build_encoder
from spkver.training import head_slices
from spkver.training.distributed import Ranks
from spkver.training.head_slices import HeadSlices, head_bytes, slice_of_head
from spkver.training.optim import RowAdamW, betas_of, build_optimizer
from spkver.training.step import TrainingStep
from spkver.training.trainer import Trainer

# Of rank 0 and 1, or of 0 to 2: 11 and 12 classes, or 7, 8 and 8.
IN, CLASSES, BATCH = 8, 23, 12
LABEL = torch.tensor([0, 1, 3, 4, 4, 7, 10, 11, 15, 16, 22, 22])
HEADS = {
    "softmax": functools.partial(Softmax, IN, CLASSES),
    "normface": functools.partial(NormFace, IN, CLASSES),
    "arcface": functools.partial(ArcMarginProduct, IN, CLASSES, margin=0.4),
    "intertopk sub-center": functools.partial(ArcMarginProductIntertopkSubcenter, IN, CLASSES, K=3),
}


def in_processes(n, work, tmp_path, *arguments):
    """``work(*arguments)`` in ``n`` processes, as torchrun starts them; returns what each returns."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n)}
    context, started = multiprocessing.get_context("forkserver"), []
    for rank in range(n):
        receiver, sender = context.Pipe(duplex=False)
        environment = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        output = tmp_path / f"output {rank}"
        process = context.Process(target=_one, args=(environment, output, sender, work, *arguments))
        process.start()
        sender.close()
        started.append((process, receiver, output))
    returned = []
    for process, receiver, output in started:
        assert receiver.poll(400), output.read_text()
        try:
            returned.append(receiver.recv())
        except EOFError:
            pytest.fail(output.read_text())
        process.join(60)
    return returned


def _one(environment, output, sender, work, *arguments):
    os.environ.update(environment)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    multiprocessing.set_start_method(None, force=True)
    sender.send(work(*arguments))


def found_in_a_process():
    with Ranks.of_environment() as ranks:
        return {(name, sampled): found_by(ranks, make, sampled) for name, make in HEADS.items() for sampled in (0, 1)}


def found_by(ranks, make, sampled):
    """Loss, items that are right, and the gradients of this process's embeddings and rows."""
    torch.manual_seed(0)
    head = make(class_slice=ClassSlice(ranks.rank, ranks.size))
    mine = slice(ranks.rank * BATCH // ranks.size, (ranks.rank + 1) * BATCH // ranks.size)
    embeddings = torch.randn(BATCH, IN, generator=torch.Generator().manual_seed(1))[mine].requires_grad_()
    labels = LABEL
    if sampled:
        torch.manual_seed(2)
        classes = draw_classes(LABEL, CLASSES, 15)
        head, labels = head.part(classes), torch.searchsorted(classes, LABEL)
    if ranks.size == 1:
        logits = head(embeddings, labels)
        loss, n_correct = F.cross_entropy(logits, labels), (logits.argmax(1) == labels).sum()
    else:
        joined, labels = ranks.whole_batch(embeddings), ranks.joined(labels[mine])
        loss, n_correct = chunked_loss(head, joined, labels, of_slices=ranks.of_slices)
    loss.backward()
    # The encoder's gradients will be the mean over processes.
    gradients = {"embeddings": embeddings.grad / ranks.size}
    gradients |= {name: parameter.grad for name, parameter in head.named_parameters()}
    return loss.item(), int(n_correct), {name: gradient.numpy() for name, gradient in gradients.items()}


@pytest.mark.parametrize("n", [2, pytest.param(3, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)])
def test_processes_find_the_loss_and_the_gradients_of_the_whole_head(tmp_path, n):
    each = in_processes(n, found_in_a_process, tmp_path)
    for name, make in HEADS.items():
        for sampled in (0, 1):
            loss, n_correct, gradients = found_by(Ranks(), make, sampled)
            found = [of_process[name, sampled] for of_process in each]
            assert [one[0] for one in found] == pytest.approx([loss] * n, rel=1e-5)
            assert [one[1] for one in found] == [n_correct] * n
            for parameter, gradient in gradients.items():
                joined = np.concatenate([one[2][parameter] for one in found])
                np.testing.assert_allclose(joined, gradient, rtol=1e-5, atol=1e-5 * np.abs(gradient).max())


# 14 steps whose losses hardly depend on the last digits, of a head with all that a head may have.
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
CALM = [
    *SUBCENTERS,
    "margin_schedule.initial=0.1",
    "optimizer.name=sgd",
    "optimizer.lr=0.001",
    "augment.reverb.probability=0.0",  # an FFT of half a batch has other last digits, which quiet bands make much of
    "batch.speakers=12",
    "training.epochs=2",
    "training.head=sharded",
]


class Unreadable:
    """Batches of which the next has a file that cannot be read."""

    between_passes = False

    def __next__(self):
        raise SpkverError("a.wav: cannot be read")


def command(words, stop_at=None, by_signal=True):
    """A ``spkver`` command; with ``stop_at``, the last process is told to stop before that step, or cannot read it."""
    go_on = Trainer._next

    def next_or_stop(self, batches):
        if self._steps_done() == stop_at and self.ranks.rank == self.ranks.size - 1:
            if not by_signal:
                return go_on(self, Unreadable())
            os.kill(os.getpid(), signal.SIGTERM)
        return go_on(self, batches)

    Trainer._next = next_or_stop
    try:
        return main([str(word) for word in words])
    finally:
        Trainer._next = go_on


def logged(exp, key="loss", kind="step"):
    return [record[key] for record in read_log(exp / "log.jsonl", kind)]


def assert_same_weights(path, other):
    weights, expected = load_file(path), load_file(other)
    assert weights.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(weights[key], value, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def alone(tiny_config, voices, tmp_path_factory):
    exp = tmp_path_factory.mktemp("alone") / "exp"
    assert main(["train", str(tiny_config), "--data", str(voices), "--exp", str(exp), *CALM]) == 0
    return exp


@pytest.mark.parametrize(
    "numbers",
    [(2, 2, 1), pytest.param((4, 2, 1), marks=pytest.mark.slow), pytest.param((3, 1, 4), marks=pytest.mark.slow)],
)
def test_a_run_goes_on_in_other_numbers_of_processes_as_if_one_had_the_whole_head(
    alone, tiny_config, voices, tmp_path, numbers
):
    exp = tmp_path / "exp"
    words = ["train", tiny_config, "--data", voices, "--exp", exp, *CALM]
    first, second, third = numbers
    assert in_processes(first, command, tmp_path, words, 5) == [*[75] * (first - 1), 128 + signal.SIGTERM]
    # All of them hand over what they hold, also the one that cannot go on.
    stopped = in_processes(second, command, tmp_path, [*words, "--resume"], 9, False)
    assert stopped == [*[75] * (second - 1), 1]
    assert torch.load(exp / "checkpoints/last.pt", weights_only=True)["step"] == 2
    assert in_processes(third, command, tmp_path, [*words, "--resume"]) == [0] * third

    np.testing.assert_allclose(logged(exp), logged(alone), rtol=1e-5)
    np.testing.assert_allclose(logged(exp, "grad_norm"), logged(alone, "grad_norm"), rtol=1e-4)
    for key in ("accuracy", "held_out_eer"):
        assert logged(exp, key, "epoch") == pytest.approx(logged(alone, key, "epoch"))
    assert (exp / "untrained/head.safetensors").read_bytes() == (alone / "untrained/head.safetensors").read_bytes()
    for epoch in (1, 2):
        assert_same_weights(*(of / f"checkpoints/epoch-00{epoch}.safetensors" for of in (exp, alone)))
    for epoch in (0, 1, 2):
        ours, expected = (read_snapshot(snapshot_files(of / "snapshots")[epoch], epoch) for of in (exp, alone))
        assert ours.predicted.tolist() == expected.predicted.tolist()
        np.testing.assert_allclose(ours.centres, expected.centres, rtol=1e-4, atol=1e-5)
        # Of 1,500 gradients, a few near an edge fall to its other side.
        for one, other in (
            (getattr(of, name) for of in (ours, expected)) for name in ("gradients_before", "gradients_after")
        ):
            assert np.abs(one - other).sum() <= 0.02 * other.sum()


def test_processes_that_share_an_average_write_the_model_of_one(alone, tiny_config, voices, tmp_path):
    exp = shutil.copytree(alone, tmp_path / "exp")
    assert main(["average", str(alone)]) == 0
    assert in_processes(2, command, tmp_path, ["average", exp]) == [0, 0]
    for name in ("model.safetensors", "head.safetensors"):
        assert_same_weights(exp / "model" / name, alone / "model" / name)
    assert "held-out EER" in (tmp_path / "output 0").read_text() and (tmp_path / "output 1").read_text() == ""

    # Fine-tuning: the speakers of the model keep their rows, three others begin at the centres of theirs.
    losses = []
    for n in (1, 2):
        tuned = tmp_path / f"tuned in {n}"
        words = ["train", tiny_config, "--data", voices, "--exp", tuned, "--init", alone / "model", *CALM]
        words += ["training.epochs=1", "data.held_out_speakers=0"]
        assert in_processes(n, command, tmp_path, words) == [0] * n
        assert "kept 7, new 3, dropped 0 speakers" in (tmp_path / "output 0").read_text()
        losses.append(logged(tuned))
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    assert_same_weights(*(tmp_path / f"tuned in {n}" / "untrained/head.safetensors" for n in (2, 1)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["training.sampled_share=0.7"],
        ["training.accumulate=2", "batch.speakers=6", "model.embedding_norms=layer"],
        ["optimizer.name=adamw", "optimizer.lr=0.0003"],
    ],
    ids=["sampled", "in pieces", "adamw"],
)
def test_two_processes_train_a_divided_head_as_one_does_the_whole(tiny_config, voices, tmp_path, words):
    losses = []
    for n in (1, 2):
        exp = tmp_path / f"in {n}"
        words_of_it = ["train", tiny_config, "--data", voices, "--exp", exp, *CALM, "training.epochs=1", *words]
        assert in_processes(n, command, tmp_path, words_of_it) == [0] * n
        losses.append([logged(exp), logged(exp, "grad_norm")])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


def peak_bytes():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def with_a_million_classes(tiny_config):
    """Losses of three steps, and by how many bytes training, and then saving, lifted the process's peak."""
    words = [*SUBCENTERS, "head.K=3", "model.embed_dim=32", "optimizer.name=adam", "training.head=sharded"]
    config = load_config(tiny_config, words)
    with Ranks.of_environment() as ranks:
        cpu, before = torch.device("cpu"), peak_bytes()
        torch.manual_seed(0)
        encoder = build_encoder(config.model, config.features.n_mels).train()
        head = build_head(config.head, 32, 1_000_000, slice_of_head(config, 32, 1_000_000, cpu, ranks))
        step = TrainingStep(config, encoder, head, cpu, torch.float32, Path("exp"), ranks)
        generator = torch.Generator().manual_seed(1)
        waveforms, labels = 0.1 * torch.randn(16, 8000, generator=generator), torch.arange(16) * 62_500
        batch = [part.chunk(ranks.size)[ranks.rank] for part in (waveforms, labels, torch.zeros(16, dtype=torch.long))]
        losses = [step(batch, 0, number, 100)["loss"] for number in range(3)]
        trained = peak_bytes() - before
        slices = HeadSlices(head, ranks)
        saved = slices.whole_weights(), slices.whole_state(step.optimizer)
        assert not ranks.is_first or saved[0]["weight"].shape == (3_000_000, 32)
        return losses, trained, peak_bytes() - before


@pytest.mark.slow
def test_a_million_classes_with_three_sub_centers_train_and_take_their_share_of_memory(tiny_config, tmp_path):
    found = {n: in_processes(n, with_a_million_classes, tmp_path, tiny_config) for n in (1, 2, 4)}
    (alone, of_whole, _), *_ = found[1]
    assert alone[2] < alone[0] < 40
    for n, processes in found.items():
        for rank, (losses, trained, saved) in enumerate(processes):
            print(f"{n} processes, rank {rank}: {trained / 2**20:.0f} MiB, {saved / 2**20:.0f} MiB when saved")
            np.testing.assert_allclose(losses, alone, rtol=1e-4)
            # Weights, gradients, two moments; and what a process has whatever the head.
            assert 16 * 3_000_000 * 32 / n <= trained <= of_whole / n + 400 * 2**20


class Beside(Ranks):
    """One of several ranks of a test that speak one after the other, the first last."""

    def __init__(self, rank, size, sent):
        super().__init__(rank, size, rank, size)
        self.sent = sent

    def gathered(self, part, lengths):
        if not self.is_first:
            self.sent.setdefault(self.rank, []).append(part)
            return part
        return torch.cat([part, *(self.sent[rank].pop(0) for rank in range(1, self.size))])


def state_of(optimizer, parameters):
    """Something of the shape of each gradient, and a step by it."""
    for number, parameter in enumerate(parameters):
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    optimizer.step()


@pytest.mark.parametrize("name", ["muon", "adamw", "sgd", "radam", "nadam", "rows"])
@pytest.mark.parametrize("kind", ["softmax", "intertopk_subcenter"])
def test_an_optimizers_state_is_divided_and_put_together_again(tiny_config, name, kind):
    words = SUBCENTERS if kind == "intertopk_subcenter" else ["head.name=softmax"]
    config = load_config(tiny_config, [*words, *([] if name == "rows" else [f"optimizer.name={name}"])])

    def made(class_slice=WHOLE):
        torch.manual_seed(0)
        encoder = nn.Linear(4, IN)
        head = build_head(config.head, IN, CLASSES, class_slice)
        rows = RowAdamW(head, 0.1, betas_of(config.optimizer), 0.1) if name == "rows" else None
        return encoder, head, build_optimizer(config.optimizer, encoder, head, torch.float32, rows)

    encoder, head, optimizer = made()
    state_of(optimizer, [*encoder.parameters(), *head.parameters()])
    whole, sent, again = copy.deepcopy(optimizer.state_dict()), {}, None
    for rank in (2, 1, 0):
        _, part, of_part = made(ClassSlice(rank, 3))
        slices = HeadSlices(part, Beside(rank, 3, sent))
        of_part.load_state_dict(slices.own_state(of_part, whole))
        part.load_state_dict(slices.own_weights(head.state_dict()))
        again = slices.whole_state(of_part), slices.whole_weights()
    assert_equal(again[0], whole)
    assert_equal(again[1], dict(head.state_dict()))


def assert_equal(one, other):
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_equal(value, other[key])
    elif isinstance(one, list):
        for value, of_other in zip(one, other, strict=True):
            assert_equal(value, of_other)
    else:
        assert one == other


def test_a_head_is_divided_by_itself_where_it_takes_more_than_a_quarter_of_the_memory(tiny_config, monkeypatch):
    # 1,000,000 x 3 rows of 192: 9.2 GB of weights, gradients and moments, 0.4 GB of logits.
    assert head_bytes(3_000_000, 192, 64) == 9_216_000_000 + 12 * 2**25
    assert head_bytes(1000, 192, 64) == 3_072_000 + 768_000
    config = load_config(tiny_config, SUBCENTERS)
    ranks = Ranks(1, 2, 1, 2)
    monkeypatch.setattr(ranks, "smallest", lambda memory: memory - 1)
    # Of the batch's 6 items a process has 3; 500 classes have 1000 rows. A CPU's memory is that of both.
    needed = head_bytes(1000, 16, 3)
    for device, machine in (("cpu", 2 * (4 * needed + 1)), ("cuda", 4 * needed + 1)):
        for less, expected in ((0, WHOLE), (2, ClassSlice(1, 2))):
            monkeypatch.setattr(head_slices, "memory_of", lambda _, memory=machine - less: memory)
            assert slice_of_head(config, 16, 500, torch.device(device), ranks) == expected


@pytest.mark.parametrize(
    ("chosen", "size", "expected"),
    [("replicated", 2, WHOLE), ("sharded", 2, ClassSlice(1, 2)), ("sharded", 1, WHOLE), ("auto", 1, WHOLE)],
)
def test_a_head_is_divided_among_several_processes_where_asked_for(tiny_config, chosen, size, expected):
    config = load_config(tiny_config, [f"training.head={chosen}"])
    assert slice_of_head(config, 16, 500, torch.device("cpu"), Ranks(size - 1, size, 0, size)) == expected
