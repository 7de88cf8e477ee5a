"""The parametric law L = E + A N^-alpha + B D^-beta (Hoffmann et al. 2022, approach 3), fitted to the runs of all budgets.

We minimise the sum of Huber's loss of log L - log L_fitted, with delta 1e-3 as in the paper. Its mean in place of its sum stops
optimisers early, which is how the published exponents of Chinchilla came to be off (Besiroglu et al. 2024). Given alpha and beta
the law is linear in E, A and B, so the starts come from a grid of the two exponents with the other three solved for (variable
projection). All bootstrap draws are refined together, as one batch.

R: runs, S: starts or bootstrap draws, K: the five parameters
"""

from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

DELTA = 1e-3  # of Huber's loss, in nats of log loss (Hoffmann et al. 2022, appendix D.3)
EXPONENTS = np.linspace(0.05, 1.5, 15)  # the grid of starts, for alpha and for beta
NUM_STARTS, STEPS_OF_STARTS, STEPS_OF_DRAWS = 6, 60, 40
LOWEST, HIGHEST = 1e-3, 5.0  # exponents of the search
_TINY = 1e-12


class Parametric(NamedTuple):
    """The five parameters, or arrays of them."""

    E: Array
    A: Array
    alpha: Array
    B: Array
    beta: Array

    def at(self, parameters: Array, events: Array) -> Array:
        """The fitted loss."""
        loss: Array = self.E + self.A * parameters**-self.alpha + self.B * events**-self.beta
        return loss

    @property
    def size_exponent(self) -> Array:
        """Of N* in C: beta / (alpha + beta)."""
        share: Array = self.beta / (self.alpha + self.beta)
        return share


def fit(parameters_R: Array, events_R: Array, loss_R: Array) -> Parametric:
    """The law of smallest Huber loss over several starts. All arguments must be positive."""
    x_R2 = _centred(parameters_R, events_R)
    starts_SK = _starts(x_R2, loss_R)
    fitted_SK, cost_S = _refine(x_R2, loss_R, starts_SK, np.ones((len(starts_SK), len(loss_R))), STEPS_OF_STARTS)
    return _in_units(fitted_SK[int(np.argmin(cost_S))], parameters_R, events_R)


def refit(law: Parametric, parameters_R: Array, events_R: Array, loss_R: Array, weights_SR: Array) -> Parametric:
    """The law fitted again with each row of weights, from `law` on: [S] of each parameter."""
    x_R2 = _centred(parameters_R, events_R)
    start_K = _from_units(law, parameters_R, events_R)
    fitted_SK, _ = _refine(x_R2, loss_R, np.tile(start_K, (len(weights_SR), 1)), weights_SR, STEPS_OF_DRAWS)
    return _in_units(fitted_SK, parameters_R, events_R)


def _centred(parameters_R: Array, events_R: Array) -> Array:
    """Logarithms of both sizes around their means: the parameters of the fit are then hardly correlated with the exponents."""
    logs_R2 = np.log(np.stack([parameters_R, events_R], axis=1))
    centred: Array = logs_R2 - logs_R2.mean(0)
    return centred


def _starts(x_R2: Array, loss_R: Array) -> Array:
    """The best points of the grid of exponents, as (log E, log A, alpha, log B, beta) [S, K]."""
    alpha_G, beta_G = (grid.ravel() for grid in np.meshgrid(EXPONENTS, EXPONENTS, indexing="ij"))
    size_GR, data_GR = np.exp(-np.outer(alpha_G, x_R2[:, 0])), np.exp(-np.outer(beta_G, x_R2[:, 1]))
    terms_GR3 = np.stack([np.ones_like(size_GR), size_GR, data_GR], axis=2)
    scaled_GR3 = terms_GR3 / loss_R[None, :, None]  # so that residuals are relative ones
    best_G, linear_G3 = np.full(len(alpha_G), np.inf), np.full((len(alpha_G), 3), _TINY)
    for kept in (c for size in (1, 2, 3) for c in combinations(range(3), size)):  # all active sets of non-negative least squares
        part = scaled_GR3[:, :, kept]
        normal = np.einsum("grk,grl->gkl", part, part) + _TINY * np.eye(len(kept))
        solved = np.linalg.solve(normal, part.sum(1)[:, :, None])[:, :, 0]
        cost_G = ((np.einsum("grk,gk->gr", part, solved) - 1) ** 2).sum(1)
        better = (solved > 0).all(1) & (cost_G < best_G)
        best_G[better] = cost_G[better]
        linear_G3[better] = _TINY
        linear_G3[np.ix_(better, kept)] = solved[better]
    first = np.argsort(best_G)[:NUM_STARTS]
    logs_S3 = np.log(np.maximum(linear_G3[first], 1e-4 * loss_R.min()))
    return np.stack([logs_S3[:, 0], logs_S3[:, 1], alpha_G[first], logs_S3[:, 2], beta_G[first]], axis=1)


