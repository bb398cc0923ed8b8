"""Training: the records it leaves, its independence of workers, and what it does with bad steps."""

import contextlib
import math
import multiprocessing
import os
import signal
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spkver import native
from spkver.config import load_config
from spkver.data.audio_check import keep_usable
from spkver.data.directory import read_data_directory
from spkver.errors import SpkverError
from spkver.experiment.log import read_log
from spkver.experiment.model_folder import load_model, load_tensors
from spkver.experiment.paths import Experiment
from spkver.experiment.snapshots import read_snapshot, snapshot_files
from spkver.models import device
from spkver.training import optim as muon
from spkver.training import schedules
from spkver.training import trainer as trainer_module
from spkver.training.batches import Batches
from spkver.training.checkpoint import epochs_kept
from spkver.training.held_out import HeldOut
from spkver.training.profiling import profile_training
from spkver.training.stopping import StopNow, Stopped
from spkver.training.trainer import Trainer


@pytest.fixture(scope="session")
def directory(voices):
    return keep_usable(read_data_directory(voices), 16000)


@pytest.fixture
def make_trainer(tiny_config, directory, tmp_path):
    def make(*overrides, exp="run", init=None, resume=False):
        return Trainer(load_config(tiny_config, list(overrides)), directory, Experiment(tmp_path / exp), init, resume)

    return make


# Two ways of adding up the same float32 numbers differ by some units of the last place (1.2e-7), of which each step
# makes more: up to four thousand times as much within ten steps (of four seeds), and more after that.
# What only one of them rounds to bfloat16 (eps 7.8e-3) stands out all the same.
SAME_IN_FLOAT32 = torch.finfo(torch.bfloat16).eps / 4


def losses(trainer):
    return [record["loss"] for record in read_log(trainer.experiment.log_file, "step")]


def test_training_lowers_the_loss_and_logs_every_step_and_epoch(trained):
    steps = read_log(trained / "log.jsonl", "step")
    epochs = read_log(trained / "log.jsonl", "epoch")
    # 7 training voices x 6 files x 2 speeds = 84 items, 14 batches of 6.
    assert [(record["epoch"], record["step"]) for record in steps] == [(e, s) for e in (1, 2, 3) for s in range(1, 15)]
    assert np.mean([r["loss"] for r in steps[:5]]) > np.mean([r["loss"] for r in steps[-5:]])
    assert epochs[-1]["margin"] == pytest.approx(0.2)
    for record in epochs:
        of_epoch = [r for r in steps if r["epoch"] == record["epoch"]]
        assert record["loss"] == pytest.approx(np.mean([r["loss"] for r in of_epoch]))


def test_the_experiment_holds_the_configuration_as_run_and_the_last_checkpoints(trained, tiny_config, voices):
    config, run = Experiment(trained).read()
    assert config == load_config(tiny_config)
    assert Experiment(trained).recorded_path(run["data"]) == voices
    assert not os.path.isabs(run["data"])
    assert run["torch"] == str(torch.__version__)
    kept = set(epochs_kept(trained / "checkpoints"))
    assert {2, 3} <= kept


def test_the_losses_do_not_depend_on_the_number_of_workers_nor_on_the_cache(make_trainer):
    words = [
        "training.epochs=2",
        "snapshots.speakers=0",
        "data.held_out_speakers=3",
        "augment.clipping.probability=0.5",
    ]
    one = make_trainer(*words, exp="w0")
    one.run({})
    two = make_trainer(*words, "data.workers=2", "data.prefetch=1", exp="w2")
    two.run({})
    # Two workers share the cache, and both epochs: each has draws of its own.
    assert (one.dataset._cache is None, two.dataset._cache is None) == (True, False)
    assert losses(one) == losses(two)
    assert len(set(losses(one))) == 2 * one.sampler.n_batches


