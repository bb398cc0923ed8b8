"""AdamW for a head of which a step touches some classes only."""

import torch
from torch import Tensor

from spkver.heads import Head


class RowAdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov & Hutter, ICLR 2019) that changes the rows of the classes in use, and no others.

    A row that is not in use keeps its weights and its moments; each row corrects the bias of its moments by the
    number of its own steps. With all classes in use at every step it is AdamW. A bias is not decayed.

    Args:
        head: whose parameters are changed.
        lr: learning rate.
        betas: decay of the moments.
        weight_decay: of the weight rows in use, times the learning rate.
        eps: added to the root of the second moment.
    """

    def __init__(self, head: Head, lr: float, betas: tuple[float, float], weight_decay: float, eps: float = 1e-8):
        groups = [
            {"params": [parameter], "weight_decay": weight_decay * (parameter.dim() > 1)}
            for parameter in head.parameters()
        ]
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps})
        self.head = head
        self._part: Head | None = None
        self._classes: Tensor | None = None

    def use(self, classes: Tensor) -> Head:
        """A head of these classes for the next step; its gradients are what ``step`` applies."""
        self._part, self._classes = self.head.part(classes), classes
        return self._part

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing to do: each part of the head is new."""

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """Change the rows of the classes in use by the gradients of the part."""
        for group, own in zip(self.param_groups, self._part.parameters()):
            (parameter,) = group["params"]
            self._step_rows(parameter, self._rows(parameter), own.grad, group)

    def _rows(self, parameter: Tensor) -> Tensor:
        per_class = len(parameter) // self.head.out_features
        return self.head.rows_of(self._classes, per_class)

    def _step_rows(self, parameter: Tensor, rows: Tensor, gradient: Tensor, group: dict) -> None:
        state = self.state[parameter]
        if not state:
            state["first"], state["second"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
            state["steps"] = torch.zeros(len(parameter), device=parameter.device)
        (beta1, beta2), lr = group["betas"], group["lr"]
        state["steps"][rows] += 1
        steps = state["steps"][rows].view(-1, *[1] * (parameter.dim() - 1))
        first = state["first"][rows].lerp_(gradient, 1 - beta1)
        second = state["second"][rows].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        state["first"][rows], state["second"][rows] = first, second
        root = (second / (1 - beta2**steps)).sqrt_().add_(group["eps"])
        change = first.div_(1 - beta1**steps).div_(root)
        parameter[rows] = parameter[rows].mul_(1 - lr * group["weight_decay"]).sub_(change, alpha=lr)
