"""What every head is, and the two heads without a margin: plain and normalised softmax.

A head turns embeddings into one logit a class (training speaker) for cross-entropy. Heads compute in
float32 whatever the autocast around them: near cosine 1, bfloat16 cannot tell angles apart.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spkver.errors import SpkverError


class Head(nn.Module):
    """Embedding and label -> logits. A kind of head defines ``logits`` and ``plain_logits``.

    ``weight`` is (out_features * rows_per_class, in_features), class-major: class c owns the rows
    from c * rows_per_class on.
    """

    def __init__(self, in_features: int, out_features: int, rows_per_class: int = 1):
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.rows_per_class = rows_per_class
        self.weight = nn.Parameter(torch.empty(out_features * rows_per_class, in_features))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, embedding: Tensor, label: Tensor) -> Tensor:
        """Logits for cross-entropy.

        Args:
            embedding: (batch, in_features), of any norm and floating point type.
            label: (batch,) int64, each item's class in [0, out_features).

        Returns:
            (batch, out_features) float32.

        Raises:
            SpkverError: a label on a CPU is outside [0, out_features).
            ValueError: ``label`` is not (batch,) int64.
        """
        self.check_label(label, len(embedding))
        with torch.autocast(embedding.device.type, enabled=False):
            return self.logits(embedding.float(), label)

    def logits(self, embedding: Tensor, label: Tensor) -> Tensor:
        """What ``forward`` returns, from a float32 embedding and checked labels."""
        raise NotImplementedError

    def plain_logits(self, embedding: Tensor) -> Tensor:
        """(batch, in_features) -> (batch, out_features): the logits without any label's margin or penalty."""
        raise NotImplementedError

    def update(self, margin: float) -> None:
        """Set the margin, in radians, for a schedule; heads without a margin ignore it."""

    def cut(self, out_features: int) -> None:
        """Keep the first ``out_features`` classes only, in place.

        Speed perturbation trains three classes a speaker, the original speakers first; large-margin
        fine-tuning goes without it, and classes that no utterance has left would only repel. An
        optimiser that already holds the head's parameters must be built anew.

        Raises:
            SpkverError: the head has fewer classes, or could not work with so few.
        """
        if not 1 <= out_features <= self.out_features:
            raise SpkverError(f"cannot cut a head of {self.out_features} classes to {out_features}")
        self.out_features = out_features
        _keep_rows(self.weight, out_features * self.rows_per_class)

    def part(self, classes: Tensor) -> "Head":
        """A head of ``classes`` (n,) only, with copies of their rows for parameters of its own, detached from these.

        Raises:
            SpkverError: a head of this kind could not work with so few.
        """
        part = copy.copy(self)
        part.out_features = len(classes)
        part._parameters = {
            name: None
            if parameter is None
            else nn.Parameter(parameter.detach()[self.rows_of(classes, len(parameter) // self.out_features)])
            for name, parameter in self._parameters.items()
        }
        return part

    @staticmethod
    def rows_of(classes: Tensor, per_class: int) -> Tensor:
        """The rows of ``classes`` (n,), class by class, in a parameter that has ``per_class`` of them a class."""
        return (classes[:, None] * per_class + torch.arange(per_class, device=classes.device)).flatten()

    def check_label(self, label: Tensor, batch: int) -> None:
        """Raise, naming what is wrong, unless labels are ``(batch,)`` int64 and each a class of this head.

        On a GPU they are not read, which would wait for it: check them before they are copied there.
        """
        if label.shape != (batch,) or label.dtype != torch.int64:
            raise ValueError(f"label must be ({batch},) int64, not {tuple(label.shape)} of {label.dtype}")
        if label.device.type != "cpu":
            return
        low, high = map(int, label.aminmax())
        if low < 0 or high >= self.out_features:
            raise SpkverError(
                f"label {low if low < 0 else high} is outside [0, {self.out_features}): "
                f"the head has {self.out_features} classes, give it one for each training speaker"
            )

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"


class Softmax(Head):
    """A linear layer on the embedding as it is, with or without a bias."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True):
        super().__init__(in_features, out_features)
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def logits(self, embedding: Tensor, label: Tensor) -> Tensor:
        return self.plain_logits(embedding)

    def plain_logits(self, embedding: Tensor) -> Tensor:
        return F.linear(embedding, self.weight.float(), None if self.bias is None else self.bias.float())

    def cut(self, out_features: int) -> None:
        super().cut(out_features)
        if self.bias is not None:
            _keep_rows(self.bias, out_features)


class NormFace(Head):
    """scale * cos(theta) between the embedding and each class.

    F. Wang et al., "NormFace: L2 Hypersphere Embedding for Face Verification", ACM Multimedia 2017.

    Args:
        scale: of the cosines; without one, softmax over [-1, 1] could not become confident.
        rows_per_class: weight vectors a class, for heads with sub-centers that build on this one.
    """

    def __init__(self, in_features: int, out_features: int, scale: float = 32.0, rows_per_class: int = 1):
        super().__init__(in_features, out_features, rows_per_class)
        self.scale = scale

    def logits(self, embedding: Tensor, label: Tensor) -> Tensor:
        return self.plain_logits(embedding)

    def plain_logits(self, embedding: Tensor) -> Tensor:
        return self.scale * self.cosine(embedding)

    def cosine(self, embedding: Tensor) -> Tensor:
        """(batch, in_features) -> cosines to all rows of ``weight``; rounding may pass +-1 by 1e-7."""
        return F.linear(F.normalize(embedding), F.normalize(self.weight.float()))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, scale={self.scale}"


def _keep_rows(parameter: nn.Parameter, n_rows: int) -> None:
    # The Parameter object stays, so that whoever holds it sees the cut; clone frees the other rows.
    parameter.data = parameter.data[:n_rows].clone()
    parameter.grad = None
