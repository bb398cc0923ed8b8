"""The loss of a head with very many classes, chunk by chunk over the classes.

``chunked_loss`` is ``F.cross_entropy(head(embedding, label), label)`` for any head of this package, with
the same gradients, and never holds a (batch, classes) tensor or a normalised copy of the weights. The
head's own parameters are used: checkpoints know nothing of it.


- The margin and the inter-topk penalty touch 1 + k_top logits an item. One pass over the classes finds
  these, and the logarithm of the summed exponentials of all others (online softmax: M. Milakov and N.
  Gimelshein, "Online normalizer calculation for softmax", 2018). Cross-entropy over these 2 + k_top
  values is the loss, so that the margins stay the plain head's formulas, derived by autograd.
- `spkver.heads.chunked_native` makes these by kernels, `spkver.heads.chunked_torch` by torch where there are none.
"""

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


def chunked_loss(
    head: Head,
    embedding: Tensor,
    label: Tensor,
    products: Products = "float32",
    chunk_rows: int | None = None,
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
        target, top_k_other, other_logsumexp, other_highest = summary.apply(embedding, weight, bias, label, plan)
        if isinstance(head, ArcMarginProduct):
            target = head.scale * penalise(target / head.scale, head.angle, head.easy_margin)
        if penalised is not None:
            top_k_other = penalised.scale * penalised.penalise_others(top_k_other / penalised.scale)
        logits = torch.cat([target[:, None], top_k_other, other_logsumexp[:, None]], dim=1)
        loss = F.cross_entropy(logits, torch.zeros_like(label))
        others = torch.cat([top_k_other, other_highest[:, None]], dim=1).amax(1)
    return loss, (target > others).sum()


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
    """Raise unless there are rows and biases for all classes: pieces of them would be taken for the whole."""
    rows, bias = head.out_features * head.rows_per_class, getattr(head, "bias", None)
    if head.weight.dim() != 2 or len(head.weight) != rows:
        raise ValueError(f"head.weight must have {rows} rows, not the shape {tuple(head.weight.shape)}")
    if bias is not None and bias.shape != (head.out_features,):
        raise ValueError(f"head.bias must be ({head.out_features},), not {tuple(bias.shape)}")
