"""All logits of a batch, condensed chunk by chunk to what cross-entropy with margins on a few of them needs, by torch.

`spkver.heads.chunked_native` does the same by kernels, where there are any.

- The backward pass computes each chunk's logits again instead of keeping them (as cut cross-entropy: E.
  Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models", ICLR 2025).
- Logits are (rows, batch): what reduces over classes or sub-centers, or scales a row, then runs along
  contiguous memory, and a chunk's weights and their gradient are used where they lie.
- On a CPU the top values are searched only in those items whose highest value in a chunk beats the lowest kept:
  after a few chunks, next to none.
- Nothing depends on values that a GPU would have to be waited for.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class ChunkPlan(NamedTuple):
    """What ``LogitSummary`` computes, and in which portions."""

    rows_per_class: int
    normalise: bool  # each weight row to length 1
    n_top_k: int
    chunk_classes: int
    factors: torch.dtype  # of matrix products


class LogitSummary(torch.autograd.Function):
    """All logits of a batch, condensed to what cross-entropy with margins on a few of them needs.

    ``apply(embedding, weight, bias, label, plan)`` takes (batch, dim), (classes * rows_per_class, dim),
    (classes,) or None, (batch,); a class's logit is the highest of its rows' (with a bias, there is but
    one). It returns

    - target (batch,): of the label, -inf where that is none of these classes;
    - top_k_other (batch, n_top_k): the highest of other classes, falling, -inf where there are fewer;
    - other_logsumexp (batch,): logsumexp of the classes that are neither, -inf if there are none;
    - the highest of these (batch,), without a gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, embedding: Tensor, weight: Tensor, bias: Tensor | None, label: Tensor, plan: ChunkPlan
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        batch, k = len(embedding), plan.n_top_k
        target = embedding.new_full((batch,), -torch.inf)
        top_k_other = embedding.new_full((batch, k), -torch.inf)
        top_k_class = label.new_full((batch, k), -1)
        other_highest = embedding.new_full((batch,), -torch.inf)
        other_logsumexp = other_highest.double()  # a running sum over all chunks
        inverse_norm = embedding.new_empty(len(weight)) if plan.normalise else None
        chunks = _Chunks(embedding, weight, bias, inverse_norm, plan)
        lowest = torch.finfo(embedding.dtype).min

        for chunk in chunks.parts():
            if inverse_norm is not None:
                norm = torch.linalg.vector_norm(weight[chunk.rows], dim=1)
                inverse_norm[chunk.rows] = norm.clamp_min(1e-12).reciprocal()  # as F.normalize
            logit = chunks.of_classes(chunks.of_rows(chunk))
            place, is_here = chunk.places(label[None])
            found = logit.gather(0, place)
            target = torch.where(is_here[0], found[0], target)
            logit.scatter_(0, place, found.masked_fill(is_here, -torch.inf))
            highest = logit.amax(0)
            if k:
                items = _items_to_search(highest, top_k_other[:, -1])
                kept = top_k_other[items], top_k_class[items]
                top_k_other[items], top_k_class[items], left, highest[items] = _merge(kept, logit, items, chunk.first)
                other_logsumexp[items] = other_logsumexp[items].logaddexp(left.double().logsumexp(1))
                other_highest[items] = other_highest[items].maximum(left.amax(1))
            other_highest = other_highest.maximum(highest)
            highest.clamp_min_(lowest)  # -inf less -inf would be NaN
            other_logsumexp = other_logsumexp.logaddexp(logit.sub_(highest).exp_().sum(0).log().add_(highest).double())

        # What fills up where there are fewer other classes stands for none, and may have been the label's own.
        top_k_class.masked_fill_(top_k_other == -torch.inf, -1)
        if plan.factors != embedding.dtype:
            parts = weight, bias, inverse_norm, plan.rows_per_class
            target = logits_of_some(embedding, *parts, label[:, None])[:, 0]
            top_k_other = logits_of_some(embedding, *parts, top_k_class)
        other_logsumexp = other_logsumexp.to(embedding.dtype)
        ctx.save_for_backward(embedding, weight, bias, label, inverse_norm, top_k_class, other_logsumexp)
        ctx.plan = plan
        ctx.mark_non_differentiable(other_highest)
        return target, top_k_other, other_logsumexp, other_highest

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_target: Tensor, grad_hardest: Tensor, grad_other: Tensor, _: None
    ) -> tuple[Tensor, Tensor, Tensor | None, None, None]:
        embedding, weight, bias, label, inverse_norm, top_k_class, other_logsumexp = ctx.saved_tensors
        plan = ctx.plan
        single_class = torch.cat([label[None], top_k_class.t()])
        single_grad = torch.cat([grad_target[None], grad_hardest.t()])
        grad_weight = torch.empty_like(weight)
        grad_bias = None if bias is None else torch.empty_like(bias)
        grad_embedding = torch.zeros_like(embedding.t())
        chunks = _Chunks(embedding, weight, bias, inverse_norm, plan)

        for chunk in chunks.parts():
            row_logit = chunks.of_rows(chunk)
            logit = chunks.of_classes(row_logit)
            # One row more, for the gradients of classes that are in other chunks.
            grad = logit.new_empty(len(logit) + 1, len(embedding))
            torch.sub(logit, other_logsumexp, out=grad[:-1]).exp_().mul_(grad_other)
            # Also where nothing is left for ``other_logsumexp``, and what stands there is NaN.
            place, is_here = chunk.places(single_class)
            grad = grad.scatter_(0, place.masked_fill(~is_here, len(logit)), single_grad)[:-1]
            if grad_bias is not None:
                grad_bias[chunk.classes] = grad.sum(1)
            grad = _to_nearest_rows(grad, logit, row_logit, plan.rows_per_class)
            rows = weight[chunk.rows]
            if plan.normalise:
                inverse = inverse_norm[chunk.rows]
                # w / |w| does not change along w, so the gradient has no part along it.
                radial = (grad * row_logit).sum(1) * inverse.square()
                grad *= inverse[:, None]
            grad_factor = grad.to(plan.factors)
            _multiply(grad_factor, embedding, plan.factors, out=grad_weight[chunk.rows])
            if plan.normalise:
                grad_weight[chunk.rows].addcmul_(rows, radial[:, None], value=-1)
            grad_embedding += rows.to(plan.factors).t() @ grad_factor
        return grad_embedding.t(), grad_weight, grad_bias, None, None


