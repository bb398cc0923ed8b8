"""The loss of a head with very many classes, chunk by chunk over the classes.

``chunked_loss`` is ``F.cross_entropy(head(embedding, label), label)`` for any head of this package, with
the same gradients, and never holds a (batch, classes) tensor or a normalised copy of the weights. The
head's own parameters are used: checkpoints know nothing of it.


- The margin and the inter-topk penalty touch 1 + k_top logits an item. One pass over the classes finds
  these, and the logarithm of the summed exponentials of all others (online softmax: M. Milakov and N.
  Gimelshein, "Online normalizer calculation for softmax", 2018). Cross-entropy over these 2 + k_top
  values is the loss, so that the margins stay the plain head's formulas, derived by autograd.
- What is found in slices of the classes, which several processes hold, is put together likewise: only these few values
  an item pass between them (as in partial FC: X. An et al., CVPR 2022).
- `spkver.heads.chunked_native` makes these by kernels, `spkver.heads.chunked_torch` by torch where there are none.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from spkver import native
from spkver.heads.arc_margin import ArcMarginProduct, penalise
from spkver.heads.chunked_native import FusedLogits
from spkver.heads.chunked_torch import ChunkPlan, LogitSummary
from spkver.heads.intertopk_subcenter import ArcMarginProductIntertopkSubcenter
from spkver.heads.softmax import Head, NormFace

Products = Literal["float32", "bfloat16"]
FACTORS: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# Weight rows a chunk on a CPU: with 128 items 2 MiB of logits, which stay in the cache; fewer cost more calls.
CPU_CHUNK_ROWS = 4096
# Logits a chunk on a GPU, 128 MiB of them: with fewer, it waits for the next call most of the time.
GPU_CHUNK_LOGITS = 1 << 25


def of_no_others(found: Tensor) -> Tensor:
    """What is found in all slices of a head's classes where there is but one, which holds them all."""
    return found[None]


