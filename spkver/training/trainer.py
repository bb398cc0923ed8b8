"""The training loop.


- Everything random in a step comes from (seed, epoch, step): crops and augmentation through the
  sampler's draws, dropout and masks through one ``manual_seed`` a step. There are no random states to
  save, and a resumed run logs the losses of an uninterrupted one.
- What a step does stands in `step.py`.
- With ``training.minutes`` the clock decides when an epoch ends, and where in the schedules a step stands. The data
  go on from pass to pass over the borders of such epochs.
- The EER of each epoch comes from trials among speakers that training does not see.
"""

import math
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from spkver import native
from spkver.config import Config
from spkver.data.augment import Augmenter
from spkver.data.dataset import SpeakerCrops
from spkver.data.directory import DataDirectory
from spkver.data.machine import worker_count
from spkver.data.sampler import SpeakerBatchSampler
from spkver.data.variants import ORIGINAL
from spkver.embedding.extractor import Embeds, Extractor
from spkver.errors import SpkverError
from spkver.experiment.log import Log
from spkver.experiment.model_folder import fit, read_speakers, save_model
from spkver.experiment.paths import Experiment
from spkver.experiment.progress import Progress
from spkver.files import locked
from spkver.heads import build_head
from spkver.models import ImportedEncoder, build_encoder
from spkver.models.device import allow_tf32, choose_device, choose_dtype
from spkver.models.encoder_check import checked
from spkver.training import checkpoint
from spkver.training.batches import Batches, WorkerDied, build_loader
from spkver.training.distributed import OthersStopped, Ranks
from spkver.training.epoch_report import RunningMeans, epoch_line, epoch_progress, figures, training_line
from spkver.training.finetune import freeze, start_from
from spkver.training.head_slices import HeadSlices, slice_of_head
from spkver.training.held_out import HeldOut, split_as_begun, split_speakers
from spkver.training.norm_statistics import renew_statistics
from spkver.training.snapshot_writer import Snapshots
from spkver.training.step import Batch, TrainingStep
from spkver.training.stopping import TRY_AGAIN, StopNow, Stopped, StopRequest

# What a checkpoint holds, with the types.
_STATE: dict[str, type | tuple[type, ...]] = {
    "epoch": int,
    "step": int,
    "sums": dict,
    "seconds": float,
    "skipped_in_a_row": int,
    "best": (tuple, type(None)),
    "gradients": (Tensor, type(None)),
    "log_size": int,
    "encoder": dict,
    "head": dict,
    "optimizer": dict,
}