def test_another_seed_gives_other_losses(make_trainer):
    short = ["training.epochs=1", "snapshots.speakers=0", "data.held_out_speakers=0", "augment.speed_factors=[1.0]"]
    one, two = make_trainer(*short, exp="s1"), make_trainer(*short, "seed=2", exp="s2")
    one.run({})
    two.run({})
    assert losses(one)[1:] != losses(two)[1:]


def test_gradients_are_clipped_over_encoder_and_head_together(make_trainer):
    trainer = make_trainer("training.clip_norm=0.5")
    trainer.sampler.set_epoch(0)
    batch = next(iter(trainer.loader()))
    trainer.encoder.train()
    record = trainer.training_step(batch, trainer.epoch, trainer.step, trainer.sampler.n_batches)
    norms = [p.grad.norm() for p in [*trainer.encoder.parameters(), *trainer.head.parameters()]]
    assert record["grad_norm"] > 0.5
    assert record["clipped"]
    assert torch.stack(norms).norm().item() == pytest.approx(0.5, rel=1e-4)
    assert trainer.head.weight.grad.norm() > 0


def poison(trainer, steps):
    """Make the embeddings of these steps (counted from 0 over the run) NaN."""
    calls = iter(range(10**6))
    trainer.encoder.register_forward_hook(
        lambda encoder, inputs, embeddings: embeddings * math.nan if encoder.training and next(calls) in steps else None
    )


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(make_trainer):
    trainer = make_trainer("training.epochs=1")
    poison(trainer, {3})
    trainer.run({})
    steps = read_log(trainer.experiment.log_file, "step")
    assert [record["step"] for record in steps if record["skipped"]] == [4]
    assert len(steps) == 14
    (epoch,) = read_log(trainer.experiment.log_file, "epoch")
    assert epoch["skipped"] == 1
    assert math.isfinite(epoch["loss"])
    assert all(torch.isfinite(p).all() for p in trainer.encoder.parameters())


def test_too_many_such_steps_in_a_row_stop_with_advice(make_trainer):
    trainer = make_trainer("training.max_skipped_in_a_row=4")
    poison(trainer, set(range(2, 100)))
    with pytest.raises(SpkverError, match=r"4 steps in a row were not finite \(epoch 1, step 6.*optimizer.lr"):
        trainer.run({})


def test_an_unreadable_file_stops_training_with_its_path(make_trainer):
    trainer = make_trainer("data.workers=1")
    gone = [replace(u, path=u.path.with_name("gone.wav")) for u in trainer.dataset.utterances]
    trainer.dataset.utterances = gone
    with pytest.raises(SpkverError, match=r"^\S+gone\.wav: no such audio file$"):
        trainer.run({})


def test_an_epoch_that_cannot_be_measured_is_saved_and_measured_when_the_file_is_mended(make_trainer):
    words = ("training.epochs=1", "snapshots.speakers=0")
    whole = make_trainer(*words, exp="whole")
    whole.run({})
    trainer = make_trainer(*words)
    path = trainer.held_out.utterances[0].path
    content = path.read_bytes()
    try:
        path.unlink()
        with pytest.raises(SpkverError, match=rf"^{path}: no such audio file"):
            trainer.run({})
    finally:
        path.write_bytes(content)
    assert len(losses(trainer)) == trainer.sampler.n_batches
    resumed = make_trainer(*words, resume=True)
    assert resumed.begun
    resumed.run({})
    assert losses(resumed) == losses(whole)
    eers = [read_log(each.experiment.log_file, "epoch")[0]["held_out_eer"] for each in (whole, resumed)]
    assert eers[0] == eers[1]


def test_what_a_killed_run_left_behind_is_removed(make_trainer):
    trainer = make_trainer("training.epochs=1")
    folders = [trainer.experiment.folder / name for name in ("", "checkpoints", "snapshots", "untrained")]
    left = [folder / ".last.pt.abcdefgh.unfinished" for folder in folders]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    trainer.run({})
    assert not any(path.exists() for path in left)
    assert not list(trainer.experiment.folder.rglob(".*"))


