"""Schedule-free training: the running mean of the weights in place of a learning rate that falls.

A. Defazio et al., "The Road Less Scheduled", NeurIPS 2024, around any optimizer that has no momentum of its own. It is
here and not in the package, as it is to be compared first.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class ScheduleFree:
    """Takes gradients between the weights that ``optimizer`` moves and their running mean, which is what is used.

    Args:
        optimizer: its parameters hold, between steps, the point where the next gradient is to be taken.
        mean_share: of the mean in that point, the place of a momentum.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, mean_share: float = 0.9):
        self.optimizer = optimizer
        self.mean_share = mean_share
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.moved = self._copies()
        self.mean = self._copies()
        self.weight_sum = 0.0

    @property
    def param_groups(self) -> list[dict]:
        return self.optimizer.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none)

    @torch.no_grad()
    def step(self) -> None:
        """Move the weights by their gradients, and their mean towards them by the step's part of all squared rates."""
        torch._foreach_copy_(self.parameters, self.moved)
        self.optimizer.step()
        torch._foreach_copy_(self.moved, self.parameters)
        weight = self.param_groups[0]["lr"] ** 2
        self.weight_sum += weight
        # In the warm-up's first step the rate is 0, and nothing moves.
        torch._foreach_lerp_(self.mean, self.moved, weight / self.weight_sum if weight else 0.0)
        torch._foreach_lerp_(self.parameters, self.mean, self.mean_share)

    @contextmanager
    def mean_in_place(self) -> Iterator[None]:
        """While this is open the parameters are the mean."""
        between = self._copies()
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, self.mean)
        yield
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, between)

    def _copies(self) -> list[torch.Tensor]:
        return [parameter.detach().clone() for parameter in self.parameters]
