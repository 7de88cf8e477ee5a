"""A valley: a quadratic in the logarithm of a size, through the metric of runs that differ only in this size.

Used for the number of parameters at a fixed budget (isoFLOP curves), the embedder's share, and the number of negatives. A bottom
outside the sizes that were tried is said, and never extrapolated. The interval of the bottom is Fieller's (1954): all places
where the slope of the curve is not significantly different from zero. It is exact for normal noise, and infinite where the runs
do not show that the curve has a bottom at all.

R: runs, S: bootstrap draws
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from training.laws.resampling import student_t
from twotower.planning.law import Interval

Array = npt.NDArray[np.float64]

Bottom = Literal["inside", "below", "above", "none"]
MIN_SIZES = 4  # a quadratic has three parameters, and the noise needs one more


class Valley(NamedTuple):
    """A fitted valley; sizes as they are, not their logarithms."""

    coefficients: Array  # of the powers 0, 1, 2 of log10(size / centre)
    centre: float
    smallest: float  # of the sizes tried
    largest: float
    bottom: Bottom  # where the optimum lies: inside the sizes tried, below or above all of them, or nowhere
    optimum: Interval  # infinite at both ends unless the bottom is inside
    loss: float  # at the optimum; at the best size tried unless the bottom is inside
    noise: float  # standard deviation of a run around the curve
    flat: tuple[float, float] | None  # sizes whose fitted loss is within `noise` of the bottom

    def at(self, size: npt.ArrayLike) -> Array:
        """The fitted loss."""
        x = np.log10(np.asarray(size, float) / self.centre)
        constant, slope, curvature = self.coefficients
        loss: Array = constant + x * (slope + x * curvature)
        return loss


class Group(NamedTuple):
    """The runs of a budget, and whether their losses had the means of blocks taken out, which cost degrees of freedom."""

    flops: float
    size_R: Array
    loss_R: Array
    blocks: int = 1

    @property
    def left(self) -> int:
        """Degrees of freedom of the noise around a valley."""
        return len(self.loss_R) - 2 - self.blocks


class Curve(NamedTuple):
    """Runs of one budget that differ in one size, and the valley through them."""

    flops: float
    size_R: Array
    loss_R: Array
    valley: Valley | None  # None for too few sizes
    problem: str  # why there is no optimum, and what to run next; empty if there is one

    @property
    def found(self) -> Valley | None:
        """The valley, if its bottom lies inside the sizes tried and stands out of the noise."""
        return None if self.problem else self.valley


class Noise(NamedTuple):
    """The standard deviation of a run around its curve, as a share of the loss, and the degrees of freedom it is known with."""

    relative: float
    left: int


def fit_curves(groups: Sequence[Group], sizes: str, written: Callable[[float], str]) -> list[Curve]:
    """A valley for each budget, or the sentence that says what is missing; `sizes` names what differs, such as "shares".

    The noise is taken to be the same share of the loss at every budget, so that all runs tell how large it is.
    """
    enough = [group for group in groups if len(np.unique(group.size_R)) >= MIN_SIZES]
    left = sum(group.left for group in enough)
    alone = [(fit_valley(group.size_R, group.loss_R).noise / group.loss_R.mean(), len(group.loss_R) - 3) for group in enough]
    squares = sum(relative**2 * free for relative, free in alone)
    noise = Noise(float(np.sqrt(squares / left)), left) if left else None
    return [fit_curve(group, sizes, written, noise) for group in groups]


def fit_curve(group: Group, sizes: str, written: Callable[[float], str], noise: Noise | None = None) -> Curve:
    """The valley of one budget; its noise is that of its own runs unless it is given."""
    flops, size_R, loss_R, _ = group
    where = f"the valley at {flops:.3g} FLOPs"
    try:
        valley = fit_valley(size_R, loss_R, noise)
    except ValueError as error:
        return Curve(flops, size_R, loss_R, None, f"{where} has {error}")
    tried = f"has no bottom between {written(valley.smallest)} and {written(valley.largest)}"
    bounded = valley.optimum.low is not None and valley.optimum.high is not None
    problem = {
        "inside": "" if bounded else "is within the noise of its runs, so its bottom has no bound: run more seeds",
        "below": f"{tried}: it still improves at the lower end, so run smaller {sizes}",
        "above": f"{tried}: it still improves at the upper end, so run larger {sizes}",
        "none": f"{tried}: the runs do not differ, so run {sizes} further apart",
    }[valley.bottom]
    return Curve(flops, size_R, loss_R, valley, problem and f"{where} {problem}")


def fit_valley(size_R: Array, loss_R: Array, noise: Noise | None = None) -> Valley:
    """A valley through at least four different sizes (ValueError otherwise). Losses: lower is better."""
    if (num_sizes := len(np.unique(size_R))) < MIN_SIZES:
        raise ValueError(f"{num_sizes} sizes, and needs {MIN_SIZES}: run {MIN_SIZES - num_sizes} more")
    log_R = np.log10(size_R)
    terms_R3 = np.vander(log_R - log_R.mean(), 3, increasing=True)
    coefficients: Array = np.linalg.lstsq(terms_R3, loss_R, rcond=None)[0].astype(np.float64)
    fitted = terms_R3 @ coefficients
    own = Noise(float(np.sqrt(((loss_R - fitted) ** 2).sum() / (len(loss_R) - 3)) / loss_R.mean()), len(loss_R) - 3)
    left, deviation = (noise or own).left, (noise or own).relative * float(loss_R.mean())
    centre, ends = float(10 ** log_R.mean()), (float(size_R.min()), float(size_R.max()))
    place = _bottom(coefficients, np.log10(ends[0] / centre), np.log10(ends[1] / centre))
    best = int(np.argmin(fitted))
    if place != "inside":
        optimum = Interval(float(size_R[best]), None, None)
        return Valley(coefficients, centre, *ends, place, optimum, float(fitted[best]), deviation, None)
    _, slope, curvature = coefficients
    x = float(-slope / (2 * curvature))
    low, high = _fieller(coefficients, np.linalg.inv(terms_R3.T @ terms_R3) * deviation**2, student_t(left))
    optimum = Interval(centre * 10**x, *(None if np.isinf(end) else centre * 10**end for end in (low, high)))
    half = float(np.sqrt(deviation / curvature))
    flat = centre * 10 ** (x - half), centre * 10 ** (x + half)
    return Valley(coefficients, centre, *ends, place, optimum, float(coefficients[0] + slope * x / 2), deviation, flat)


def bottoms(size_R: Array, loss_R: Array, weights_SR: Array) -> Array:
    """The optimum of each bootstrap draw [S]; NaN where the draw has no bottom inside the sizes."""
    log_R = np.log10(size_R)
    x_R = log_R - log_R.mean()
    terms_R3 = np.vander(x_R, 3, increasing=True)
    normal_S33 = np.einsum("sr,ri,rj->sij", weights_SR, terms_R3, terms_R3)
    target_S3 = np.einsum("sr,ri,r->si", weights_SR, terms_R3, loss_R)
    solvable = np.linalg.cond(normal_S33) < 1e10  # not so with fewer than three sizes in the draw
    normal_S33[~solvable] = np.eye(3)
    coefficients_S3 = np.linalg.solve(normal_S33, target_S3[:, :, None])[:, :, 0]
    slope, curvature = coefficients_S3[:, 1], coefficients_S3[:, 2]
    is_valley = solvable & (curvature > 0)
    optimum_S = np.where(is_valley, -slope / np.where(is_valley, 2 * curvature, 1.0), np.nan)
    inside = is_valley & (x_R.min() <= optimum_S) & (optimum_S <= x_R.max())
    found: Array = np.where(inside, 10 ** (np.where(inside, optimum_S, 0.0) + log_R.mean()), np.nan)
    return found


def _bottom(coefficients: Array, first: float, last: float) -> Bottom:
    _, slope, curvature = coefficients
    if curvature <= 0:
        # A line or a hill: the better end says in which direction to go on, unless both are worse than the middle.
        ends = np.polynomial.polynomial.polyval([first, last], coefficients)
        return "none" if slope == 0 else "below" if ends[0] < ends[1] else "above"
    x = -slope / (2 * curvature)
    return "below" if x < first else "above" if x > last else "inside"


def _fieller(coefficients: Array, covariance: Array, t: float) -> tuple[float, float]:
    """Ends of the interval of -slope / (2 curvature), in logarithms; infinite where the curvature is within the noise."""
    _, slope, curvature = coefficients
    # (slope + 2 curvature x)^2 <= t^2 variance(slope + 2 curvature x) is quadratic in x: a x^2 + b x + c <= 0.
    a = 4 * (curvature**2 - t**2 * covariance[2, 2])
    b = 4 * (slope * curvature - t**2 * covariance[1, 2])
    c = slope**2 - t**2 * covariance[1, 1]
    if a <= 0:
        return -np.inf, np.inf
    root = np.sqrt(max(b * b - 4 * a * c, 0.0))
    return float((-b - root) / (2 * a)), float((-b + root) / (2 * a))