def test_a_folder_that_holds_a_run_is_not_overwritten(make_trainer):
    make_trainer("training.epochs=1").run({})
    with pytest.raises(SpkverError, match="already holds a run; go on with --resume"):
        make_trainer("training.epochs=1").run({})


def test_resuming_with_another_value_names_the_key(make_trainer):
    make_trainer("training.epochs=1").run({})
    with pytest.raises(SpkverError, match=r"the run began with optimizer.lr=0.01, not 0.02"):
        make_trainer("training.epochs=1", "optimizer.lr=0.02", resume=True).run({})


def test_fine_tuning_starts_from_the_model_with_the_head_cut_to_the_recorded_speakers(make_trainer, trained):
    trainer = make_trainer("augment.speed_factors=[1.0]", init=trained / "model")
    head = load_tensors(trained / "model" / "head.safetensors")["weight"]
    assert len(head) == 14
    assert torch.equal(trainer.head.weight.detach(), head[:7])
    before = load_model(trained / "model").encoder.state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.encoder.state_dict().items())


def test_the_optimizer_of_a_fine_tune_trains_the_cut_head(make_trainer, trained):
    trainer = make_trainer("augment.speed_factors=[1.0]", "training.epochs=1", init=trained / "model")
    before = trainer.head.weight.detach().clone()
    trainer.run({})
    assert not torch.equal(trainer.head.weight.detach(), before)


@pytest.mark.parametrize(
    "override, expected",
    [
        ("data.held_out_speakers=4", r"is 4 of 10 speakers, 3 of them .* new to the model of --init"),
        ("model.embed_dim=8", r"model.safetensors: 'embedding.weight' has shape \(16, 32\), .* wants \(8, 32\)"),
        ("model.n_layers=2", r"model.safetensors: has no 'layers.1"),
    ],
)
def test_a_model_that_does_not_fit_is_named(make_trainer, trained, override, expected):
    with pytest.raises(SpkverError, match=expected):
        make_trainer(override, "augment.speed_factors=[1.0]", init=trained / "model")


@pytest.mark.parametrize(
    "eers, kept",
    [([0.3, 0.1, 0.2, 0.4], [2, 4]), ([0.2, 0.3, 0.4, 0.2], [4]), ([0.2, 0.2, 0.3, 0.4], [2, 4])],
    ids=["the lowest", "the last", "the later of equals"],
)
def test_the_epoch_with_the_best_held_out_eer_is_kept_beside_the_last(make_trainer, monkeypatch, eers, kept):
    measured = iter(eers)
    monkeypatch.setattr(HeldOut, "equal_error_rate", lambda self, extractor: (next(measured), 0.5))
    short = ["training.epochs=4", "training.keep_last=1", "training.average_last=1", "snapshots.speakers=0"]
    trainer = make_trainer(*short, "batch.speakers=7", "augment.speed_factors=[1.0]", "augment.reverb.probability=0.0")
    trainer.run({})
    epochs = read_log(trainer.experiment.log_file, "epoch")
    assert [(r["held_out_eer"], r["held_out_threshold"]) for r in epochs] == [(eer, 0.5) for eer in eers]
    assert list(epochs_kept(trainer.experiment.checkpoints)) == kept


@pytest.mark.parametrize("n_before", [0, 1])
def test_data_workers_outlive_the_signals_that_stop_a_training(make_trainer, n_before):
    # A terminal's ctrl-C reaches them, too: the step that is under way needs its batch before all is saved.
    trainer = make_trainer("data.workers=2")
    trainer.sampler.set_epoch(0)
    with Batches(trainer.loader()) as batches:
        batches._begin_epoch()
        for _ in range(n_before):  # none: they have hardly started
            next(batches)
        workers = multiprocessing.active_children()
        for worker in workers:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(worker.pid, number)
        assert len(list(batches)) == trainer.sampler.n_batches - n_before
        assert len(workers) == 2


