"""Several processes train as one: the same losses, the same model, and all stop when one does."""

import resource
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import Forked, environments, on_ranks
from safetensors.torch import load_file
from torch import nn

from spkver.cli import main
from spkver.config import load_config
from spkver.data.audio_check import keep_usable
from spkver.data.directory import read_data_directory
from spkver.errors import SpkverError
from spkver.experiment.log import read_log
from spkver.experiment.paths import Experiment
from spkver.features.batch_part import BatchDropout, BatchPart, computing, drawn
from spkver.heads import build_head
from spkver.models import build_encoder
from spkver.training.distributed import Ranks, share_batch_norms
from spkver.training.step import TrainingStep
from spkver.training.trainer import Trainer

# 56 steps whose losses hardly depend on the last digits: with Muon, a high rate or few items in a BatchNorm, rounding
# grows a thousand times over within some steps, whatever adds up in another order.
CALM = [
    "optimizer.name=sgd",
    "optimizer.lr=0.0002",
    "batch.utterances=2",
    "training.epochs=8",
    "model.embedding_dropout=0.2",
    "model.average_spectrum=true",
    "augment.reverb.probability=0.0",  # an FFT of half a batch has other last digits, which quiet bands make much of
]


def processes(n, *words):
    """A ``spkver`` command in ``n`` processes, as torchrun starts them."""
    return [Forked(*words, environment=environment) for environment in environments(n)]


def train(n, tiny_config, voices, exp, *words):
    started = processes(n, "train", tiny_config, "--data", voices, "--exp", exp, *words)
    ended = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0] * n, ended
    return ended


def logged(exp, key="loss", kind="step"):
    return [record[key] for record in read_log(exp / "log.jsonl", kind)]


@pytest.fixture(scope="module")
def alone(tiny_config, voices, tmp_path_factory):
    exp = tmp_path_factory.mktemp("alone") / "exp"
    assert main(["train", str(tiny_config), "--data", str(voices), "--exp", str(exp), *CALM]) == 0
    return exp


def test_processes_together_log_the_losses_of_one_and_write_the_same_model(alone, tiny_config, voices, tmp_path):
    ended = train(2, tiny_config, voices, tmp_path / "exp", *CALM)
    assert_same(tmp_path / "exp", alone, 56)
    # The first speaks for all.
    assert "epoch 8/8" in ended[0][0] and all(output == "" for output, _ in ended[1:])


@pytest.mark.slow
def test_three_and_four_processes_log_the_losses_of_one_and_write_the_same_model(tiny_config, voices, tmp_path):
    words = [*CALM, "batch.speakers=12", "training.epochs=20"]  # what both numbers divide
    train(1, tiny_config, voices, tmp_path / "1", *words)
    for n in (3, 4):
        train(n, tiny_config, voices, tmp_path / str(n), *words)
        assert_same(tmp_path / str(n), tmp_path / "1", 50)


def assert_same(exp, alone, n_steps):
    """At least so many steps have the same losses, and the last epoch's weights are the same."""
    assert len(logged(alone)) >= n_steps
    np.testing.assert_allclose(logged(exp), logged(alone), rtol=1e-5)
    np.testing.assert_allclose(logged(exp, "grad_norm"), logged(alone, "grad_norm"), rtol=1e-3)
    keys = ("epoch", "accuracy", "held_out_eer", "lr", "margin")
    assert [logged(exp, key, "epoch") for key in keys] == [logged(alone, key, "epoch") for key in keys]
    last = sorted((alone / "checkpoints").glob("epoch-*.safetensors"))[-1]
    weights, expected = load_file(exp / "checkpoints" / last.name), load_file(last)
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-4)


def test_a_run_goes_on_in_another_number_of_processes_with_the_same_losses(alone, tiny_config, voices, tmp_path):
    words = ["train", tiny_config, "--data", voices, "--exp", tmp_path / "exp", *CALM]
    both = processes(2, *words)
    wait_for_steps(both[0], tmp_path / "exp", 18)
    both[1].send_signal(signal.SIGTERM)  # to one, as the others hear of it
    ended = [process.communicate(timeout=120) for process in both]
    assert both[1].returncode == 128 + signal.SIGTERM and both[0].returncode == 75, ended
    assert "saved at epoch" in ended[0][1]
    assert main([*map(str, words), "--resume"]) == 0
    np.testing.assert_allclose(logged(tmp_path / "exp"), logged(alone), rtol=1e-5)


