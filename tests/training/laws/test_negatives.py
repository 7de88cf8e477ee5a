"""The number of negatives."""

import numpy as np
import pytest

from tests.training.laws.synthetic_runs import a_run
from training.laws.negatives import WAYS, negatives_curves, without_means

NUMBERS = (64, 256, 1024, 4096, 16384)


def test_corrected_and_uncorrected_negatives_have_curves_of_their_own() -> None:
    runs = [
        a_run(
            sweep="negatives",
            negatives=number,
            popular=True,
            log_q=log_q,
            metrics={"set_loss": 8 + 0.1 * float(np.log10(number / best)) ** 2},
        )
        for log_q, best in ((True, 2000), (False, 300))
        for number in NUMBERS
    ]
    curves = negatives_curves(runs, "set_loss")
    assert list(curves) == [WAYS[1], WAYS[2]]
    found = [curve.found for way in curves.values() for curve in way]
    assert [valley.optimum.value for valley in found if valley] == pytest.approx([2000, 300])


def test_what_the_size_of_a_model_does_to_the_loss_is_no_noise_of_its_negatives() -> None:
    runs = [
        a_run(
            sweep="negatives",
            negatives=number,
            parameters=size,
            metrics={"set_loss": offset + 0.1 * float(np.log10(number / 2000)) ** 2},
        )
        for size, offset in ((10_000, 9.0), (100_000, 7.0))
        for number in NUMBERS
    ]
    (curve,) = negatives_curves(runs, "set_loss")[WAYS[0]]
    assert curve.found is not None
    assert curve.found.noise == pytest.approx(0.0, abs=1e-9)


def test_the_mean_of_each_block_becomes_the_mean_of_all() -> None:
    assert without_means(np.array([1.0, 3.0, 11.0, 13.0]), np.array([0, 0, 1, 1])).tolist() == [6.0, 8.0, 6.0, 8.0]