def test_without_held_out_speakers_training_has_no_eer(make_trainer):
    trainer = make_trainer("data.held_out_speakers=0", "training.epochs=1")
    trainer.run({})
    (epoch,) = read_log(trainer.experiment.log_file, "epoch")
    assert "held_out_eer" not in epoch


@pytest.mark.parametrize("hardware", [False, True])
@pytest.mark.parametrize("precision", ["auto", "bfloat16", "float32"])
@pytest.mark.parametrize("head_rows", [1, 10**6])
def test_the_precision_of_a_run_reaches_all_of_a_step(make_trainer, monkeypatch, hardware, precision, head_rows):
    monkeypatch.setattr(device, "_has_bfloat16", lambda _: hardware)
    expected = {"bfloat16": torch.bfloat16, "float32": torch.float32, "auto": [torch.float32, torch.bfloat16][hardware]}
    trainer = make_trainer(f"training.precision={precision}", f"training.chunked_head_rows={head_rows}")
    seen = {"encoder": set(), "optimizer": set(), "head": set()}
    trainer.encoder.layers[0].qkv.register_forward_hook(lambda *call: seen["encoder"].add(call[-1].dtype))
    monkeypatch.setattr(muon, "orthogonalised", lambda matrix, dtype: seen["optimizer"].add(dtype) or matrix)
    real = torch.mm
    monkeypatch.setattr(torch, "mm", lambda a, *rest, **out: seen["head"].add(a.dtype) or real(a, *rest, **out))
    trainer.sampler.set_epoch(0)
    trainer.encoder.train()
    trainer.training_step(next(iter(trainer.loader())), 0, 0, trainer.sampler.n_batches)
    assert seen["encoder"] == seen["optimizer"] == {expected[precision]}
    # A chunked head has a precision of its own in the configuration, and a head held whole is float32.
    assert seen["head"] == ({torch.float32} if head_rows == 1 else set())


@pytest.mark.parametrize("head", ["arc_margin", "intertopk_subcenter"])
def test_a_head_computed_in_chunks_trains_as_the_plain_one(make_trainer, head):
    extra = ["head.K=3", "head.mp=0.06", "head.k_top=2", "head.do_lm=false"] if head == "intertopk_subcenter" else []
    own = ["head.scale=32.0", "head.margin=0.2", "head.easy_margin=false", *extra]
    found = {}
    for rows in (10**6, 1):
        words = ["training.epochs=1", f"training.chunked_head_rows={rows}", f"head.name={head}", *own]
        trainer = make_trainer(*words, exp=f"rows-{rows}")
        trainer.run({})
        found[rows] = losses(trainer)
    # The first step is the same sum in another order; what rounding moves grows from there.
    assert found[1][0] == pytest.approx(found[10**6][0], rel=1e-5)
    assert found[1][:10] == pytest.approx(found[10**6][:10], rel=SAME_IN_FLOAT32)


def test_training_by_kernels_is_training_by_torch(make_trainer, monkeypatch):
    if not native.AVAILABLE:
        pytest.skip("needs the kernels of spkver.native: no C compiler was there when spkver was installed")
    found, said = {}, {}
    for kernels in (True, False):
        monkeypatch.setattr(native, "AVAILABLE", kernels)
        trainer = make_trainer("training.epochs=1", "training.precision=float32", exp=f"kernels-{kernels}")
        said[kernels] = trainer.description()
        trainer.run({})
        found[kernels] = losses(trainer)
    # The same sums in another order; what rounding moves grows from there.
    assert found[True][0] == pytest.approx(found[False][0], rel=1e-5)
    assert found[True][:10] == pytest.approx(found[False][:10], rel=SAME_IN_FLOAT32)
    assert found[True] != found[False]
    # Whoever trains without them is told.
    assert said[False].endswith("(cpu, float32, slower without compiled kernels)")
    assert said[True].endswith("(cpu, float32)")