def wait_for_steps(process, exp, n):
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if (exp / "log.jsonl").exists() and len(read_log(exp / "log.jsonl", "step")) >= n:
            return
        time.sleep(0.01)
    pytest.fail(f"no {n} steps: {process.communicate()}")


def test_a_process_that_is_killed_ends_the_others_and_the_run_can_go_on(alone, tiny_config, voices, tmp_path):
    exp = tmp_path / "exp"
    words = ["train", tiny_config, "--data", voices, "--exp", exp, *CALM, "training.checkpoint_minutes=0.002"]
    both = processes(2, *words)
    wait_for_steps(both[0], exp, 10)
    both[1].kill()
    _, errors = both[0].communicate(timeout=60)
    assert both[0].returncode == 75
    assert "a process of the training has ended; go on with --resume" in errors and "Traceback" not in errors
    train(2, tiny_config, voices, exp, *CALM, "training.checkpoint_minutes=0.002", "--resume")
    np.testing.assert_allclose(logged(exp), logged(alone), rtol=1e-5)


def test_a_file_that_one_process_cannot_read_stops_all_with_one_message(tiny_config, voices, tmp_path):
    data, exp = tmp_path / "data", tmp_path / "exp"
    shutil.copytree(voices, data)
    both = processes(2, "train", tiny_config, "--data", data, "--exp", exp, *CALM, "training.epochs=50")
    wait_for_steps(both[0], exp, 3)
    for path in (data / "wav").rglob("*1.wav"):
        path.unlink()
    ended = [process.communicate(timeout=120)[1] for process in both]
    assert sorted(process.returncode for process in both) == [1, 75], "\n".join(ended)
    assert sum("1.wav" in line for errors in ended for line in errors.splitlines()) == 1
    assert not any("Traceback" in errors for errors in ended)


@pytest.mark.parametrize("head", ["replicated", pytest.param("sharded", marks=pytest.mark.slow)])
def test_a_full_disk_stops_all_with_one_message(alone, tiny_config, voices, tmp_path, head):
    exp = tmp_path / "exp"
    often = [*CALM, "training.checkpoint_minutes=0.002", f"training.head={head}"]
    both = processes(2, "train", tiny_config, "--data", voices, "--exp", exp, *often)
    wait_for_steps(both[0], exp, 10)
    # Of the process that writes no file can become longer than the log; what it says is shorter.
    full = (exp / "log.jsonl").stat().st_size
    resource.prlimit(both[0].pid, resource.RLIMIT_FSIZE, (full, resource.RLIM_INFINITY))
    ended = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [1, 75], "\n".join(ended)
    assert "cannot be written (File too large)" in ended[0] and ended[0].count("\n") == 1 and ended[1] == "", ended
    train(2, tiny_config, voices, exp, *often, "--resume")
    np.testing.assert_allclose(logged(exp), logged(alone), rtol=1e-5)


def three_steps(tiny_config):
    """The records of three steps, the second of which is not finite for process 1, and the weights after each."""
    config = load_config(tiny_config, [])
    with Ranks.of_environment() as ranks:
        torch.manual_seed(0)
        encoder = build_encoder(config.model, config.features.n_mels).train()
        head = build_head(config.head, config.model.embed_dim, 12)
        step = TrainingStep(config, encoder, head, torch.device("cpu"), torch.float32, Path("exp"), ranks)
        records, weights = [], []
        for number in range(3):
            generator = torch.Generator().manual_seed(2 * number + ranks.rank)
            waveforms = 0.1 * torch.randn(3, 8000, generator=generator)
            if number == ranks.rank == 1:
                waveforms[2, 100] = torch.nan
            labels = torch.arange(3) + 3 * ranks.rank
            records.append(step((waveforms, labels, torch.zeros_like(labels)), 0, number, 10))
            values = [*encoder.state_dict().values(), *head.state_dict().values()]
            weights.append(torch.cat([value.float().flatten() for value in values]).tolist())
        return records, weights


