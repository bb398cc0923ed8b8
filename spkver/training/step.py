"""One training step: crops -> features -> embeddings -> loss -> gradients -> new weights.


- The encoder runs in bfloat16 with channels-last convolutions where the machine computes that natively; head,
  pooling statistics and loss are float32.
- A step whose loss, gradient or BatchNorm statistics are not finite changes nothing, the statistics included: it is
  skipped and counted.
- Nothing here waits for a GPU, which goes on with the next steps meanwhile: whether a step is finite stays on the
  device, and so do the figures of its record until `TrainingStep.read`. Places that do wait say so.
- Each part is timed, which costs nothing; `spkver train --profile` prints it.
"""

import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._triton import has_triton

from spkver.config import Config
from spkver.embedding.extractor import encoder_input
from spkver.errors import SpkverError
from spkver.features import SpecAugment
from spkver.features.batch_part import BatchPart, computing
from spkver.heads import Head, chunked_loss, draw_classes
from spkver.training.clock import StageTimer
from spkver.training.distributed import Ranks
from spkver.training.loss_scale import LossScale
from spkver.training.norm_statistics import NormStatistics
from spkver.training.optim import RowAdamW, betas_of, build_optimizer, set_learning_rate, step_if_finite
from spkver.training.schedules import learning_rate, margin
from spkver.training.seeds import mixed_seed
from spkver.training.snapshot_writer import gradient_histogram

_GPU_HEAD_MEGABYTES = 2048  # of logits, which the plain head holds about three times

Batch = tuple[Tensor, ...]
"""Waveforms ``(batch, n_samples)``, labels ``(batch,)`` and which formant factor ``(batch,)``."""


