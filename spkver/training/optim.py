"""The optimizer of a configuration: AdamW, Muon for matrices, and AdamW for a head of which a step touches some rows.

Muon takes steps of a matrix along its orthogonalised momentum: K. Jordan et al., "Muon: An optimizer for hidden layers
in neural networks", 2024; the scale of the steps is that of J. Liu et al., "Muon is scalable for LLM training", 2025.
Its products are in the precision of the run. ``torch.optim.Muon``, of the same steps and state, always takes bfloat16,
which a CPU that has to emulate it needs many times longer for than for the encoder's whole step.

Whether a step is finite is known on the device only, and asking would wait for it: the optimizers are told by a tensor,
``found_inf``, as torch's fused ones are by its ``GradScaler``, and then change nothing.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from spkver.config.schema import Optimizer
from spkver.heads import Head
from spkver.training.finetune import learning_rate_factors


def build_optimizer(
    config: Optimizer, encoder: nn.Module, head: Head, dtype: torch.dtype, rows: "RowAdamW | None" = None
) -> "torch.optim.Optimizer | CombinedOptimizer":
    """The optimizer that ``config.name`` names; biases and norms are not decayed, frozen weights not touched.

    Where ``rows`` changes the head's weights, this leaves them to it. Muon's matrix products are in ``dtype``, the
    run's precision; what is added up over the steps is float32.

    Its groups have an ``lr_factor`` each, by which the rate of the schedule is multiplied.

    Raises:
        SpkverError: a pattern in ``config.lr_factors`` matches nothing.
    """
    if rows is not None:
        return CombinedOptimizer(_of_weights(config, encoder, _trained(config, encoder), dtype), rows)
    return _of_weights(config, encoder, _trained(config, encoder) | dict.fromkeys(head.parameters(), 1.0), dtype)


def _of_weights(
    config: Optimizer, encoder: nn.Module, factors: dict[nn.Parameter, float], dtype: torch.dtype
) -> "torch.optim.Optimizer | CombinedOptimizer":
    if config.name == "muon":
        return _build_muon(config, encoder, factors, dtype)
    groups = _groups(factors, config.weight_decay)
    if config.name == "sgd":
        return _build_sgd(config, groups)
    kinds = {
        "adamw": torch.optim.AdamW,
        "adam": torch.optim.Adam,
        "radam": torch.optim.RAdam,
        "nadam": torch.optim.NAdam,
    }
    fused = {"fused": True} if config.name in ("adamw", "adam") else {}
    return kinds[config.name](groups, lr=config.lr, betas=betas_of(config), **fused)


def _build_sgd(config: Optimizer, groups: list[dict]) -> torch.optim.SGD:
    sgd = torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0, fused=True)
    if config.momentum > 0:
        # torch leaves them as memory happens to be where the first step is told to change nothing.
        for parameter in [parameter for group in groups for parameter in group["params"]]:
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd


def betas_of(config: Optimizer) -> tuple[float, float]:
    """The decays of Adam's two moments."""
    first, second = config.betas
    return first, second


def set_learning_rate(optimizer: "torch.optim.Optimizer | CombinedOptimizer", lr: float) -> None:
    """Give every group the rate of the schedule, times its own factor."""
    for group in optimizer.param_groups:
        # A checkpoint from before there were factors has none.
        group["lr"] = lr * group.get("lr_factor", 1.0)


def step_if_finite(optimizer: "torch.optim.Optimizer | CombinedOptimizer", finite: Tensor) -> None:
    """Take a step where ``finite`` () says so, else change neither weights nor state; the device is not waited for."""
    parts = optimizer.parts if isinstance(optimizer, CombinedOptimizer) else (optimizer,)
    for part in parts:
        if isinstance(part, CombinedOptimizer):
            step_if_finite(part, finite)
        elif getattr(part, "_step_supports_amp_scaling", False):
            # As torch's GradScaler tells an optimizer.
            vars(part).update(grad_scale=None, found_inf=(~finite).float())
            part.step()
        elif finite:  # waits for the device: torch's RAdam and NAdam know nothing of found_inf
            part.step()


class CombinedOptimizer:
    """Several optimizers, each with parameters of its own, used as one."""

    def __init__(self, *parts: "torch.optim.Optimizer | CombinedOptimizer") -> None:
        self.parts = parts

    @property
    def param_groups(self) -> list[dict]:
        return [group for part in self.parts for group in part.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict) -> None:
        for part, own in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(own)