class _Chunk(NamedTuple):
    classes: slice
    rows: slice

    @property
    def first(self) -> int:
        """Its first class."""
        return self.classes.start

    def places(self, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Where in the chunk any classes stand, and whether they do: it is some place for those that do not."""
        place = classes - self.classes.start
        last = self.classes.stop - self.classes.start - 1
        return place.clamp(0, last), (place >= 0) & (place <= last)


class _Chunks:
    """The logits of one chunk of classes at a time, in memory that the next chunk takes over."""

    def __init__(
        self, embedding: Tensor, weight: Tensor, bias: Tensor | None, inverse_norm: Tensor | None, plan: ChunkPlan
    ):
        self.weight, self.bias, self.inverse_norm, self.plan = weight, bias, inverse_norm, plan
        self.n_classes = len(weight) // plan.rows_per_class
        self.embedding = embedding.t().contiguous()
        n_rows = min(plan.chunk_classes, self.n_classes) * plan.rows_per_class
        self.memory = embedding.new_empty(n_rows, len(embedding))

    def parts(self) -> Iterator[_Chunk]:
        for first in range(0, self.n_classes, self.plan.chunk_classes):
            last = min(first + self.plan.chunk_classes, self.n_classes)
            rows = slice(first * self.plan.rows_per_class, last * self.plan.rows_per_class)
            yield _Chunk(slice(first, last), rows)

    def of_rows(self, chunk: _Chunk) -> Tensor:
        """(rows, batch)"""
        rows = self.weight[chunk.rows]
        logit = _multiply(rows, self.embedding, self.plan.factors, out=self.memory[: len(rows)])
        if self.inverse_norm is not None:
            logit *= self.inverse_norm[chunk.rows, None]
        if self.bias is not None:
            logit += self.bias[chunk.classes, None]
        return logit

    def of_classes(self, row_logit: Tensor) -> Tensor:
        """(rows, batch) -> (classes, batch); with one row a class, the same memory."""
        if self.plan.rows_per_class == 1:
            return row_logit
        return row_logit.unflatten(0, (-1, self.plan.rows_per_class)).amax(1)


def logits_of_some(
    embedding: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    inverse_norm: Tensor | None,
    rows_per_class: int,
    classes: Tensor,
) -> Tensor:
    """(batch, dim), classes (batch, n) -> (batch, n): few classes an item, without rounding of factors.

    Of a class that is not among the weight's it is -inf.
    """
    n_classes = len(weight) // rows_per_class
    if n_classes == 0:
        return embedding.new_full(classes.shape, -torch.inf)
    is_here = (classes >= 0) & (classes < n_classes)
    classes = classes.clamp(0, n_classes - 1)
    rows = classes[..., None] * rows_per_class + torch.arange(rows_per_class, device=classes.device)
    logit = torch.einsum("bd,bnrd->bnr", embedding, weight[rows])
    if inverse_norm is not None:
        logit *= inverse_norm[rows]
    if bias is not None:
        logit += bias[classes, None]
    return logit.amax(2).masked_fill(~is_here, -torch.inf)


def _items_to_search(highest: Tensor, lowest_kept: Tensor) -> Tensor:
    """The items (n,) whose ``highest`` (batch,) of a chunk is among what is kept: on a CPU, after a few chunks few.

    A GPU is not asked which those are, as it would be waited for: it searches all of them.
    """
    if highest.device.type == "cpu":
        return (highest > lowest_kept).nonzero()[:, 0]
    return torch.arange(len(highest), device=highest.device)


def _merge(kept: tuple[Tensor, Tensor], logit: Tensor, items: Tensor, first: int) -> tuple[Tensor, ...]:
    """The highest of those kept and of a chunk's logits, which become -inf where they are taken out.

    Args:
        kept: values and classes, (items, k) each.
        logit: (classes, batch).
        items: the batch's items that are looked at.
        first: class of the chunk.

    Returns:
        values and classes (items, k), the values (items, k or fewer) that fell out, and the highest
        (items,) of the chunk's that were never in.
    """
    k = kept[0].shape[1]
    looked_at = logit.index_select(1, items).t().contiguous()
    value, index = looked_at.topk(min(k, len(logit)), dim=1)
    logit[index, items[:, None]] = -torch.inf
    highest = looked_at.scatter_(1, index, -torch.inf).amax(1)
    value, order = torch.cat([kept[0], value], dim=1).sort(dim=1, descending=True)
    index = torch.cat([kept[1], index + first], dim=1).gather(1, order)
    return value[:, :k], index[:, :k], value[:, k:], highest


def _to_nearest_rows(grad: Tensor, logit: Tensor, row_logit: Tensor, rows_per_class: int) -> Tensor:
    """Gradients of classes (classes, batch) -> of rows; of equals the first row has it, as in ``Tensor.max``."""
    if rows_per_class == 1:
        return grad
    row_grad = torch.empty_like(row_logit)
    each, of_each = row_grad.unflatten(0, (-1, rows_per_class)), row_logit.unflatten(0, (-1, rows_per_class))
    for row in range(rows_per_class - 1):
        # 0 at the nearest and 1 elsewhere: float arithmetic is several times faster here than masks are.
        farther = (logit - of_each[:, row]).sign_()
        torch.addcmul(grad, grad, farther, value=-1, out=each[:, row])
        grad -= each[:, row]
    each[:, -1] = grad
    return row_grad


def _multiply(a: Tensor, b: Tensor, factors: torch.dtype, out: Tensor) -> Tensor:
    if factors == out.dtype:
        return torch.mm(a, b, out=out)
    return out.copy_(a.to(factors) @ b.to(factors))