def test_a_step_that_is_not_finite_for_one_process_is_skipped_by_all(tiny_config):
    (records, weights), other = on_ranks(2, three_steps, tiny_config)
    assert [record["skipped"] for record in records] == [False, True, False]
    assert weights[0] == weights[1] != weights[2]
    assert other[1] == weights
    assert [record["skipped"] for record in other[0]] == [False, True, False]


@pytest.mark.parametrize("n", [1, 2])
def test_a_batch_in_pieces_gives_the_losses_of_the_whole(tiny_config, voices, tmp_path, n):
    calm = ["optimizer.lr=0.0005", "model.embedding_norms=layer", "training.epochs=1", "snapshots.speakers=0"]
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    for exp, words in ((whole, ["batch.speakers=12"]), (pieces, ["batch.speakers=4", "training.accumulate=3"])):
        if n == 1 or exp == whole:
            assert main(["train", str(tiny_config), "--data", str(voices), "--exp", str(exp), *calm, *words]) == 0
        else:
            train(n, tiny_config, voices, exp, *calm, *words)
    np.testing.assert_allclose(logged(pieces), logged(whole), rtol=1e-5)
    # Muon's steps do not show it if the pieces' gradients are added up too large.
    np.testing.assert_allclose(logged(pieces, "grad_norm"), logged(whole, "grad_norm"), rtol=1e-3)


def test_masks_of_parts_are_those_of_the_whole_batch():
    def masks(part, batch):
        torch.manual_seed(1)
        with computing(part):
            first = drawn(lambda n: torch.rand(n, 3), batch)
            second = drawn(lambda n: torch.rand(2, n, 4), batch, dim=1)
            return first, second, BatchDropout(0.5)(torch.ones(batch, 5))

    whole = masks(BatchPart(), 12)
    parts = [masks(BatchPart(number, 3), 4) for number in range(3)]
    for index, dim in ((0, 0), (1, 1), (2, 0)):
        assert torch.equal(torch.cat([part[index] for part in parts], dim), whole[index])
    assert set(whole[2].unique().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 7)])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_shared_batch_norms_of_one_process_are_torchs(monkeypatch, shape, momentum):
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: None)
    kind = nn.BatchNorm1d
    own, peer = kind(4, momentum=momentum), kind(4, momentum=momentum)
    share_batch_norms(own, 1)
    x = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 1
    for _ in range(2):
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        outputs = [norm(given) for norm, given in zip((own, peer), inputs)]
        torch.testing.assert_close(*outputs)
        for output in outputs:
            output.square().sum().backward()
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad, atol=1e-4, rtol=1e-4)
    for name, value in peer.state_dict().items():
        torch.testing.assert_close(own.state_dict()[name], value)


@pytest.mark.parametrize(("speakers", "size", "nearest"), [(64, 3, "63 or 66"), (5, 8, "8"), (9, 2, "8 or 10")])
def test_a_batch_that_cannot_be_divided_is_refused_with_the_nearest_numbers_that_can(speakers, size, nearest):
    ranks = Ranks(0, size, 0, size)
    with pytest.raises(SpkverError, match=f"batch.speakers is {speakers}, .* take {nearest}$"):
        ranks.check_batch(speakers)
    ranks.check_batch(2 * size)


def test_a_training_refuses_such_a_batch_also_where_its_pieces_together_could_be_divided(tiny_config, voices, tmp_path):
    config = load_config(tiny_config, ["batch.speakers=5", "training.accumulate=2"])
    with pytest.raises(SpkverError, match=r"batch\.speakers is 5, which 2 processes cannot share equally; take 4 or 6"):
        Trainer(
            config, keep_usable(read_data_directory(voices), 16000), Experiment(tmp_path), None, ranks=Ranks(0, 2, 0, 2)
        )


def test_alone_there_is_nobody_to_wait_for():
    with Ranks.of_environment() as ranks:
        assert (ranks.size, ranks.is_first) == (1, True)
        with pytest.raises(KeyError), ranks.together():
            raise KeyError
