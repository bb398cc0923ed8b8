"""The processes of a training, as torchrun starts them, each with an equal slice of every batch.

The number of processes changes nothing but the time: the batch is drawn for all of them and divided
(`SpeakerBatchSampler`), so are random masks (`spkver.features.batch_part`), BatchNorms take the statistics of the whole
batch, gradients are averaged (DistributedDataParallel), and a step is undone by all or by none. Between steps the
processes agree whether to go on, so that none waits for another that has stopped.

A head may be divided by its classes (`spkver.training.head_slices`). Then each process has the embeddings of the whole
batch compared with its own classes, and all find the same loss of it.

NCCL carries what is on a GPU, gloo what is on a CPU.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from spkver.data.directory import Utterance
from spkver.embedding.extractor import Embeds, Extractor
from spkver.errors import SpkverError


class OthersStopped(BaseException):
    """Another process of the training was told to stop, or cannot go on and says why."""


class Ranks:
    """This process among all of a training; alone, it has nobody to talk to.

    Args:
        rank: of this process, counted from 0.
        size: processes in all.
        local_rank, local_size: the same among those of this machine.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0, local_size: int = 1):
        self.rank, self.size, self.local_rank, self.local_size = rank, size, local_rank, local_size
        self._told: BaseException | None = None

    @classmethod
    @contextmanager
    def of_environment(cls) -> Iterator["Ranks"]:
        """As torchrun's variables say; connected while entered.

        Raises:
            SpkverError: the others cannot be reached.
        """
        names = "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"
        if not {*names, "MASTER_ADDR"} <= os.environ.keys() or os.environ["WORLD_SIZE"] == "1":
            yield cls()
            return
        ranks = cls(*(int(os.environ[name]) for name in names))
        has_gpu = torch.cuda.is_available()
        if has_gpu:
            torch.cuda.set_device(ranks.local_rank % torch.cuda.device_count())
        try:
            dist.init_process_group("cpu:gloo,cuda:nccl" if has_gpu else "gloo")
        except (RuntimeError, ValueError) as error:
            raise SpkverError(f"process {ranks.rank} cannot reach the others: {str(error).splitlines()[0]}") from None
        try:
            yield ranks
        finally:
            dist.destroy_process_group()

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and talks to people."""
        return self.rank == 0

    def check_batch(self, speakers: int) -> None:
        """Refuse a batch that cannot be divided.

        Raises:
            SpkverError: with the nearest numbers that can.
        """
        if speakers % self.size:
            below = speakers // self.size * self.size
            nearest = f"{below} or {below + self.size}" if below else str(self.size)
            raise SpkverError(
                f"batch.speakers is {speakers}, which {self.size} processes cannot share equally; take {nearest}"
            )

    def wrapped(self, encoder: nn.Module) -> nn.Module:
        """What computes as ``encoder``, and whose gradients are the mean over all processes."""
        if self.size == 1 or not any(parameter.requires_grad for parameter in encoder.parameters()):
            return encoder
        share_batch_norms(encoder, self.size)
        # What BatchNorms keep is the same everywhere, and need not be sent.
        buffers = [name for name, _ in encoder.named_buffers()]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(encoder, buffers)
        return DistributedDataParallel(encoder, gradient_as_bucket_view=True)

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Give each tensor the mean of what it is in all processes."""
        if self.size == 1:
            return
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor.div_(self.size)

    def joined(self, part: Tensor) -> Tensor:
        """The parts ``(n, ..)`` of all processes, of one shape, behind one another: ``(size * n, ..)``."""
        if self.size == 1:
            return part
        parts = [torch.empty_like(part) for _ in range(self.size)]
        dist.all_gather(parts, part.contiguous())
        return torch.cat(parts)

    def interleaved(self, mine: Tensor, n: int) -> Tensor:
        """``(n, ..)``, of which each process has made every ``size``-th, from the one at its rank on."""
        room = -(-n // self.size)
        padded = mine.new_zeros(room, *mine.shape[1:])
        padded[: len(mine)] = mine
        # Place i of process r is number i * size + r.
        return self.joined(padded).unflatten(0, (self.size, room)).transpose(0, 1).flatten(0, 1)[:n]

    def whole_batch(self, embeddings: Tensor) -> Tensor:
        """`joined`, where each process finds the whole batch's loss and its gradient through classes of its own."""
        return _WholeBatch.apply(embeddings, self)

    def of_slices(self, found: Tensor) -> Tensor:
        """What all processes have found, ``(..)`` -> ``(size, ..)``, of which all compute the same loss."""
        return _OfSlices.apply(found, self)

    def total(self, part: Tensor) -> Tensor:
        """The sum of what each process has, in its place."""
        if self.size > 1:
            dist.all_reduce(part)
        return part

    def gathered(self, part: Tensor, lengths: Sequence[int]) -> Tensor:
        """For the first process, the parts ``(length, ..)`` of all behind one another; others get theirs back.

        Args:
            part: on the CPU.
            lengths: of each process's part.
        """
        if not self.is_first:
            dist.send(part.contiguous(), 0)
            return part
        whole = part.new_empty(sum(lengths), *part.shape[1:])
        for rank, rows in enumerate(whole.split(list(lengths))):
            if rank == 0:
                rows.copy_(part)
            else:
                dist.recv(rows, rank)
        return whole

    def smallest(self, value: int) -> int:
        """The smallest of all processes' values."""
        with self.together():  # one that has stopped on its way here would leave the others waiting
            pass
        word = torch.tensor(value)
        if self.size > 1:
            dist.all_reduce(word, dist.ReduceOp.MIN)
        return int(word)

    def first_says(self, word: bool) -> bool:
        """The first process's word."""
        if self.size == 1:
            return word
        said = torch.tensor(int(word))
        dist.broadcast(said, 0)
        return bool(said)

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block that all processes leave alike: where some raise, the first of them does, the others `OthersStopped`.

        It ends with a word among the processes, so none may skip it. It must change nothing that could not be done
        again, since those whose block went well leave it all the same. Such blocks may stand within one another.
        """
        try:
            yield
        except BaseException as error:
            if isinstance(error, OthersStopped) or error is self._told:  # by a block within this one
                raise
            self._told = error
            if self._first_to_stop(stops=True) != self.rank:
                raise OthersStopped from error
            raise
        if self._first_to_stop(stops=False) is not None:
            raise OthersStopped

    def _first_to_stop(self, stops: bool) -> int | None:
        """The lowest rank of those that stop."""
        if self.size == 1:
            return self.rank if stops else None
        word = torch.tensor(self.rank if stops else self.size)  # on the CPU: a GPU goes on meanwhile
        dist.all_reduce(word, dist.ReduceOp.MIN)
        return None if word == self.size else int(word)

    def has_lost_one(self, error: RuntimeError) -> bool:
        """Whether an error comes of a process that has ended: the others are told by a closed connection."""
        return self.size > 1 and (isinstance(error, dist.DistError) or "gloo" in str(error))

    def shared(self, extractor: Extractor) -> Embeds:
        """What embeds utterances as ``extractor``, each process a share of them."""
        return extractor if self.size == 1 else SharedExtractor(extractor, self)


class SharedExtractor:
    """Embeds utterances as an extractor does, each process every so many of them, and all get all."""

    def __init__(self, extractor: Extractor, ranks: Ranks):
        self.extractor, self.ranks = extractor, ranks

    def embed_utterances(self, utterances: Sequence[Utterance], title: str) -> np.ndarray:
        """As `Extractor.embed_utterances`.

        Raises:
            OthersStopped: a file of another process's share cannot be used.
        """
        size, rank = self.ranks.size, self.ranks.rank
        with self.ranks.together():
            mine = self.extractor.embed_utterances(utterances[rank::size], title if self.ranks.is_first else "")
        return self.ranks.interleaved(torch.from_numpy(mine), len(utterances)).numpy()


class _Total(torch.autograd.Function):
    """The sum over all processes; what each adds is needed by all, so the gradient is the sum as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class _WholeBatch(torch.autograd.Function):
    """The items of all processes; their gradients are added up over what each process has found of them.

    Gradients of the encoder become the mean over processes, each of which has those of its own items only: so
    they are as many times as large here.
    """

    @staticmethod
    def forward(ctx: Any, part: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return ranks.joined(part)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ranks = ctx.ranks
        return ranks.total(gradient.clone()).chunk(ranks.size)[ranks.rank] * ranks.size, None


class _OfSlices(torch.autograd.Function):
    """The values of all processes, which all go on with alike: each takes the gradient of its own."""

    @staticmethod
    def forward(ctx: Any, found: Tensor, ranks: Ranks) -> Tensor:
        ctx.rank = ranks.rank
        return ranks.joined(found[None])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[ctx.rank], None


class SharedBatchNorm(_BatchNorm):
    """BatchNorm (Ioffe & Szegedy, ICML 2015) that trains on the statistics of all processes' items together.

    ``torch.nn.SyncBatchNorm`` does so on GPUs only.
    """

    size: int

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions behind ``(batch, channels)``."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        values = input.float()
        others = [0, *range(2, values.dim())]
        shape = [1, -1] + [1] * (values.dim() - 2)
        n = values.numel() // values.shape[1] * self.size
        mean = _Total.apply(values.sum(others)) / n
        centred = values - mean.view(shape)
        variance = _Total.apply(centred.square().sum(others)) / n
        self._follow(mean.detach(), variance.detach() * n / max(n - 1, 1))
        out = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        if not self.track_running_stats:
            return
        count = self.get_buffer("num_batches_tracked").add_(1)
        share = 1 / count if self.momentum is None else self.momentum
        for name, value in (("running_mean", mean), ("running_var", variance)):
            kept = self.get_buffer(name)
            kept.add_(share * (value - kept))


def share_batch_norms(module: nn.Module, size: int) -> None:
    """Let every BatchNorm in a module train on all processes' items; weights, statistics and names stay."""
    for norm in module.modules():
        if isinstance(norm, _BatchNorm) and not isinstance(norm, SharedBatchNorm):
            # The module itself, since others hold it: the freezing of layers, the statistics that are taken back.
            norm.__class__ = SharedBatchNorm
            vars(norm)["size"] = size
