"""`LogitSummary` of `spkver.heads.chunked_torch` by kernels: one pass between matrix products.

For each chunk of weight rows the forward pass is: lengths (and rounding) of the rows, one product, one kernel that
finds target, hardest and summed exponentials. The backward pass: the product again, one kernel that turns it into its
own gradient, two products, and the part along each weight row taken out.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from spkver import native
from spkver.heads.chunked_torch import ChunkPlan, logits_of_some

# Below every logit, and finite: -inf less -inf would be NaN.
_LOWEST = torch.finfo(torch.float32).min


class FusedLogits(torch.autograd.Function):
    """As ``LogitSummary``, where `native.usable` says so; ``embedding`` and ``weight`` are float32."""

    @staticmethod
    def forward(
        ctx: Any, embedding: Tensor, weight: Tensor, bias: Tensor | None, label: Tensor, plan: ChunkPlan
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        batch, k, n_threads = len(embedding), plan.n_top_k, torch.get_num_threads()
        weight, label, bias = weight.contiguous(), label.contiguous(), None if bias is None else bias.contiguous()
        target = embedding.new_full((batch,), -torch.inf)
        # Every thread has its own.
        top_k_other = embedding.new_full((n_threads, batch, k), -torch.inf)
        top_k_class = label.new_full((n_threads, batch, k), -1)
        highest = embedding.new_full((n_threads, batch), _LOWEST)
        total = embedding.new_zeros((n_threads, batch), dtype=torch.float64)
        inverse_norm = embedding.new_empty(len(weight)) if plan.normalise else None
        chunks = _Chunks(embedding, weight, bias, inverse_norm, plan)

        for chunk in chunks:
            chunks.multiply(chunk, measure=plan.normalise)
            running = target, top_k_other, top_k_class, highest, total
            sizes = {"first": chunk.first, "classes": chunk.n_classes, "rows_per_class": plan.rows_per_class}
            native.call("head_forward", *chunks.logit_parts(chunk), label, *running, **sizes, dtype=plan.factors)

        top_k_other, order = top_k_other.transpose(0, 1).flatten(1).sort(1, descending=True)
        top_k_class = top_k_class.transpose(0, 1).flatten(1).gather(1, order)
        # Of the threads' hardest only the k of all are kept apart; the others belong to the rest.
        fallen, top_k_other, top_k_class = top_k_other[:, k:], top_k_other[:, :k], top_k_class[:, :k].contiguous()
        other_logsumexp = torch.cat([total.log() + highest.double(), fallen.double().t()]).logsumexp(0)
        other_highest = torch.cat([highest.masked_fill(highest == _LOWEST, -torch.inf), fallen.t()]).amax(0)
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
        n_singles = 1 + plan.n_top_k
        single_class, order = torch.cat([label[:, None], top_k_class], 1).flatten().sort()
        single_grad = torch.cat([grad_target[:, None], grad_hardest], 1).flatten()[order]
        single_item = order // n_singles
        grad_other = grad_other.contiguous()
        grad_weight = torch.empty_like(weight)
        grad_bias = None if bias is None else torch.empty_like(bias)
        grad_embedding = torch.zeros_like(embedding.t())
        chunks = _Chunks(embedding, weight, bias, inverse_norm, plan)
        factor = embedding.to(plan.factors)
        product = None if chunks.rounded is None else torch.empty_like(chunks.rounded)

        for chunk in chunks:
            rows = chunks.multiply(chunk)
            radial = embedding.new_empty(chunk.n_rows)
            classes = torch.arange(chunk.first, chunk.first + chunk.n_classes + 1)
            first_single = torch.searchsorted(single_class, classes)
            singles = single_grad, first_single, single_item
            of_bias = None if grad_bias is None else grad_bias[chunk.classes]
            sizes = {"classes": chunk.n_classes, "offsets": len(classes), "rows_per_class": plan.rows_per_class}
            parts = chunks.logit_parts(chunk)
            changed = radial, of_bias
            native.call(
                "head_backward", *parts, other_logsumexp, grad_other, *singles, *changed, **sizes, dtype=plan.factors
            )
            of_rows = grad_weight[chunk.rows]
            of_factor = of_rows if product is None else product[: chunk.n_rows]
            torch.mm(parts[0], factor, out=of_factor)
            if plan.normalise or product is not None:
                finished = of_factor, weight[chunk.rows], radial, of_rows
                native.call("head_finish", *finished, dtype=plan.factors)
            if product is None:
                grad_embedding.addmm_(rows.t(), parts[0])
            else:
                grad_embedding += rows.t() @ parts[0]
        return grad_embedding.t(), grad_weight, grad_bias, None, None


class _Chunk:
    """Classes ``first`` to ``last``, and their rows."""

    def __init__(self, first: int, last: int, rows_per_class: int):
        self.first, self.n_classes, self.n_rows = first, last - first, (last - first) * rows_per_class
        self.classes = slice(first, last)
        self.rows = slice(first * rows_per_class, last * rows_per_class)


class _Chunks:
    """Products of one chunk of weight rows with the batch at a time, in memory that the next chunk takes over."""

    def __init__(
        self, embedding: Tensor, weight: Tensor, bias: Tensor | None, inverse_norm: Tensor | None, plan: ChunkPlan
    ):
        self.weight, self.bias, self.inverse_norm, self.plan = weight, bias, inverse_norm, plan
        self.n_classes = len(weight) // plan.rows_per_class
        self.factor = embedding.t().to(plan.factors).contiguous()
        n_rows = min(plan.chunk_classes, self.n_classes) * plan.rows_per_class
        self.products = self.factor.new_empty(n_rows, len(embedding))
        rounds = plan.factors != torch.float32
        self.rounded = self.factor.new_empty(n_rows, weight.shape[1]) if rounds else None

    def __iter__(self) -> Iterator[_Chunk]:
        for first in range(0, self.n_classes, self.plan.chunk_classes):
            last = min(first + self.plan.chunk_classes, self.n_classes)
            yield _Chunk(first, last, self.plan.rows_per_class)

    def multiply(self, chunk: _Chunk, measure: bool = False) -> Tensor:
        """Products of a chunk's rows, and with ``measure`` 1 / the rows' lengths; returns the rows as multiplied."""
        rows = self.weight[chunk.rows]
        inverse = self.inverse_norm[chunk.rows] if measure and self.inverse_norm is not None else None
        rounded = None if self.rounded is None else self.rounded[: chunk.n_rows]
        if measure or rounded is not None:
            native.call("head_prepare", rows, inverse, rounded, dtype=torch.float32)
        factor = rows if rounded is None else rounded
        torch.mm(factor, self.factor, out=self.products[: chunk.n_rows])
        return factor

    def logit_parts(self, chunk: _Chunk) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Products, 1 / lengths and biases of a chunk."""
        inverse = None if self.inverse_norm is None else self.inverse_norm[chunk.rows]
        bias = None if self.bias is None else self.bias[chunk.classes]
        return self.products[: chunk.n_rows], inverse, bias
