"""The additive angular margin (ArcFace, AAM-softmax), and the formulas that margin heads share.

The margin touches one cosine an item, so it is computed on (batch, 1) gathered values and
scattered back, never on (batch, classes); only those values are clamped, so that the root in
sin(theta) has finite gradients when an embedding lies exactly on a class centre.
"""

import math

import torch
from torch import Tensor

from spkver.errors import SpkverError
from spkver.heads.softmax import WHOLE, ClassSlice, NormFace

# One float32 step below 1. The gradient of sin(theta) there is about 2000 and the error of an angle 5e-4.
COSINE_LIMIT = 1.0 - 2.0**-23


def add_angle(cosine: Tensor, angle: Tensor | float) -> Tensor:
    """cos(theta + angle) of the angles whose cosines are given, theta in [0, pi], ``angle`` () in radians."""
    angle = torch.as_tensor(angle, dtype=torch.float64)  # of no dimension, so that the cosines stay as they are
    cosine = cosine.clamp(-COSINE_LIMIT, COSINE_LIMIT)
    # (1 - c)(1 + c) keeps the digits that 1 - c * c loses close to 1.
    sine = ((1.0 - cosine) * (1.0 + cosine)).sqrt()
    return cosine * angle.cos() - sine * angle.sin()


def penalise(cosine: Tensor, margin: Tensor | float, easy_margin: bool) -> Tensor:
    """The target's cos(theta + margin), made to fall with theta over all of [0, pi].

    cos(theta + margin) rises again beyond theta = pi - margin, which would reward the worst items.
    There the cosine less a constant takes over, chosen such that both meet at -1; the form with
    ``margin * sin(margin)``, still common, jumps by 0.12 at margin 0.5.

    Args:
        cosine: of the target classes, any shape.
        margin: (), in radians.
        easy_margin: apply the margin only where theta < pi/2, and leave the other cosines as they are.
    """
    shifted = add_angle(cosine, margin)
    if easy_margin:
        return torch.where(cosine > 0, shifted, cosine)
    turn = torch.as_tensor(math.pi - margin, dtype=torch.float64).cos()
    return torch.where(cosine > turn, shifted, cosine - (1.0 + turn))


class ArcMarginProduct(NormFace):
    """scale * cos(theta), with cos(theta + margin) for the target class.

    J. Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019.

    Args:
        in_features: of the embedding.
        out_features: number of classes.
        scale: of the cosines.
        margin: in radians; ``update`` changes it. It is a schedule's matter and not in the state dict. ``angle`` is the
            same as a tensor: what is compiled with a number would be compiled again for the next.
        easy_margin: apply the margin only where theta < pi/2.
        rows_per_class: weight vectors a class, for heads with sub-centers that build on this one.
        class_slice: the classes held here, see `spkver.heads.Head`.

    Raises:
        SpkverError: the margin is not in [0, pi).
    """

    angle: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        scale: float = 32.0,
        margin: float = 0.2,
        easy_margin: bool = False,
        rows_per_class: int = 1,
        class_slice: ClassSlice = WHOLE,
    ):
        super().__init__(in_features, out_features, scale, rows_per_class, class_slice)
        self.easy_margin = easy_margin
        self.register_buffer("angle", torch.zeros((), dtype=torch.float64), persistent=False)
        self.update(margin)

    def update(self, margin: float) -> None:
        """Set the margin, in radians."""
        if not 0 <= margin < math.pi:
            raise SpkverError(f"head.margin is {margin}: it must be in [0, pi) radians, usually 0.2 to 0.5")
        self.margin = margin
        self.angle.fill_(margin)

    def logits(self, embedding: Tensor, label: Tensor) -> Tensor:
        cosine = self.cosine(embedding)
        label = label[:, None]
        target = penalise(cosine.gather(1, label), self.angle, self.easy_margin)
        return self.scale * cosine.scatter(1, label, target)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, margin={self.margin}, easy_margin={self.easy_margin}"