def test_profiling_names_every_part_and_keeps_nothing(make_trainer, capsys):
    trainer = make_trainer(exp="profiled")
    table = profile_training(trainer, 4)
    rows = {line[:18].strip(): float(line[18:].split()[0]) for line in table.splitlines() if " ms" in line}
    step = rows.pop("a step")
    assert set(rows) == {
        "waiting for data",
        "features",
        "encoder forward",
        "head and loss",
        "backward",
        "clipping",
        "optimizer",
        "the rest",
    }
    assert sum(rows.values()) == pytest.approx(step, abs=0.5)
    assert rows["encoder forward"] > 0 and rows["backward"] > 0
    assert not trainer.experiment.folder.exists()


def test_profiling_needs_more_steps_than_it_warms_up(make_trainer):
    with pytest.raises(SpkverError, match=r"more than 5 steps; this one has \d"):
        profile_training(make_trainer("batch.utterances=2", "augment.speed_factors=[1.0]"), 4)


def test_sampled_classes_change_no_more_rows_than_were_drawn(make_trainer):
    # 7 voices at 2 speeds are 14 classes; a batch of 6 speakers has 6 of them, and 8 are drawn.
    trainer = make_trainer("training.sampled_share=0.55", "optimizer.weight_decay=0.1")
    trainer.sampler.set_epoch(0)
    batch = next(iter(trainer.loader()))
    before = trainer.head.weight.detach().clone()
    record = trainer.training_step(batch, 0, 5, trainer.sampler.n_batches)
    moved = (trainer.head.weight != before).any(1)
    assert int(moved.sum()) == 8
    assert moved[batch[1]].all()
    assert not record["skipped"]
    # With no margin yet, and before training, the loss is near that of a guess among 8, not among 14.
    assert record["loss"] < make_trainer(exp="all").training_step(batch, 0, 5, trainer.sampler.n_batches)["loss"]


def test_the_line_above_the_epochs_says_who_trains_and_who_is_held_out(make_trainer):
    words = "training SpeechEncoderV3 (0.0 M) + ArcMarginProduct on"
    where = "cpu, float32" if native.AVAILABLE else "cpu, float32, slower without compiled kernels"
    assert make_trainer().description() == f"{words} 7 speakers x 2 speeds, 3 held out ({where})"
    assert make_trainer("data.held_out_speakers=0").description() == f"{words} 10 speakers x 2 speeds ({where})"