class TrainingStep:
    """Changes an encoder and a head by one batch.

    Args:
        config: of the run.
        encoder, head: on ``device``; changed in place.
        device: where they are.
        dtype: of the encoder's arithmetic.
        folder: of the experiment, named in errors.
        ranks: the processes that share each batch; None: this one alone.
    """

    def __init__(
        self,
        config: Config,
        encoder: nn.Module,
        head: Head,
        device: torch.device,
        dtype: torch.dtype,
        folder: Path,
        ranks: Ranks | None = None,
    ):
        self.config, self.encoder, self.head = config, encoder, head
        self.ranks = ranks or Ranks()
        self.device, self.dtype, self.folder = device, dtype, folder
        self.input = encoder_input(config, config.augment.formant_factors).to(device)
        masks = SpecAugment(**config.augment.specaugment.model_dump())
        self.specaugment = nn.Identity() if config.features.name == "waveform" else masks
        self.rows = self._row_optimizer()
        self.optimizer = build_optimizer(config.optimizer, encoder, head, dtype, self.rows)
        self.loss_scale = LossScale(dtype, device)
        self.statistics = NormStatistics(encoder, head)
        self._wrapped = self.ranks.wrapped(encoder)
        self._sharded = head.is_slice  # of a part of it, which may by chance be whole, each process asks itself
        self._embed: Callable[..., Tensor] = self._wrapped
        self._plain_loss = plain_loss
        if compiles(config.training.compile, device):
            # Random numbers as without compiling: a run gives the same losses either way, but for rounding.
            self._embed = torch.compile(self._wrapped, options={"fallback_random": True})
            # The part of a head that a step uses is a new module each time, for which it would be compiled again.
            self._plain_loss = plain_loss if self.rows else torch.compile(plain_loss)
        self.clock = StageTimer(device)
        self._unread: list[tuple[dict, Tensor]] = []
        self.skipped_in_a_row = 0
        self.gradients: Tensor | None = None
        """Histograms of the last watched step's gradients, before and after clipping."""

    def __call__(self, batch: Batch, epoch: int, step: int, n_steps: float, watch: bool = False) -> dict:
        """Do a step, as `do`, and wait for its record."""
        self.do(batch, epoch, step, n_steps, watch)
        return self.read()[-1]

    def do(self, batch: Batch, epoch: int, step: int, n_steps: float, watch: bool = False) -> None:
        """Do step ``step`` of the ``n_steps`` of an epoch, both counted from 0.

        Args:
            batch: on the device, or on a CPU, where its labels are checked.
            watch: keep histograms of the gradients in ``gradients``, for which it waits.

        Raises:
            SpkverError: a label is none of the head's classes.
        """
        seed = mixed_seed(self.config.seed, epoch, step)
        lr = self._follow_schedules(epoch + step / n_steps)
        self.head.check_label(batch[1], len(batch[1]))
        waveforms, labels, formants = (part.to(self.device) for part in batch)
        head, places = self._head_of(labels, seed)
        self.statistics.keep()
        self.optimizer.zero_grad(set_to_none=True)
        n_pieces = self.config.training.accumulate
        pieces = zip(*(part.chunk(n_pieces) for part in (waveforms, places, formants)))
        found = [self._backward(head, piece, number, seed) for number, piece in enumerate(pieces)]
        loss, n_correct = torch.stack(found).sum(0)
        with self.clock("clipping"):
            if not self._sharded:
                self.ranks.average(parameter.grad for parameter in head.parameters() if parameter.grad is not None)
            grad_norm = self._clip(head, watch)
            figures = torch.stack([loss / n_pieces, n_correct / len(labels)])
            self.ranks.average([figures])
        with self.clock("optimizer"):
            # All processes have the same figures, norm and statistics, and decide alike.
            finite = figures.isfinite().all() & grad_norm.isfinite() & self.statistics.are_finite()
            step_if_finite(self.optimizer, finite)
            self.statistics.take_back_unless(finite)
            self.loss_scale.follow(finite)
        known = {
            "epoch": epoch + 1,
            "step": step + 1,
            "lr": lr,
            "margin": getattr(self.head, "margin", 0.0),
        }
        self._unread.append((known, torch.stack([*figures, grad_norm, finite.float()])))

    def _backward(self, head: Head, piece: Batch, number: int, seed: int) -> Tensor:
        """Add the gradients of a piece of the batch; returns its loss and how many items are right, ``(2,)``."""
        waveforms, places, formants = piece
        n_pieces = self.config.training.accumulate
        torch.manual_seed(seed)  # every piece draws for the whole batch
        with computing(BatchPart(self.ranks.rank * n_pieces + number, self.ranks.size * n_pieces)):
            with self.clock("features"):
                features, average = self._features(waveforms, formants)
            with (
                self.clock("encoder forward"),
                torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32),
            ):
                embeddings = self._embed(features, average=average)
        with self.clock("head and loss"):
            loss, n_correct = self._loss(head, embeddings.float(), places)
        # Processes exchange the gradients of the last piece, to which those before have been added.
        is_last = number == n_pieces - 1
        waits = self._wrapped.no_sync() if isinstance(self._wrapped, DistributedDataParallel) else nullcontext()
        with self.clock("backward"), nullcontext() if is_last else waits:
            self.loss_scale.scaled(loss / n_pieces).backward()
        return torch.stack([loss.detach(), n_correct.float()])

    def read(self) -> list[dict]:
        """Wait for the device; returns the records of the steps since the last time.

        Raises:
            SpkverError: ``training.max_skipped_in_a_row`` steps in a row were not finite.
        """
        unread, self._unread = self._unread, []
        if not unread:
            return []
        known, figures = zip(*unread)
        records = [self._record(one, *values) for one, values in zip(known, torch.stack(figures).tolist())]
        for record in records:
            self._count_skipped(record)
        return records

    def _record(self, known: dict, loss: float, accuracy: float, grad_norm: float, finite: float) -> dict:
        return known | {
            "loss": loss,
            "accuracy": accuracy,
            "grad_norm": grad_norm,
            "clipped": grad_norm > self.config.training.clip_norm,
            "skipped": not finite,
        }

    def _follow_schedules(self, position: float) -> float:
        """Set learning rate and margin of a position in epochs; returns the former."""
        config = self.config
        lr = learning_rate(config.lr_schedule, config.optimizer.lr, config.training.epochs, position)
        set_learning_rate(self.optimizer, lr)
        self.head.update(margin(config.margin_schedule, getattr(config.head, "margin", 0.0), position))
        return lr

    @torch.no_grad()
    def _features(self, waveforms: Tensor, formants: Tensor) -> tuple[Tensor, Tensor | None]:
        features, _, average = self.input(waveforms, formants=formants)
        return self.specaugment(features), average

    def _row_optimizer(self) -> RowAdamW | None:
        """Of a head of which a step uses a share of the classes only."""
        chosen = self.config.optimizer
        if self.config.training.sampled_share == 1:
            return None
        return RowAdamW(self.head, chosen.lr, betas_of(chosen), chosen.weight_decay)

    def _head_of(self, labels: Tensor, seed: int) -> tuple[Head, Tensor]:
        """The head of this step, and where the labels' classes stand in it."""
        if self.rows is None:
            return self.head, labels
        n_drawn = math.ceil(self.config.training.sampled_share * self.head.out_features)
        torch.manual_seed(mixed_seed(seed, 1))
        classes = draw_classes(self.ranks.joined(labels), self.head.out_features, n_drawn)
        return self.rows.use(classes), torch.searchsorted(classes, labels)

    def _loss(self, head: Head, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The head's cross-entropy, and how many items it has right; a divided head's are the same in all processes."""
        if self._sharded:
            embeddings, labels = self.ranks.whole_batch(embeddings), self.ranks.joined(labels)
            products = self.config.training.chunked_head_products
            loss, n_correct = chunked_loss(head, embeddings, labels, products, of_slices=self.ranks.of_slices)
            return loss, n_correct / self.ranks.size
        if self._takes_chunks(len(head.weight), len(labels)):
            return chunked_loss(head, embeddings, labels, self.config.training.chunked_head_products)
        return self._plain_loss(head, embeddings, labels)

    def _takes_chunks(self, n_rows: int, batch: int) -> bool:
        """Whether the loss is computed chunk by chunk: for want of memory, or on a CPU because that is faster."""
        config = self.config.training
        if config.head_megabytes is None and self.device.type == "cpu":
            return n_rows >= config.chunked_head_rows
        return 4 * batch * n_rows > (config.head_megabytes or _GPU_HEAD_MEGABYTES) * 2**20

    def _clip(self, head: Head, watch: bool) -> Tensor:
        """Clip the gradients of encoder and head together; returns their norm () before."""
        parameters = [*self.encoder.parameters(), *head.parameters()]
        self.loss_scale.unscale(parameters)
        before = self._histogram(head) if watch else None
        norms = self._norms(self.encoder), self._norms(head)
        grad_norm = torch.cat([norms[0], self.ranks.joined(norms[1]) if self._sharded else norms[1]]).norm()
        torch.nn.utils.clip_grads_with_norm_(parameters, self.config.training.clip_norm, grad_norm)
        if before is not None:
            self.gradients = torch.stack([before, self._histogram(head)])
        return grad_norm

    def _norms(self, module: nn.Module) -> Tensor:
        """Of the gradient of each parameter, (n,)."""
        gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        return torch.stack(torch._foreach_norm(gradients)) if gradients else torch.zeros(0, device=self.device)

    def _histogram(self, head: Head) -> Tensor:
        """Of the gradients of encoder and head, those of all its slices."""
        of_head = gradient_histogram(list(head.parameters()))
        of_encoder = gradient_histogram(list(self.encoder.parameters()))
        return of_encoder + (self.ranks.total(of_head) if self._sharded else of_head)

    def _count_skipped(self, record: dict) -> None:
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if record["skipped"] else 0
        if self.skipped_in_a_row >= self.config.training.max_skipped_in_a_row:
            raise SpkverError(
                f"{self.folder}: {self.skipped_in_a_row} steps in a row were not finite (epoch {record['epoch']}, "
                f"step {record['step']}, loss {record['loss']:.3g}, gradient norm {record['grad_norm']:.3g}); "
                "lower optimizer.lr, or set training.precision=float32"
            )


def plain_loss(head: Head, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of all logits of float32 ``embeddings``, and how many items are right; labels are checked."""
    logits = head.logits(embeddings, labels)
    return F.cross_entropy(logits, labels), (logits.detach().argmax(1) == labels).sum()


def compiles(chosen: bool | Literal["auto"], device: torch.device) -> bool:
    """Whether encoder and loss are compiled; ``auto``: on a GPU for which there is a compiler.

    There the encoder alone becomes a quarter faster (V3 small, one H100). On a CPU it takes a minute to begin and gains
    next to nothing on our kernels, which it goes without.
    """
    return device.type == "cuda" and has_triton() if chosen == "auto" else chosen