def _refine(x_R2: Array, loss_R: Array, start_SK: Array, weights_SR: Array, num_steps: int) -> tuple[Array, Array]:
    """Levenberg-Marquardt on re-weighted least squares, every start on its own damping; returns parameters and costs."""
    theta_SK, damping_S = start_SK.copy(), np.full(len(start_SK), 1e-2)
    residual_SR, slope_SRK = _linearised(theta_SK, x_R2, loss_R)
    cost_S = _cost(residual_SR, weights_SR)
    for _ in range(num_steps):
        weighted_SR = weights_SR * np.minimum(1.0, DELTA / np.maximum(np.abs(residual_SR), _TINY))
        weighted_SRK = slope_SRK * weighted_SR[:, :, None]
        normal_SKK = weighted_SRK.transpose(0, 2, 1) @ slope_SRK
        gradient_SK = np.einsum("srk,sr->sk", weighted_SRK, residual_SR)
        diagonal_SK = np.einsum("skk->sk", normal_SKK)
        ridge_SK = damping_S[:, None] * diagonal_SK + _TINY * diagonal_SK.max(1, keepdims=True)
        step_SK = np.linalg.solve(normal_SKK + ridge_SK[:, :, None] * np.eye(5), gradient_SK[:, :, None])[:, :, 0]
        tried_SK = theta_SK - np.clip(step_SK, -1.0, 1.0)
        tried_SK[:, [2, 4]] = np.clip(tried_SK[:, [2, 4]], LOWEST, HIGHEST)
        tried_residual_SR, tried_slope_SRK = _linearised(tried_SK, x_R2, loss_R)
        tried_cost_S = _cost(tried_residual_SR, weights_SR)
        better = tried_cost_S < cost_S
        theta_SK[better], cost_S[better] = tried_SK[better], tried_cost_S[better]
        residual_SR[better], slope_SRK[better] = tried_residual_SR[better], tried_slope_SRK[better]
        damping_S = np.clip(np.where(better, damping_S / 3, damping_S * 4), 1e-9, 1e6)
    return theta_SK, cost_S


def _linearised(theta_SK: Array, x_R2: Array, loss_R: Array) -> tuple[Array, Array]:
    """Residuals of log loss [S, R], and their derivatives by the parameters [S, R, K]."""
    e, a, alpha, b, beta = (column[:, None] for column in theta_SK.T)
    terms = np.exp(np.stack([np.broadcast_to(e, (len(theta_SK), len(loss_R))), a - alpha * x_R2[:, 0], b - beta * x_R2[:, 1]]))
    total_SR = terms.sum(0)
    constant, size, data = terms / total_SR
    slope_SRK = np.stack([constant, size, -size * x_R2[:, 0], data, -data * x_R2[:, 1]], axis=2)
    return np.log(total_SR) - np.log(loss_R), slope_SRK


def _cost(residual_SR: Array, weights_SR: Array) -> Array:
    """The sum of Huber's loss."""
    size = np.abs(residual_SR)
    cost: Array = (weights_SR * np.where(size <= DELTA, size**2 / 2, DELTA * (size - DELTA / 2))).sum(1)
    return cost


def _in_units(theta: Array, parameters_R: Array, events_R: Array) -> Parametric:
    e, a, alpha, b, beta = np.moveaxis(theta, -1, 0)
    n, d = np.log(parameters_R).mean(), np.log(events_R).mean()
    return Parametric(np.exp(e), np.exp(a + alpha * n), alpha, np.exp(b + beta * d), beta)


def _from_units(law: Parametric, parameters_R: Array, events_R: Array) -> Array:
    n, d = np.log(parameters_R).mean(), np.log(events_R).mean()
    logs = [np.log(np.maximum(value, 1e-300)) for value in (law.E, law.A, law.B)]
    return np.array([logs[0], logs[1] - law.alpha * n, law.alpha, logs[2] - law.beta * d, law.beta])
