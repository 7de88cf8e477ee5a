"""The file of a fitted law, and what it answers."""

from pathlib import Path

import msgspec
import pytest

from twotower.errors import DataError
from twotower.planning.law import Expected, Interval, Law, MetricLaw, PowerLaw, read_law, write_law


def a_law(curve: list[Expected], missing: list[str] | None = None) -> Law:
    parameters = PowerLaw(anchor=1e12, at_anchor=Interval(1e5, 9e4, 1.1e5), exponent=Interval(0.5, 0.4, None))
    metric = MetricLaw(
        higher_is_better=True, parameters=parameters, events=None, optima=[], surface=None, curve=curve, missing=missing or []
    )
    return Law(
        format_version=1,
        corpus="grocery",
        made="2026-11-30T12:00:00+00:00",
        smallest_flops=1e11,
        largest_flops=1e13,
        run_keys=["a"],
        left_out={},
        metrics={"ndcg@10": metric},
    )


CURVE = [
    Expected(flops=1e10, value=0.10, low=0.08, high=0.12),
    Expected(flops=1e12, value=0.20, low=0.18, high=0.24),
    Expected(flops=1e14, value=0.40, low=0.10, high=0.60),
]


def test_a_law_is_the_same_after_it_was_written_and_read(tmp_path: Path) -> None:
    write_law(a_law(CURVE), tmp_path / "law.json")
    assert read_law(tmp_path / "law.json") == a_law(CURVE)


def test_a_power_law_holds_at_its_anchor_and_grows_with_its_exponent() -> None:
    parameters = a_law(CURVE).metrics["ndcg@10"].parameters
    assert parameters is not None
    assert parameters.at(1e12) == 1e5
    assert parameters.at(1e14) == pytest.approx(1e6)


def test_the_expected_metric_is_linear_in_the_logarithm_of_the_budget() -> None:
    halfway = a_law(CURVE).expected("ndcg@10", 1e11)
    assert halfway is not None
    assert (halfway.value, halfway.low, halfway.high) == pytest.approx((0.15, 0.13, 0.18))


def test_budgets_beyond_the_runs_are_said_to_be_beyond_them() -> None:
    assert a_law(CURVE).is_beyond_the_runs(2e13)
    assert not a_law(CURVE).is_beyond_the_runs(1e13)


@pytest.mark.parametrize(
    ("metric", "flops", "said"),
    [
        ("recall@10", 1e12, "the law knows ndcg@10, and not recall@10"),
        ("ndcg@10", 2e14, "fitted to 1e+11 to 1e+13 FLOPs"),
        ("ndcg@10", 9e9, "nothing further than a decade"),
    ],
)
def test_where_there_is_no_estimate_the_law_says_why(metric: str, flops: float, said: str) -> None:
    law = a_law(CURVE)
    assert law.expected(metric, flops) is None
    assert said in law.why_not(metric, flops)


def test_a_metric_without_a_curve_says_what_was_missing() -> None:
    law = a_law([], ["run two more budgets"])
    assert law.expected("ndcg@10", 1e12) is None
    assert law.why_not("ndcg@10", 1e12) == "no estimate: run two more budgets"


def test_a_bound_that_the_runs_do_not_give_is_infinite() -> None:
    assert str(Interval(0.617, 0.538, None)) == "0.617 [0.538, inf]"


@pytest.mark.parametrize("content", [b"", b"[]", b'{"corpus": 1}', b"\xff\xfe"])
def test_a_file_that_is_no_law_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "law.json").write_bytes(content)
    with pytest.raises(DataError, match="is no fitted law"):
        read_law(tmp_path / "law.json")


def test_a_law_of_another_format_is_refused(tmp_path: Path) -> None:
    write_law(msgspec.structs.replace(a_law(CURVE), format_version=2), tmp_path / "law.json")
    with pytest.raises(DataError, match="fit the ledger again"):
        read_law(tmp_path / "law.json")


def test_a_law_that_is_not_there_names_the_command_that_writes_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="twotower fit"):
        read_law(tmp_path / "law.json")
