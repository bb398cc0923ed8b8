"""What every head is, and the two heads without a margin: plain and normalised softmax.

A head turns embeddings into one logit a class (training speaker) for cross-entropy. Heads compute in
float32 whatever the autocast around them: near cosine 1, bfloat16 cannot tell angles apart.
"""

import copy
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spkver.errors import SpkverError

# Rows that are drawn at once and forgotten.
_DRAWN_ROWS = 1 << 16


class ClassSlice(NamedTuple):
    """Which of a head's classes one of several processes holds: one of ``size`` slices, equal but for one class."""

    rank: int = 0
    size: int = 1

    def of(self, n_classes: int) -> range:
        """The slice's classes."""
        return range(self.rank * n_classes // self.size, (self.rank + 1) * n_classes // self.size)


WHOLE = ClassSlice()


class Head(nn.Module):
    """Embedding and label -> logits. A kind of head defines ``logits`` and ``plain_logits``.

    ``weight`` is (len(classes) * rows_per_class, in_features), class-major: of the ``classes`` that are held here, the
    one at place c owns the rows from c * rows_per_class on.

    Args:
        in_features: of the embedding.
        out_features: number of classes, those of all slices.
        rows_per_class: weight vectors a class.
        class_slice: the classes held here, all by default. Those of a slice have the weights that they have in a whole
            head; of its losses, see `spkver.heads.chunked_loss`.
    """

    def __init__(self, in_features: int, out_features: int, rows_per_class: int = 1, class_slice: ClassSlice = WHOLE):
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.rows_per_class = rows_per_class
        self.classes = class_slice.of(out_features)
        # Of xavier_uniform_ for all rows: uniform in [-bound, bound].
        bound = math.sqrt(3.0) * math.sqrt(2.0 / (in_features + out_features * rows_per_class))
        self.row_length = bound * math.sqrt(in_features / 3)  # of a fresh row, root mean square
        self.weight = nn.Parameter(_drawn_rows(self.classes, rows_per_class, in_features, bound))

    @property
    def is_slice(self) -> bool:
        """Whether classes are missing, which other processes hold."""
        return len(self.classes) < self.out_features

    def per_class(self, parameter: Tensor) -> int:
        """Rows that each class has in one of the parameters."""
        return self.rows_per_class if parameter.dim() > 1 else 1

    def forward(self, embedding: Tensor, label: Tensor) -> Tensor:
        """Logits for cross-entropy.

        Args:
            embedding: (batch, in_features), of any norm and floating point type.
            label: (batch,) int64, each item's class in [0, out_features).

        Returns:
            (batch, out_features) float32.

        Raises:
            SpkverError: a label on a CPU is outside [0, out_features).
            ValueError: ``label`` is not (batch,) int64, or this is a slice.
        """
        self.check_label(label, len(embedding))
        if self.is_slice:
            raise ValueError(f"a slice of {len(self.classes)} of {self.out_features} classes has no logits of all")
        with torch.autocast(embedding.device.type, enabled=False):
            return self.logits(embedding.float(), label)

    def logits(self, embedding: Tensor, label: Tensor) -> Tensor:
        """What ``forward`` returns, from a float32 embedding and checked labels."""
        raise NotImplementedError

    def plain_logits(self, embedding: Tensor) -> Tensor:
        """(batch, in_features) -> (batch, len(classes)): the logits without any label's margin or penalty."""
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
        self.classes = range(min(self.classes.start, out_features), min(self.classes.stop, out_features))
        for parameter in self.parameters():
            _keep_rows(parameter, len(self.classes) * self.per_class(parameter))

    def copy_of(self, classes: Tensor) -> "Head":
        """A head of ``classes`` (n,) only, with copies of their rows for parameters of its own, detached from these.

        Args:
            classes: rising. The copy of a slice is one too, of those that the slice holds; a GPU is waited for to know
                how many they are.
        """
        copied = copy.copy(self)
        copied.out_features, copied.classes = len(classes), self.places_held(classes)
        held = classes[copied.classes.start : copied.classes.stop] - self.classes.start
        copied._parameters = {
            name: None
            if parameter is None
            else nn.Parameter(parameter.detach()[self.rows_of(held, self.per_class(parameter))])
            for name, parameter in self._parameters.items()
        }
        return copied

    def part(self, classes: Tensor) -> "Head":
        """`copy_of` classes that a step is to compare with.

        Raises:
            SpkverError: a head of this kind could not work with so few.
        """
        return self.copy_of(classes)

    def places_held(self, classes: Tensor) -> range:
        """Which of ``classes`` (n,), rising, are held here."""
        if not self.is_slice:
            return range(len(classes))
        borders = torch.tensor([self.classes.start, self.classes.stop], device=classes.device)
        return range(*torch.searchsorted(classes, borders).tolist())

    @staticmethod
    def rows_of(places: Tensor, per_class: int) -> Tensor:
        """The rows of classes at ``places`` (n,), class by class, where each has ``per_class`` of them."""
        return (places[:, None] * per_class + torch.arange(per_class, device=places.device)).flatten()

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

    def __init__(self, in_features: int, out_features: int, bias: bool = True, class_slice: ClassSlice = WHOLE):
        super().__init__(in_features, out_features, class_slice=class_slice)
        self.bias = nn.Parameter(torch.zeros(len(self.classes))) if bias else None

    def logits(self, embedding: Tensor, label: Tensor) -> Tensor:
        return self.plain_logits(embedding)

    def plain_logits(self, embedding: Tensor) -> Tensor:
        return F.linear(embedding, self.weight.float(), None if self.bias is None else self.bias.float())


class NormFace(Head):
    """scale * cos(theta) between the embedding and each class.

    F. Wang et al., "NormFace: L2 Hypersphere Embedding for Face Verification", ACM Multimedia 2017.

    Args:
        scale: of the cosines; without one, softmax over [-1, 1] could not become confident.
        rows_per_class: weight vectors a class, for heads with sub-centers that build on this one.
        class_slice: the classes held here, see `Head`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        scale: float = 32.0,
        rows_per_class: int = 1,
        class_slice: ClassSlice = WHOLE,
    ):
        super().__init__(in_features, out_features, rows_per_class, class_slice)
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


def _drawn_rows(classes: range, rows_per_class: int, in_features: int, bound: float) -> Tensor:
    """Uniform in [-bound, bound], whatever the process: the rows of classes before these are drawn and forgotten."""
    for first in range(0, classes.start * rows_per_class, _DRAWN_ROWS):
        n_rows = min(_DRAWN_ROWS, classes.start * rows_per_class - first)
        torch.empty(n_rows, in_features).uniform_(-bound, bound)
    return torch.empty(len(classes) * rows_per_class, in_features).uniform_(-bound, bound)
