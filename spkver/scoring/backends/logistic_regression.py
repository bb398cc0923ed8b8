"""Prior-weighted logistic regression: what makes log-likelihood ratios of scores.

Minimised over w and b, with llr = w . features + b and t = logit(p_target):

    (p_target * mean over targets of log(1 + exp(-llr - t))
     + (1 - p_target) * mean over nontargets of log(1 + exp(llr + t))) / H(p_target)
    + regularisation / 2 * |w * deviations of the features|^2

Where trials are given weights, both means are weighted ones.

The prior's logit t stands in the loss and not in b: that takes the prior out of the llr again. H is the binary
entropy in nats, the cost of knowing the prior alone: so the first part is 1 without information, it is Cllr at
``p_target`` 0.5, and the regularisation has the same strength at any prior. Sources: N. Brümmer, J. du Preez,
"Application-independent evaluation of speaker detection", Computer Speech and Language 20, 2006; N. Brümmer,
E. de Villiers, "The BOSARIS Toolkit: theory, algorithms and code for surviving the new DCF", 2013.

The objective is convex, and strictly so by the regularisation: one solution, for equal columns and for
separable trials too. Newton's method finds it in about ten passes over the trials.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import entr, expit, log_expit, logit

_TRIALS_A_CHUNK = 65536  # a few MB; of smaller ones, the threads of a busy machine spend more on waiting
_MOST_STEPS = 100
# Below this, the Hessian of two equal columns is singular in float64.
_LEAST_REGULARISATION = 1e-12


def fit_logistic(
    columns: Sequence[np.ndarray],
    is_target: np.ndarray,
    p_target: float,
    regularisation: float,
    trial_weights: np.ndarray | None = None,
) -> tuple[list[float], float]:
    """The weights and the offset that minimise the objective above.

    Beyond the columns it needs 8 bytes a trial for each, and for five more.

    Args:
        columns: n_features columns, each (n_trials,) finite numbers; one that is constant gets the weight 0.
        is_target: (n_trials,) bool, both kinds among them.
        p_target: prior probability of a target, between 0 and 1.
        regularisation: at least 1e-12.
        trial_weights: (n_trials,) numbers above 0, how much each trial counts among those of its kind; None: alike.

    Returns:
        ``(w, b)``: n_features weights and the offset, for the columns as they are.

    Raises:
        ValueError: ``regularisation`` is out of range, or the fit does not converge.
    """
    if not _LEAST_REGULARISATION <= regularisation < math.inf:
        raise ValueError(f"regularisation must be at least {_LEAST_REGULARISATION:g}, got {regularisation}")
    counts = np.ones(len(is_target)) if trial_weights is None else np.asarray(trial_weights, np.float64)
    n_targets = counts[is_target].sum()
    shares = counts * np.where(is_target, p_target / n_targets, (1 - p_target) / (counts.sum() - n_targets))
    inputs = np.ones((len(columns) + 1, len(is_target)))
    moments = [_standardise(column, shares, out=row) for column, row in zip(columns, inputs)]
    centres, deviations = np.array(moments).T

    signs = np.where(is_target, 1.0, -1.0)
    inputs *= signs
    costs = shares / (entr(p_target) + entr(1 - p_target))
    point = _minimise(inputs, signs * logit(p_target), costs, regularisation)
    weights = point[:-1] / deviations
    return weights.tolist(), float(point[-1] - weights @ centres)


def _standardise(column: np.ndarray, shares: np.ndarray, out: np.ndarray) -> tuple[float, float]:
    """Bring a column to mean 0 and deviation 1 under the trials' shares; returns ``(centre, deviation)``.

    The first value is taken off before summing: then a constant column is exactly 0 everywhere, which makes its
    weight 0; its deviation counts as 1.
    """
    np.subtract(column, column[0], out=out, dtype=np.float64)
    shift = shares @ out
    out -= shift
    deviation = math.sqrt(shares @ np.square(out)) or 1.0
    out /= deviation
    return float(column[0]) + shift, deviation


def _minimise(inputs: np.ndarray, offsets: np.ndarray, costs: np.ndarray, regularisation: float) -> np.ndarray:
    """The point that minimises `_objective`, by Newton's method; steps that go too far are halved.

    Without the halving, about one in four small sets of trials with outliers diverges.
    """
    point = np.zeros(len(inputs))
    value, gradient, hessian = _objective(point, inputs, offsets, costs, regularisation)
    for _ in range(_MOST_STEPS):
        step = -np.linalg.solve(hessian, gradient)
        decrement = -gradient @ step
        if decrement <= 1e-13 * value:
            return point + step  # what is still wrong after this step is of the order of its square
        before = value
        value, gradient, hessian = _objective(point + step, inputs, offsets, costs, regularisation)
        while value > before - 1e-4 * decrement:
            step, decrement = step / 2, decrement / 2
            value, gradient, hessian = _objective(point + step, inputs, offsets, costs, regularisation)
        point = point + step
    raise ValueError(f"the fit has not converged in {_MOST_STEPS} steps; raise regularisation, {regularisation:g}")


def _objective(
    point: np.ndarray, inputs: np.ndarray, offsets: np.ndarray, costs: np.ndarray, regularisation: float
) -> tuple[float, np.ndarray, np.ndarray]:
    """Value, gradient and Hessian of the module's objective.

    Args:
        point: (n_features + 1,) weights, the last of them b, which is not regularised.
        inputs: (n_features + 1, n_trials), negated for nontargets; the last row is b's +-1.
        offsets: (n_trials,) t, likewise negated.
        costs: (n_trials,) what a nat costs in each trial.
        regularisation: as in the module.
    """
    penalties = np.full(len(point), regularisation)
    penalties[-1] = 0
    value, gradient, hessian = penalties @ point**2 / 2, penalties * point, np.diag(penalties)
    for start in range(0, inputs.shape[1], _TRIALS_A_CHUNK):
        part = slice(start, start + _TRIALS_A_CHUNK)
        rows, cost = inputs[:, part], costs[part]
        margin = point @ rows + offsets[part]
        error = expit(-margin)
        value -= cost @ log_expit(margin)
        gradient -= rows @ (cost * error)
        hessian += (rows * (cost * error * (1 - error))) @ rows.T
    return float(value), gradient, hessian