def _build_muon(
    config: Optimizer, encoder: nn.Module, factors: dict[nn.Parameter, float], dtype: torch.dtype
) -> CombinedOptimizer:
    """Muon for the encoder's matrices, AdamW for convolutions, vectors and the head.

    One learning rate serves both. A head's rows are classes, of which a step sees a few: no matrix in that sense.
    """
    of_encoder = set(encoder.parameters())
    matrices = {
        parameter: factors[parameter] for parameter in factors if parameter in of_encoder and parameter.dim() == 2
    }
    rest = {parameter: factor for parameter, factor in factors.items() if parameter not in matrices}
    adamw = torch.optim.AdamW(_groups(rest, config.weight_decay), lr=config.lr, betas=betas_of(config), fused=True)
    if not matrices:
        return CombinedOptimizer(adamw)
    muon = Muon(_groups(matrices, config.weight_decay), config.lr, config.momentum, dtype=dtype)
    return CombinedOptimizer(muon, adamw)


def _trained(config: Optimizer, encoder: nn.Module) -> dict[nn.Parameter, float]:
    """The encoder's weights that are not frozen, with the factors of their learning rates."""
    factors = learning_rate_factors(encoder, config.lr_factors)
    return {parameter: factor for parameter, factor in factors.items() if parameter.requires_grad}


