"""The embedder's share."""

import numpy as np
import pytest

from tests.training.laws.synthetic_runs import a_run
from training.laws.share import percent, share_curves

SHARES = (0.005, 0.01, 0.02, 0.04, 0.08, 0.2)


def test_each_budget_has_its_best_share() -> None:
    runs = [
        a_run(sweep="share", flops=flops, share=share, metrics={"recall@10": 0.3 - 0.05 * float(np.log10(share / best)) ** 2})
        for flops, best in ((1e11, 0.02), (1e12, 0.05))
        for share in SHARES
    ]
    found = [curve.found for curve in share_curves(runs, "recall@10")]
    assert [valley.optimum.value for valley in found if valley] == pytest.approx([0.02, 0.05])


def test_a_share_is_written_in_per_cent() -> None:
    assert percent(0.0213) == "2.1 %"
