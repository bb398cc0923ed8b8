"""Loss scaling, by which float16 keeps gradients that would otherwise be 0 (Micikevicius et al., ICLR 2018).

float16 has no number below 6e-8, and gradients of an encoder are smaller. The loss is multiplied, the gradients divided
again; where they overflow, the step is skipped and the factor halved. ``torch.amp.GradScaler`` does the same for one
optimizer; here the gradients of a step belong to several, one of which sees rows of a head only.
"""

import torch
from torch import Tensor, nn

_FIRST = 2.0**16
_GROWTH_STEPS = 2000  # steps in a row without an overflow, after which twice the factor is tried


class LossScale:
    """The factor, and how it follows what happens; it stays on the device, where it is known whether a step is finite.

    Args:
        dtype: of the encoder's arithmetic; but for float16 the factor is 1 and stays so.
        device: of the loss.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device):
        self.enabled = dtype == torch.float16
        self.factor = torch.full((), _FIRST if self.enabled else 1.0, device=device)
        self.steps = torch.zeros((), dtype=torch.int64, device=device)  # since the factor changed

    def scaled(self, loss: Tensor) -> Tensor:
        """What ``backward`` is called on."""
        return loss * self.factor if self.enabled else loss

    def unscale(self, parameters: list[nn.Parameter]) -> None:
        """Divide the gradients again; those that overflowed stay infinite or NaN."""
        if self.enabled:
            torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], 1 / self.factor)

    def follow(self, finite: Tensor) -> None:
        """Halve the factor after a step that was not ``finite`` (), double it after many that were."""
        if not self.enabled:
            return
        steps = torch.where(finite, self.steps + 1, 0)
        grown = steps == _GROWTH_STEPS
        self.factor = torch.where(finite, self.factor * (1 + grown), (self.factor / 2).clamp(min=1.0))
        self.steps = torch.where(grown, 0, steps)

    def state(self) -> dict:
        """What a checkpoint keeps."""
        return {"factor": float(self.factor), "steps": int(self.steps)}

    def load_state(self, state: dict) -> None:
        self.factor.fill_(float(state["factor"]))
        self.steps.fill_(int(state["steps"]))