def _groups(factors: dict[nn.Parameter, float], weight_decay: float) -> list[dict]:
    """One group for each factor, matrices and vectors apart."""
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for parameter, factor in factors.items():
        groups.setdefault((parameter.dim() <= 1, factor), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": 0.0 if is_vector else weight_decay, "lr_factor": factor}
        for (is_vector, factor), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


# A quintic that takes singular values in (0, 1] near 1 in few steps (Jordan et al.); not to 1: that needs more.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
# From so many times as wide as high on, a matrix is multiplied once, by the product of all iterations' polynomials.
_WIDE = 2
_EPSILON = 1e-7


class Muon(torch.optim.Optimizer):
    """Of matrices only.

    Args:
        params: matrices, or groups of them.
        lr: learning rate, of AdamW's size: a step's root mean square is about 0.2 of it.
        momentum: of the gradients, with Nesterov's look ahead.
        weight_decay: share of the weights, times ``lr``, that a step takes away.
        dtype: of the matrix products.

    Raises:
        ValueError: a parameter is not a matrix.
    """

    _step_supports_amp_scaling = True  # found_inf is heeded

    def __init__(
        self,
        params: Iterable,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype
        self.found_inf: Tensor | None = None  # not 0: the next step changes nothing
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.dim() != 2:
                    raise ValueError(f"Muon is for matrices, not for a parameter of shape {tuple(parameter.shape)}")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure is ever given
        for group in self.param_groups:
            for parameters in _stacks([parameter for parameter in group["params"] if parameter.grad is not None]):
                self._change(parameters, group)

    def _change(self, parameters: list[Tensor], group: dict) -> None:
        """Change matrices of one shape."""
        averages = [self._average(parameter) for parameter in parameters]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        new_averages = torch._foreach_lerp(averages, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, new_averages, group["momentum"])
        updates = orthogonalised(torch.stack(ahead), self.dtype).unbind()
        changed = torch._foreach_mul(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(changed, updates, alpha=-group["lr"] * 0.2 * math.sqrt(max(parameters[0].shape)))
        _replace([*averages, *parameters], [*new_averages, *changed], self.found_inf)

    def _average(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]


def _stacks(matrices: list[Tensor]) -> list[list[Tensor]]:
    """What is multiplied at once: on a GPU, which would wait for many small products, all matrices of a shape; on a CPU
    each alone, which its cache holds.
    """
    stacks: dict[tuple, list[Tensor]] = {}
    for place, matrix in enumerate(matrices):
        stacks.setdefault((matrix.shape, place if matrix.device.type == "cpu" else 0), []).append(matrix)
    return list(stacks.values())


def _replace(old: Sequence[Tensor], new: Sequence[Tensor], found_inf: Tensor | None) -> None:
    """Give ``old`` the values of ``new``, but where ``found_inf`` () is not 0."""
    for own, value in zip(old, new):
        if found_inf is None:
            own.copy_(value)
        else:
            torch.where(found_inf == 0, value, own, out=own)


def orthogonalised(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Matrices ``(n, rows, columns)`` with all but their smallest singular values near 1.

    By Newton-Schulz iterations in ``dtype``.
    """
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if is_tall else matrices).to(dtype)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=_EPSILON)
    # What the products of small matrices round off grows from one iteration to the next: too much for bfloat16.
    is_wide = x.shape[2] >= _WIDE * x.shape[1] and dtype != torch.bfloat16
    x = _all_at_once(x) if is_wide else _one_by_one(x)
    return x.mT if is_tall else x


def _one_by_one(x: Tensor) -> Tensor:
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _all_at_once(x: Tensor) -> Tensor:
    """As `_one_by_one`. An iteration is ``p(X X') X``, so the next one's ``X X'`` is ``p (X X') p``, without X."""
    gram = x @ x.mT
    polynomial = product = _polynomial(gram)
    for _ in range(_ITERATIONS - 1):
        gram = polynomial @ gram @ polynomial
        polynomial = _polynomial(gram)
        product = polynomial @ product
    return product @ x


def _polynomial(gram: Tensor) -> Tensor:
    a, b, c = _COEFFICIENTS
    values = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    values.diagonal(dim1=1, dim2=2).add_(a)
    return values


class RowAdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov & Hutter, ICLR 2019) that changes the rows of the classes in use, and no others.

    A row that is not in use keeps its weights and its moments; each row corrects the bias of its moments by the
    number of its own steps. With all classes in use at every step it is AdamW. A bias is not decayed.
    ``torch.optim.SparseAdam`` decays no weights and has one number of steps for all rows.

    Args:
        head: whose parameters are changed.
        lr: learning rate.
        betas: decay of the moments.
        weight_decay: of the weight rows in use, times the learning rate.
        eps: added to the root of the second moment.
    """

    _step_supports_amp_scaling = True  # found_inf is heeded

    def __init__(self, head: Head, lr: float, betas: tuple[float, float], weight_decay: float, eps: float = 1e-8):
        groups = [
            {"params": [parameter], "weight_decay": weight_decay * (parameter.dim() > 1)}
            for parameter in head.parameters()
        ]
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps})
        self.found_inf: Tensor | None = None  # not 0: the next step changes nothing
        self.head = head
        self._part = head  # of the classes in use: all of them, until some are chosen
        self._places = torch.arange(len(head.classes), device=head.weight.device)  # of these, among those held

    def use(self, classes: Tensor) -> Head:
        """A head of these classes for the next step; its gradients are what ``step`` applies."""
        self._part = self.head.part(classes)
        held = self._part.classes
        self._places = classes[held.start : held.stop] - self.head.classes.start
        return self._part

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing to do: each part of the head is new."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure is ever given
        """Change the rows of the classes in use by the gradients of the part."""
        for group, own in zip(self.param_groups, self._part.parameters()):
            (parameter,) = group["params"]
            if own.grad is not None:
                rows = self.head.rows_of(self._places, self.head.per_class(parameter))
                self._step_rows(parameter, rows, own.grad, group)

    def _step_rows(self, parameter: Tensor, rows: Tensor, gradient: Tensor, group: dict) -> None:
        state = self.state[parameter]
        if not state:
            state["first"], state["second"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
            state["steps"] = torch.zeros(len(parameter), device=parameter.device)
        (beta1, beta2), lr = group["betas"], group["lr"]
        steps = state["steps"][rows] + 1
        count = steps.view(-1, *[1] * (parameter.dim() - 1))
        first = state["first"][rows].lerp_(gradient, 1 - beta1)
        second = state["second"][rows].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        root = (second / (1 - beta2**count)).sqrt_().add_(group["eps"])
        change = (first / (1 - beta1**count)).div_(root)
        changed = parameter[rows].mul_(1 - lr * group["weight_decay"]).sub_(change, alpha=lr)
        kept = (parameter, changed), (state["first"], first), (state["second"], second), (state["steps"], steps)
        for whole, values in kept:
            whole[rows] = values if self.found_inf is None else torch.where(self.found_inf == 0, values, whole[rows])