@pytest.fixture
def clock(monkeypatch):
    """Seconds of training that go by as a test says: one for each step."""
    now = [0.0]
    monkeypatch.setattr(trainer_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    step = Trainer._step

    def a_second(self, batch):
        step(self, batch)
        now[0] += 1.0

    monkeypatch.setattr(Trainer, "_step", a_second)
    return now


BY_THE_CLOCK = ["training.minutes=0.7", "training.epochs=2", "snapshots.speakers=2"]


def test_minutes_are_shared_by_the_epochs_whatever_a_pass_over_the_data_takes(make_trainer, clock):
    trainer = make_trainer(*BY_THE_CLOCK)
    asked = []
    set_epoch = trainer.sampler.set_epoch
    trainer.sampler.set_epoch = lambda *place: asked.append(place) or set_epoch(*place)
    trainer.run({})
    steps = read_log(trainer.experiment.log_file, "step")
    # 42 s; a pass has 14 steps of a second.
    assert [(record["epoch"], record["step"]) for record in steps] == [(e, s) for e in (1, 2) for s in range(1, 22)]
    assert asked == [(0, 0), (1, 0), (2, 0)]
    assert trainer.seconds == 42
    config = trainer.config
    for number, record in enumerate(steps):
        position = number / 21
        expected = schedules.learning_rate(config.lr_schedule, config.optimizer.lr, 2, position)
        assert record["lr"] == pytest.approx(expected)
        assert record["margin"] == pytest.approx(schedules.margin(config.margin_schedule, 0.2, position))
    assert set(epochs_kept(trainer.experiment.checkpoints)) == {1, 2}
    assert trainer.gradients.shape[0] == 2  # of an epoch's last step, which the clock chose


def test_a_run_by_the_clock_goes_on_where_it_was_stopped(make_trainer, clock, monkeypatch):
    whole = make_trainer(*BY_THE_CLOCK)
    whole.run({})
    finish = Trainer._finish_epoch

    def stopped_after_an_epoch(self):
        finish(self)
        raise StopNow(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_finish_epoch", stopped_after_an_epoch)
        with pytest.raises(Stopped):
            make_trainer(*BY_THE_CLOCK, exp="parts").run({})
    resumed = make_trainer(*BY_THE_CLOCK, exp="parts", resume=True)
    resumed.run({})
    assert losses(resumed) == losses(whole)


def test_a_step_longer_than_an_epochs_time_is_an_epoch(make_trainer, clock):
    trainer = make_trainer("training.minutes=0.03", "training.epochs=3", "training.keep_last=5")
    trainer.run({})
    assert len(losses(trainer)) == 3
    assert len(epochs_kept(trainer.experiment.checkpoints)) == 3


def test_an_epoch_shows_every_step_saves_in_between_and_knows_its_seconds(make_trainer, monkeypatch):
    now, shown, saved = [0.0], [], []
    monkeypatch.setattr(trainer_module, "time", SimpleNamespace(monotonic=lambda: now[0]))

    @contextlib.contextmanager
    def noted_progress(*begun):
        shown.append(begun)
        yield SimpleNamespace(show=lambda more, means: shown.append((more, means)))

    monkeypatch.setattr(trainer_module, "epoch_progress", noted_progress)
    monkeypatch.setattr(trainer_module, "figures", lambda means: means)
    minutes = f"training.checkpoint_minutes={1 / 60}"
    trainer = make_trainer("training.epochs=2", "training.log_every=2", minutes, "snapshots.speakers=2")
    step, save = trainer._step, trainer._save

    def half_a_second(batch):
        now[0] += 0.5
        return step(batch)

    def noted_save():
        saved.append((trainer.epoch, trainer.step))
        save()

    monkeypatch.setattr(trainer, "_step", half_a_second)
    monkeypatch.setattr(trainer, "_save", noted_save)
    trainer.run({})

    n = trainer.sampler.n_batches
    records, epochs = read_log(trainer.experiment.log_file, "step"), read_log(trainer.experiment.log_file, "epoch")
    for epoch in (0, 1):
        begun, *steps = shown[epoch * (n + 1) : (epoch + 1) * (n + 1)]
        assert begun == (epoch, 2, n, 0)
        assert [more for more, _ in steps] == [1] * n
        own = records[epoch * n : (epoch + 1) * n]
        assert steps[0][1] == ""
        for done, (_, means) in enumerate(steps[1:], 2):
            # Every second step is read, and what a checkpoint behind a third one holds.
            n_read = max(done // 2 * 2, (done - 1) // 3 * 3)
            assert means["loss"] == pytest.approx(np.mean([record["loss"] for record in own[:n_read]]))
            assert means["lr"] == own[n_read - 1]["lr"]
        assert epochs[epoch]["loss"] == pytest.approx(np.mean([record["loss"] for record in own]))
        assert (epochs[epoch]["epoch"], epochs[epoch]["seconds"]) == (epoch + 1, 0.5 * n * (epoch + 1))
        assert epochs[epoch]["utterances_per_second"] == 12.0  # 6 speakers in half a second
    # Whenever more than a second has passed, which is every third step, and at the end of an epoch.
    expected = []
    for epoch in (0, 1):
        expected += [*((epoch, done) for done in range(3, n + 1, 3)), (epoch + 1, 0)]
    assert saved == expected
    gradients = {
        epoch: read_snapshot(path, epoch).gradients_before
        for epoch, path in snapshot_files(trainer.experiment.snapshots).items()
    }
    assert [(epoch, counts.sum() > 1000) for epoch, counts in gradients.items()] == [(0, False), (1, True), (2, True)]