class Trainer:
    """Trains an encoder and a head on a data directory and keeps everything in an experiment's folder.

    Args:
        config: of the run.
        directory: usable training utterances with durations.
        experiment: the folder.
        init: a model folder to start from (fine-tuning), or None.
        resume: go on from the experiment's last checkpoint.
        ranks: the processes that train together; None: this one alone. All read the same folders; the first writes.

    Raises:
        SpkverError: too few speakers, an init that does not fit, files that cannot be read, or
            ``training.max_skipped_in_a_row`` steps without a finite gradient.
    """

    def __init__(
        self,
        config: Config,
        directory: DataDirectory,
        experiment: Experiment,
        init: Path | None,
        resume: bool = False,
        ranks: Ranks | None = None,
    ):
        self.config = config
        self.ranks = ranks or Ranks()
        if self.ranks.size > 1 and config.training.minutes is not None:
            raise SpkverError(
                "training.minutes is for one process, as the clocks of several differ; set training.epochs instead"
            )
        self.experiment = experiment
        if config.training.threads:
            torch.set_num_threads(config.training.threads)
        self.device = choose_device(config.training.device)
        self.dtype = choose_dtype(config.training.precision, self.device)
        allow_tf32(config.training.tf32)

        # A run that was stopped before its first checkpoint begins again. One that has a checkpoint has all from
        # there and nothing from the model of `init`, which may be gone by then.
        self.resume = resume
        self.begun = resume and checkpoint.has_state(experiment.checkpoints)
        if self.begun:
            train_speakers, held_out_speakers = split_as_begun(directory, experiment.untrained)
        else:
            known = [] if init is None else read_speakers(init) or []
            n_held_out = config.data.held_out_speakers
            train_speakers, held_out_speakers = split_speakers(directory, n_held_out, config.seed, known)
        self.training = training = directory.subset(speakers=train_speakers)
        self.speakers = training.speakers
        held_out = directory.subset(speakers=held_out_speakers) if held_out_speakers else None
        self.held_out = None
        if held_out is not None:
            self.held_out = HeldOut.of(held_out, config.data.held_out_nontargets, config.seed)
        self.snapshots = None
        if config.snapshots.speakers:
            self.snapshots = Snapshots(
                experiment.snapshots,
                training,
                held_out,
                config.snapshots.speakers,
                config.snapshots.utterances,
                config.seed,
            )

        self.ranks.check_batch(config.batch.speakers)
        self.workers = worker_count(config.data.workers, self.ranks.local_size)
        self.dataset = SpeakerCrops(
            training,
            config.data.sample_rate,
            config.data.crop_seconds,
            config.augment,
            config.seed,
            config.data.cache_gigabytes if self.workers else 0.0,
        )
        self.augmenter = Augmenter(self.dataset.draws, self.device)
        self.sampler = SpeakerBatchSampler(
            self.dataset.labels,
            config.batch.speakers * config.training.accumulate,
            config.batch.utterances,
            config.seed,
            self.ranks.rank,
            self.ranks.size,
        )

        torch.manual_seed(config.seed)
        self.encoder = build_encoder(config.model, config.features.n_mels)
        if isinstance(self.encoder, ImportedEncoder):
            model, found = checked(config, self.encoder)
            self.config = config = config.model_copy(update={"model": model})
            print(found, flush=True)
        embed_dim, n_classes = self.encoder.embed_dim, self.dataset.n_classes
        class_slice = slice_of_head(config, embed_dim, n_classes, self.device, self.ranks)
        self.head = build_head(config.head, embed_dim, n_classes, class_slice)
        self.head_slices = HeadSlices(self.head, self.ranks)
        self.encoder.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in the stubs
        self.head.to(self.device)
        if init is not None and not self.begun:
            print(f"{init}: {start_from(init, self.encoder, self.head, training, config)}", flush=True)
        self.frozen_modules = freeze(self.encoder, config.optimizer.freeze)
        self.training_step = TrainingStep(
            config, self.encoder, self.head, self.device, self.dtype, experiment.folder, self.ranks
        )

        self.epoch, self.step = 0, 0  # the next to do, both counted from 0
        self.steps_before = 0  # in the epochs that are finished
        self.sums = RunningMeans()  # of the epoch so far
        self.seconds = 0.0  # of training so far
        self.best: tuple[float, int] | None = None  # (held-out EER, epoch counted from 1)
        self.gradients: Tensor | None = None  # histograms of the epoch's last step, before and after clipping

    def description(self) -> str:
        """One line: what trains on what."""
        held_out = 0 if self.held_out is None else len({utterance.speaker for utterance in self.held_out.utterances})
        where = f"{self.device.type}, {str(self.dtype)[6:]}"
        if self.device.type == "cpu" and not native.AVAILABLE:
            where += ", slower without compiled kernels"
        return training_line(self.encoder, self.head, len(self.speakers), self.config.augment, held_out, where)

    def run(self, run: dict) -> None:
        """Train to the last epoch.

        Args:
            run: what the run is made of, kept beside the configuration.

        Raises:
            Stopped: by ctrl-C, SIGTERM or SIGHUP, or since a data worker died or another process of the training
                stopped, with everything saved.
            SpkverError: another training runs here, or a file cannot be read or written.
        """
        with locked(self.experiment.training_lock, "training") if self.ranks.is_first else nullcontext():
            self.log = None
            try:
                with self.ranks.together():
                    size = self._begin(run)
                    if self.ranks.is_first:
                        self.log = Log(self.experiment.log_file, size)
                self._saved_at = time.monotonic()
                self._steps_saved: int | None = None
                self._train()
            finally:
                if self.log is not None:
                    self.log.close()

    def _begin(self, run: dict) -> int:
        """Prepare the folder, or take up what it holds; returns the length of the log."""
        if self.ranks.is_first:
            self.experiment.remove_leftovers()
        if self.resume:
            self.experiment.check_same(self.config)
        elif self.ranks.is_first:
            self.experiment.begin(self.config, run)
        if self.begun:
            return self._load()
        self._save_untrained(run)
        return 0

    def _train(self) -> None:
        try:
            self._train_epochs()
        except RuntimeError as error:
            if not self.ranks.has_lost_one(error):
                raise
            # Perhaps in the middle of a step: what the last checkpoint holds is whole.
            raise Stopped("a process of the training has ended; go on with --resume", TRY_AGAIN) from None

    def _train_epochs(self) -> None:
        try:
            with StopRequest() as self.stop_request, self.batches(self.stop_request) as batches:
                while self.epoch < self.config.training.epochs:
                    self._train_epoch(batches)
                    self._finish_epoch()
        except StopNow as stop:
            raise self._stopped("stopped", 128 + stop.signal_number) from None
        except WorkerDied as died:
            raise self._stopped(str(died), TRY_AGAIN) from None
        except OthersStopped:
            raise self._stopped("another process of the training stopped", TRY_AGAIN) from None

    def _stopped(self, why: str, status: int) -> Stopped:
        self._save_what_is_new()
        place = f"epoch {self.epoch + 1}, step {self.step}"
        return Stopped(f"{why}{';' if why != 'stopped' else ' and'} saved at {place}; go on with --resume", status)

    def _train_epoch(self, batches: Batches) -> None:
        self.to_train_mode()
        n_epochs, n_batches = self.config.training.epochs, self.sampler.n_batches
        with epoch_progress(self.epoch, n_epochs, n_batches, self.step) as progress:
            self._read_at, self._shown = time.monotonic(), ""
            while not self._ends_on_pass(batches, progress):
                pass
            self._read()

    def _ends_on_pass(self, batches: Batches, progress: Progress) -> bool:
        """Train to the end of the epoch or of the pass over the data; returns whether it was that of the epoch."""
        by_clock = self.config.training.minutes is not None
        if batches.between_passes:
            place = divmod(self._steps_done(), self.sampler.n_batches) if by_clock else (self.epoch, self.step)
            self.sampler.set_epoch(*place)
        while (batch := self._next(batches)) is not None:
            self._step(batch)
            if self.step % self.config.training.log_every == 0:
                self._read()
            progress.show(1, self._shown)
            is_due = time.monotonic() - self._saved_at > 60 * self.config.training.checkpoint_minutes
            if self.ranks.first_says(is_due):
                self._save()
            if by_clock and self._share_of_epoch() >= 1:
                return True
        return not by_clock

    def _share_of_epoch(self) -> float:
        """How much of the epoch's part of ``training.minutes`` has passed; 0 without."""
        if self.config.training.minutes is None:
            return 0.0
        seconds = self.seconds + time.monotonic() - self._read_at
        return seconds * self.config.training.epochs / (60 * self.config.training.minutes) - self.epoch

    def _n_steps(self) -> float:
        """Steps of the epoch; where the clock ends it, those that it comes to at the speed so far."""
        if self.config.training.minutes is None:
            return self.sampler.n_batches
        share = self._share_of_epoch()
        return self.step / min(share, 1.0) if self.step and share > 0 else math.inf

    def _next(self, batches: Batches) -> Batch | None:
        """The next batch of the pass, where all processes have theirs."""
        try:
            with self.ranks.together():
                return next(batches, None)
        except SpkverError:
            self._save_what_is_new()  # whoever mends the file that cannot be used goes on from here
            raise

    def to_train_mode(self) -> None:
        """Dropout and BatchNorm as in training, but for what is frozen."""
        self.encoder.train()
        for module in self.frozen_modules:
            module.eval()

    def _step(self, batch: Batch) -> None:
        n_steps = self._n_steps()
        watch = self.snapshots is not None and self.step >= n_steps - 1
        self.training_step.do(batch, self.epoch, self.step, n_steps, watch)
        if watch:
            self.gradients = self.training_step.gradients
        self.step += 1

    def _read(self) -> None:
        """Take the records of the steps since the last time into the epoch's means and the log."""
        records = self.training_step.read()
        if not records:
            return
        now = time.monotonic()
        seconds, self._read_at = now - self._read_at, now
        self.seconds += seconds
        for step, record in enumerate(records, self._steps_done() - len(records) + 1):
            self.sums.add(record, items=self.sampler.batch_size, seconds=seconds / len(records))
            if self.log is not None:
                self.log.write("step", step, record)
        self._shown = figures(self.sums.mean())

    def _finish_epoch(self) -> None:
        """Measure, keep the weights, log, say; then the next epoch."""
        record = {"epoch": self.epoch + 1, **self.sums.mean(), "seconds": round(self.seconds, 1)}
        # As recorded: the further variants of a finished model would cost as many times the time, each epoch.
        extractor = self.ranks.shared(Extractor(self.encoder, self.config, ORIGINAL))
        try:
            # Nothing of the training changes here: a signal need not wait, and a resumed run measures again.
            with self.ranks.together(), self.stop_request.at_once():
                self._take_snapshot(self.epoch + 1, extractor)
                if self.held_out is not None:
                    record["held_out_eer"], record["held_out_threshold"] = self.held_out.equal_error_rate(extractor)
        except SpkverError:
            self._save_what_is_new()  # as in `_next`
            raise
        # The later one of equals: it has seen more.
        if self.held_out is not None and (self.best is None or record["held_out_eer"] <= self.best[0]):
            self.best = (record["held_out_eer"], self.epoch + 1)
        head = self.head_slices.whole_weights()
        if self.log is not None:
            checkpoint.save_epoch(self.experiment.checkpoints, self.epoch + 1, self.encoder.state_dict(), head)
            self.log.write("epoch", self.epoch + 1, record)
        self.steps_before = self._steps_done()
        self.epoch, self.step, self.sums = self.epoch + 1, 0, RunningMeans()
        self._save()
        if self.log is not None:
            best = None if self.best is None else self.best[1]
            checkpoint.prune(self.experiment.checkpoints, self.config.training.keep_last, best)
        print(epoch_line(record, self.config.training.epochs), flush=True)
        # Several processes stop together, before the next batch.
        if self.stop_request.signal_number is not None and self.ranks.size == 1:
            raise StopNow(self.stop_request.signal_number)

    def _take_snapshot(self, epoch: int, extractor: Embeds) -> None:
        if self.snapshots is None:
            return
        head = self.head_slices.of_classes(self.snapshots.classes.to(self.device))
        snapshot = self.snapshots.take(epoch, extractor, head, self.gradients)
        if self.ranks.is_first:
            self.snapshots.write(snapshot)

    def _save_what_is_new(self) -> None:
        """Save unless that was done after the last step: the same in all processes."""
        if self._steps_saved != self._steps_done():
            self._save()

    def _save(self) -> None:
        """Everything that the rest of the run depends on, by the first process, which the others give their slices."""
        self._read()
        self._saved_at, self._steps_saved = time.monotonic(), self._steps_done()
        head = self.head_slices.whole_weights()
        optimizer = self.head_slices.whole_state(self.training_step.optimizer)
        if self.log is None:
            return
        checkpoint.save_state(
            self.experiment.checkpoints,
            {
                "epoch": self.epoch,
                "step": self.step,
                "steps_before": self.steps_before,
                "sums": self.sums.state(),
                "seconds": self.seconds,
                "skipped_in_a_row": self.training_step.skipped_in_a_row,
                "loss_scale": self.training_step.loss_scale.state(),
                "best": self.best,
                "gradients": self.gradients,
                "log_size": self.log.sync(),
                "encoder": self.encoder.state_dict(),
                "head": head,
                "optimizer": optimizer,
            },
        )
        self._saved_at = time.monotonic()

    def _load(self) -> int:
        """Take the state of the last checkpoint; returns the length of the log then."""
        path = self.experiment.checkpoints / "last.pt"
        state = checkpoint.load_state(self.experiment.checkpoints, _STATE, mapped=self.head.is_slice)
        before = state.get("steps_before", state["epoch"] * self.sampler.n_batches)  # not in earlier states
        if not isinstance(before, int) or min(state["epoch"], state["step"], before, state["log_size"]) < 0:
            raise checkpoint.damaged(path, "it counts below 0")
        try:
            fit(self.encoder, state["encoder"], path)
            fit(self.head, self.head_slices.own_weights(state["head"]), path)
            optimizer = self.training_step.optimizer
            optimizer.load_state_dict(self.head_slices.own_state(optimizer, state["optimizer"]))
            self.sums = RunningMeans(**state["sums"])
            if "loss_scale" in state:  # not in states of before there was float16
                self.training_step.loss_scale.load_state(state["loss_scale"])
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise checkpoint.damaged(path, error) from None
        self.epoch, self.step, self.steps_before = state["epoch"], state["step"], before
        self.seconds = state["seconds"]
        self.training_step.skipped_in_a_row = state["skipped_in_a_row"]
        self.best = state["best"]
        self.gradients = state["gradients"]
        self._heal(path)
        return state["log_size"]

    def _heal(self, path: Path) -> None:
        """Renew BatchNorm statistics that a skipped step made NaN, as it did before spkver took them back."""
        for name, parameter in [*self.encoder.named_parameters(), *self.head.named_parameters()]:
            if not parameter.isfinite().all():
                raise checkpoint.damaged(path, f"'{name}' is not finite")
        if not self.training_step.statistics.are_finite():
            renew_statistics(self.encoder, self.training, self.config)
            print(f"{path}: statistics of a BatchNorm were not finite; renewed from training utterances", flush=True)

    def _save_untrained(self, run: dict) -> None:
        """The model before the first step, the floor that training is measured against, and its snapshot."""
        self._take_snapshot(0, self.ranks.shared(Extractor(self.encoder, self.config, ORIGINAL)))
        head = self.head_slices.whole_weights()
        if not self.ranks.is_first:
            return
        if self.snapshots is not None:
            self.snapshots.begin()
        save_model(
            self.experiment.untrained,
            self.config,
            run,
            self.encoder.state_dict(),
            head,
            self.speakers,
        )

    def loader(self) -> DataLoader:
        """Of each epoch the batches from the sampler's place on; see `batches`."""
        return build_loader(self.dataset, self.sampler, self.augmenter, self.workers, self.config.data.prefetch)

    def batches(self, stop_request: StopRequest | None = None) -> Batches:
        """Augmented batches, on the device where they were augmented."""
        return Batches(self.loader(), stop_request, self.augmenter if self.device.type != "cpu" else None)

    def _steps_done(self) -> int:
        return self.steps_before + self.step