def chunked_loss(
    head: Head,
    embedding: Tensor,
    label: Tensor,
    products: Products = "float32",
    chunk_rows: int | None = None,
    of_slices: Callable[[Tensor], Tensor] = of_no_others,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of a head's logits, with its margin and penalty, and how many items it has right.

    Args:
        head: of any kind in this package, at its present margin.
        embedding: (batch, in_features), of any norm and floating point type.
        label: (batch,) int64, each item's class in [0, out_features).
        products: type of the factors and results of matrix products. With "bfloat16", sums within and over
            products, the softmax, and the logits that get a margin or penalty are float32 nevertheless.
        chunk_rows: rows of ``head.weight`` at a time, rounded down to whole classes, one at least; None: what suits the
            device.
        of_slices: where the head is a slice: takes values ``(batch, n)`` that were found in this slice, and gives those
            found in each, ``(slices, batch, n)``; in the backward pass, the gradient of its own. Every slice is given
            the same items and finds the same loss, and the gradients of its own parameters; that of ``embedding`` is
            the sum of what the slices find.

    Returns:
        loss: () float32, the batch's mean, differentiable in embedding and in the head's parameters.
        n_correct: () int64, the items whose own class has a higher logit, margin included, than any other.
            (``logits.argmax`` counts some ties as correct, such as those of a collapsed encoder.)

    Raises:
        SpkverError: a label is outside [0, out_features).
        ValueError: ``label`` is not (batch,) int64; ``products`` or ``chunk_rows`` is none of the above; the head's
            weight or bias does not fit its number of classes.

    Example:
        >>> head = ArcMarginProductIntertopkSubcenter(192, 1000)
        >>> loss, n_correct = chunked_loss(head, torch.randn(8, 192), torch.arange(8))
        >>> loss.backward()
    """
    if products not in FACTORS:
        raise ValueError(f"products must be 'float32' or 'bfloat16', not {products!r}")
    if chunk_rows is None:
        chunk_rows = rows_a_chunk(embedding.device, len(embedding))
    if chunk_rows < 1:
        raise ValueError(f"chunk_rows must be 1 or more, not {chunk_rows}")
    head.check_label(label, len(embedding))
    _check_parameters(head)
    # No head has a penalty but this one, and it has none before the margin schedule begins.
    penalised = head if isinstance(head, ArcMarginProductIntertopkSubcenter) and head.has_penalty else None
    plan = ChunkPlan(
        rows_per_class=head.rows_per_class,
        normalise=isinstance(head, NormFace),
        n_top_k=0 if penalised is None else penalised.k_top,
        chunk_classes=max(chunk_rows // head.rows_per_class, 1),
        factors=FACTORS[products],
    )
    with torch.autocast(embedding.device.type, enabled=False):
        embedding, weight = embedding.float(), head.weight.float()
        bias = getattr(head, "bias", None)
        bias = None if bias is None else bias.float()
        if isinstance(head, NormFace):
            embedding = head.scale * F.normalize(embedding)
        summary = FusedLogits if _kernels_fit(embedding, weight, bias, label) else LogitSummary
        # Where a class of all stands among those held here; elsewhere, its logit is -inf.
        place = label - head.classes.start
        found = summary.apply(embedding, weight, bias, place, plan)
        target, top_k_other, left, other_highest = _of_all_classes(found, plan.n_top_k, of_slices)
        if isinstance(head, ArcMarginProduct):
            target = head.scale * penalise(target / head.scale, head.angle, head.easy_margin)
        if penalised is not None:
            top_k_other = penalised.scale * penalised.penalise_others(top_k_other / penalised.scale)
        loss = F.cross_entropy(torch.cat([target[:, None], top_k_other, left], dim=1), torch.zeros_like(label))
        others = torch.cat([top_k_other, other_highest], dim=1).amax(1)
    return loss, (target > others).sum()


def _of_all_classes(
    found: tuple[Tensor, Tensor, Tensor, Tensor], k: int, of_slices: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """From what a `LogitSummary` finds in each slice to what it would find in all classes.

    Returns:
        target: (batch,).
        top_k_other: (batch, k), the highest of other classes, falling.
        left: (batch, ..), whose logsumexp is that of all that are neither.
        highest_left: (batch, ..), of which the highest is that of all that are neither.
    """
    target, top_k_other, other_logsumexp, other_highest = found
    columns = [target[:, None], other_logsumexp[:, None], other_highest[:, None], top_k_other]
    each = of_slices(torch.cat(columns, dim=1))
    top_k_other = each[:, :, 3:].transpose(0, 1).flatten(1).sort(dim=1, descending=True).values
    fallen = top_k_other[:, k:]
    left = torch.cat([fallen, each[:, :, 1].t()], dim=1)
    return each[:, :, 0].amax(0), top_k_other[:, :k], left, torch.cat([fallen, each[:, :, 2].t()], dim=1)


def rows_a_chunk(device: torch.device, batch: int) -> int:
    """Weight rows that are multiplied at a time: on a CPU what its cache holds, elsewhere what keeps it busy."""
    return CPU_CHUNK_ROWS if device.type == "cpu" else max(GPU_CHUNK_LOGITS // max(batch, 1), CPU_CHUNK_ROWS)


def _kernels_fit(embedding: Tensor, weight: Tensor, bias: Tensor | None, label: Tensor) -> bool:
    return (
        native.usable(embedding, weight)
        and (bias is None or native.fits(bias, bias.shape, torch.float32))
        and native.fits(label, label.shape, torch.int64)
    )


def _check_parameters(head: Head) -> None:
    """Raise unless there are rows and biases for all classes held: pieces of them would be taken for the whole."""
    rows, bias = len(head.classes) * head.rows_per_class, getattr(head, "bias", None)
    if head.weight.dim() != 2 or len(head.weight) != rows:
        raise ValueError(f"head.weight must have {rows} rows, not the shape {tuple(head.weight.shape)}")
    if bias is not None and bias.shape != (len(head.classes),):
        raise ValueError(f"head.bias must be ({len(head.classes)},), not {tuple(bias.shape)}")
