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

The objective is convex, and strictly so by the regularisation: one solution, for equal columns and for separable
trials too. It is scikit-learn's `LogisticRegression` with a weight for each trial.
"""

import math
import warnings
from collections.abc import Sequence

import numpy as np
from scipy.special import entr, logit

_MOST_STEPS = 100
_TOLERANCE = 1e-12  # of the gradient; at 1e-10 a few heavy-tailed sets of 40 trials end a percent off
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
    # Here, as only a fit needs it and its import takes a second.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if not _LEAST_REGULARISATION <= regularisation < math.inf:
        raise ValueError(f"regularisation must be at least {_LEAST_REGULARISATION:g}, got {regularisation}")
    counts = np.ones(len(is_target)) if trial_weights is None else np.asarray(trial_weights, np.float64)
    n_targets = counts[is_target].sum()
    shares = counts * np.where(is_target, p_target / n_targets, (1 - p_target) / (counts.sum() - n_targets))
    inputs = np.empty((len(is_target), len(columns)))
    moments = [_standardise(column, shares, out=row) for column, row in zip(columns, inputs.T)]
    centres, deviations = np.array(moments).T
    model = LogisticRegression(C=1 / regularisation, solver="newton-cholesky", tol=_TOLERANCE, max_iter=_MOST_STEPS)
    costs = shares / (entr(p_target) + entr(1 - p_target))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        # Where most trials are next to certain, Newton's method gives up and L-BFGS goes on, which warns for itself.
        warnings.filterwarnings("ignore", ".*resort to lbfgs", ConvergenceWarning)
        try:
            model.fit(inputs, is_target, costs)
        except ConvergenceWarning:
            raise ValueError(
                f"the fit has not converged in {_MOST_STEPS} steps; raise regularisation, {regularisation:g}"
            ) from None
    weights = model.coef_[0] / deviations
    return weights.tolist(), float(model.intercept_[0] - weights @ centres - logit(p_target))


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
