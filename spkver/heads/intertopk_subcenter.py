"""ArcFace with sub-centers and the inter-topk penalty.

The penalty works from construction on, without a margin schedule, and classes that cannot
supply ``k_top`` non-targets are refused instead of penalising the target.
"""

import torch
from torch import Tensor

from spkver.errors import SpkverError
from spkver.heads.arc_margin import ArcMarginProduct, add_angle, penalise
from spkver.heads.softmax import WHOLE, ClassSlice, Head

# ``mp`` is given for this margin, in radians, and follows the margin in proportion.
MARGIN_OF_MP = 0.2


class ArcMarginProductIntertopkSubcenter(ArcMarginProduct):
    """scale * cos(theta) to the nearest of K sub-centers a class, with two margins.

    The target becomes cos(theta + margin); the ``k_top`` nearest other classes become
    cos(theta - mp), that is, they count as nearer than they are, so that the hardest confusions are
    pushed apart further.

    J. Deng et al., "Sub-center ArcFace", ECCV 2020 (the sub-centers);
    M. Zhao et al., "The SpeakIn System for VoxCeleb Speaker Recognition Challenge 2021", and
    "Multi-query multi-head attention pooling and inter-topk penalty for speaker verification",
    ICASSP 2022 (the penalty).

    Args:
        in_features: of the embedding.
        out_features: number of classes.
        scale: of the cosines.
        margin: of the target, in radians; ``update`` changes it.
        easy_margin: apply the margin only where theta < pi/2.
        K: sub-centers a class.
        mp: penalty of the other classes, in radians, at margin 0.2; in effect mp * margin / 0.2.
        k_top: number of other classes that are penalised.
        do_lm: large-margin fine-tuning: no penalty of the other classes.
        class_slice: the classes held here, see `spkver.heads.Head`.

    Raises:
        SpkverError: not more classes than ``k_top``, fewer than one sub-center, or a margin outside [0, pi).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        scale: float = 32.0,
        margin: float = 0.2,
        easy_margin: bool = False,
        K: int = 3,
        mp: float = 0.06,
        k_top: int = 5,
        do_lm: bool = False,
        class_slice: ClassSlice = WHOLE,
    ):
        if K < 1:
            raise SpkverError(f"head.K is {K}: a class needs one sub-center at least")
        if do_lm:
            mp, k_top = 0.0, 0
        _check_k_top(k_top, out_features)
        self.mp, self.k_top = mp, k_top  # before the first update
        super().__init__(in_features, out_features, scale, margin, easy_margin, K, class_slice)
        self.K = K

    @property
    def penalty(self) -> float:
        """The angle, in radians, by which the nearest other classes are brought nearer at this margin."""
        return self.mp * self.margin / MARGIN_OF_MP

    def update(self, margin: float) -> None:
        super().update(margin)
        # Not the penalty itself, which would be compiled anew whenever it grows.
        self.has_penalty = self.k_top > 0 and self.penalty > 0

    def penalise_others(self, cosine: Tensor) -> Tensor:
        """cos(theta - penalty), of the cosines (..) of the ``k_top`` nearest other classes."""
        return add_angle(cosine, -self.mp / MARGIN_OF_MP * self.angle)

    def cosine(self, embedding: Tensor) -> Tensor:
        """(batch, in_features) -> (batch, len(classes)), each class by its nearest sub-center."""
        return super().cosine(embedding).unflatten(1, (len(self.classes), self.K)).max(dim=2).values

    def logits(self, embedding: Tensor, label: Tensor) -> Tensor:
        cosine = self.cosine(embedding)
        index = label[:, None]
        value = penalise(cosine.gather(1, index), self.angle, self.easy_margin)
        if self.has_penalty:
            top_k_other = top_k_others(cosine.detach(), label, self.k_top)
            index = torch.cat([index, top_k_other], dim=1)
            value = torch.cat([value, self.penalise_others(cosine.gather(1, top_k_other))], dim=1)
        return self.scale * cosine.scatter(1, index, value)

    def cut(self, out_features: int) -> None:
        _check_k_top(self.k_top, out_features)
        super().cut(out_features)

    def part(self, classes: Tensor) -> Head:
        _check_k_top(self.k_top, len(classes))
        return super().part(classes)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, K={self.K}, mp={self.mp}, k_top={self.k_top}"


def top_k_others(cosine: Tensor, label: Tensor, k_top: int) -> Tensor:
    """(batch, k_top) the classes of highest cosine other than the label; (batch, classes > k_top) given.

    One more than ``k_top`` are taken, and the target, or else the last of them, is dropped: this
    needs no second (batch, classes) tensor.
    """
    value, index = cosine.topk(k_top + 1, dim=1)
    others = value.masked_fill(index == label[:, None], -torch.inf).topk(k_top, dim=1).indices
    return index.gather(1, others)


def _check_k_top(k_top: int, out_features: int) -> None:
    if not 0 <= k_top < out_features:
        raise SpkverError(
            f"head.k_top is {k_top} with {out_features} classes: it must be in [0, {out_features}), "
            "since the target's own class is never among the penalised"
        )
