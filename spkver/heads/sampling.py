"""Sampled class centres ("partial FC"): a step compares with some of the classes only.

X. An et al., "Killing Two Birds with One Stone: Efficient and Robust Training of Face Recognition CNNs by
Partial FC", CVPR 2022: the batch's own classes always, the others drawn uniformly to make up a share of all.
With very many classes, most of which are far from every item of a batch, a tenth of them serves as well.
"""

import torch
from torch import Tensor


def draw_classes(label: Tensor, n_classes: int, n_drawn: int) -> Tensor:
    """Draw the classes of a step, by torch's random state.

    Args:
        label: (batch,) int64, each item's class in [0, n_classes).
        n_classes: of the head.
        n_drawn: how many to draw, the batch's own included; not fewer than the batch has items.

    Returns:
        ``(n,)`` int64, rising, none twice.
    """
    # As many as there could be different labels, whatever they are: to count them would wait for the device.
    n_drawn = min(max(n_drawn, len(label)), n_classes)
    rank = torch.rand(n_classes, device=label.device).index_fill_(0, label, 2.0)
    return rank.topk(n_drawn).indices.sort().values
