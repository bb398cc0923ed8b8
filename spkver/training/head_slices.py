"""A head whose classes are divided among the processes: when it is, and how it is saved and read.

What is written is the whole head and the whole state of its optimizer, row by row from the processes that hold them: so
a run goes on in any number of processes, and a model knows nothing of theirs.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from spkver.config import Config
from spkver.heads import WHOLE, ClassSlice, Head
from spkver.heads.chunked import GPU_CHUNK_LOGITS
from spkver.models.device import memory_of
from spkver.training.distributed import Ranks
from spkver.training.optim import CombinedOptimizer

# `auto` divides a head that would take more of a process's memory.
_LARGEST_SHARE = 0.25


def slice_of_head(config: Config, embed_dim: int, n_classes: int, device: torch.device, ranks: Ranks) -> ClassSlice:
    """The classes that this process holds, by ``training.head``; all processes must ask."""
    if ranks.size == 1 or config.training.head == "replicated":
        return WHOLE
    if config.training.head == "auto":
        memory = ranks.smallest(memory_of(device) // (ranks.local_size if device.type == "cpu" else 1))
        items = config.batch.speakers * config.batch.utterances // ranks.size
        n_rows = n_classes * getattr(config.head, "K", 1)
        if head_bytes(n_rows, embed_dim, items) <= _LARGEST_SHARE * memory:
            return WHOLE
    return ClassSlice(ranks.rank, ranks.size)


def head_bytes(n_rows: int, embed_dim: int, items: int) -> int:
    """What a whole head takes in training.

    Four float32 a weight (itself, its gradient, two moments of the optimizer), and three a logit of ``items``, of which
    no more than a chunk's are held at once.
    """
    return 16 * n_rows * embed_dim + 12 * min(items * n_rows, GPU_CHUNK_LOGITS)


class HeadSlices:
    """A head among the processes: what others hold of it is fetched, what is theirs is left away.

    Args:
        head: of this process, whole or a slice.
        ranks: the processes that have the other slices, if it is one.
    """

    def __init__(self, head: Head, ranks: Ranks):
        self.head, self.ranks = head, ranks

    def whole_weights(self) -> dict[str, Tensor]:
        """The state dict of the whole head, for the first process; each process must ask."""
        return {name: self._whole(tensor, tensor) for name, tensor in self.head.state_dict().items()}

    def own_weights(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of a whole head's state dict, what this process holds; what does not fit stays as it is."""
        held = self.head.state_dict()
        return {name: self._own(tensor, held.get(name, tensor)) for name, tensor in weights.items()}

    def whole_state(self, optimizer: "torch.optim.Optimizer | CombinedOptimizer") -> dict[str, Any]:
        """The state dict of an optimizer of the whole head, for the first process; each process must ask."""
        return self._changed(optimizer, optimizer.state_dict(), self._whole)

    def own_state(
        self, optimizer: "torch.optim.Optimizer | CombinedOptimizer", state: dict[str, Any]
    ) -> dict[str, Any]:
        """Of a state dict that `whole_state` gave, that of this process's optimizer."""
        return self._changed(optimizer, state, self._own)

    def of_classes(self, classes: Tensor) -> Head:
        """A whole head of few ``classes`` (n,), rising, in each process; each must ask."""
        few = self.head.copy_of(classes)
        if self.head.is_slice:
            for parameter in few.parameters():
                per_class = self.head.per_class(parameter)
                rows = parameter.new_zeros(len(classes) * per_class, *parameter.shape[1:])
                rows[few.classes.start * per_class : few.classes.stop * per_class] = parameter.detach()
                parameter.data = self.ranks.total(rows)
            few.classes = range(len(classes))
        return few

    def _changed(
        self,
        optimizer: "torch.optim.Optimizer | CombinedOptimizer",
        state: dict[str, Any],
        change: Callable[[Tensor, Tensor], Tensor],
    ) -> dict[str, Any]:
        """The state dict with what belongs to rows of the head changed."""
        if not self.head.is_slice:
            return state
        if isinstance(optimizer, CombinedOptimizer):
            parts = zip(optimizer.parts, state["parts"], strict=True)
            return {"parts": [self._changed(part, of_part, change) for part, of_part in parts]}
        of_head = set(self.head.parameters())
        parameters: list[nn.Parameter] = [each for group in optimizer.param_groups for each in group["params"]]
        changed = {
            place: {
                name: change(value, parameters[place]) if isinstance(value, Tensor) and value.dim() else value
                for name, value in kept.items()
            }
            if parameters[place] in of_head
            else kept
            for place, kept in state["state"].items()
        }
        return state | {"state": changed}

    def _whole(self, rows: Tensor, parameter: Tensor) -> Tensor:
        """``rows``, of the same classes as those of a parameter, with those of all other processes."""
        if not self.head.is_slice:
            return rows
        per_class, n_classes = self.head.per_class(parameter), self.head.out_features
        of_ranks = [ClassSlice(rank, self.ranks.size).of(n_classes) for rank in range(self.ranks.size)]
        return self.ranks.gathered(rows.detach().cpu(), [len(classes) * per_class for classes in of_ranks])

    def _own(self, rows: Tensor, parameter: Tensor) -> Tensor:
        """Of the whole head's ``rows`` those of the classes that a parameter of this process has."""
        per_class, classes = self.head.per_class(parameter), self.head.classes
        if not self.head.is_slice or len(rows) != self.head.out_features * per_class:
            return rows
        # A copy: the others' rows are not to stay.
        return rows[classes.start * per_class : classes.stop * per_class].clone()
