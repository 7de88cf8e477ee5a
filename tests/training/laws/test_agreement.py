"""Whether metrics agree."""

import numpy as np
import pytest

from tests.training.laws.synthetic_runs import a_run
from training.laws.agreement import agreement, agreements_by_budget
from training.sweeps.ledger import Run


def runs_of(loss: list[float], recall: list[float], flops: float = 1e12) -> list[Run]:
    return [
        a_run(flops=flops, seed=n, metrics={"set_loss": a, "recall@10": b, "coverage@10": 0.5})
        for n, (a, b) in enumerate(zip(loss, recall, strict=True))
    ]


METRICS = ["set_loss", "recall@10", "coverage@10"]
EIGHT = [float(n) for n in range(8)]


def test_a_loss_that_falls_where_recall_rises_is_aligned_with_it() -> None:
    found = agreement("1e12", runs_of(EIGHT, EIGHT[::-1]), METRICS)
    assert found.between("set_loss", "recall@10").value == pytest.approx(-1.0)
    assert found.says("set_loss", "recall@10") == "aligned"


def test_a_loss_that_rises_with_recall_is_misaligned() -> None:
    assert agreement("1e12", runs_of(EIGHT, EIGHT), METRICS).says("set_loss", "recall@10") == "misaligned"


def test_a_sign_within_the_noise_is_undecided() -> None:
    found = agreement("1e12", runs_of(EIGHT, [3, 1, 4, 1.5, 9, 2.6, 5, 3.5]), METRICS)
    assert found.between("set_loss", "recall@10").value > 0
    assert found.says("set_loss", "recall@10") == "undecided"


def test_four_runs_in_perfect_order_decide_nothing_because_chance_gives_that_once_in_twelve() -> None:
    found = agreement("1e12", runs_of(EIGHT[:4], EIGHT[:4][::-1]), METRICS)
    assert found.between("set_loss", "recall@10").value == pytest.approx(-1.0)
    assert found.says("set_loss", "recall@10") == "undecided"


def test_a_metric_that_never_changes_has_no_correlation() -> None:
    found = agreement("1e12", runs_of(EIGHT, EIGHT), METRICS)
    assert np.isnan(found.between("set_loss", "coverage@10").value)
    assert found.says("set_loss", "coverage@10") == "undecided"


def test_each_budget_with_enough_runs_has_its_own_matrix() -> None:
    runs = runs_of(EIGHT, EIGHT, 1e11) + runs_of(EIGHT, EIGHT[::-1], 1e12) + runs_of(EIGHT[:2], EIGHT[:2], 1e13)
    found = agreements_by_budget(runs, METRICS)
    assert [one.label for one in found] == ["1e+11 FLOPs", "1e+12 FLOPs"]
    assert [one.says("set_loss", "recall@10") for one in found] == ["misaligned", "aligned"]


def test_three_runs_are_refused() -> None:
    with pytest.raises(ValueError, match="1e12: 3 runs, and a rank correlation needs 4: run 1 more"):
        agreement("1e12", runs_of(EIGHT[:3], EIGHT[:3]), METRICS)
