"""The page of an evaluation: the verdict first, and every protocol has one."""

from tests.training.report.test_verdict import rankers
from training.report.evaluation_page import render, render_cold

EVIL = '<script>alert("x")</script>'
FACTS = {"events": EVIL}
COLD = {"queries": 50.0, "cold_answers": 12.0, "cold_recall@10": 0.2, "cold_recall@10.low": 0.15, "cold_recall@10.high": 0.25}
COLD_GAIN = {"minus popularity: cold_recall@10.low": 0.05, "minus popularity: cold_recall@10.high": 0.15}


def test_the_verdict_stands_before_intervals_and_tables() -> None:
    shown = render("shop", "next-basket", "full catalogue, 50 items, past items kept", rankers((0.02, 0.03), (0.01, 0.02)), FACTS)
    order = ["Better than every counter", "Against the counters", "By kind of answer", "Further metrics", "What was evaluated"]
    places = [shown.index(words) for words in order]
    assert places == sorted(places)
    assert "next-basket, test part; full catalogue, 50 items" in shown


def test_names_from_the_command_line_cannot_write_html() -> None:
    shown = render(EVIL, "next-basket", EVIL, rankers(None, None), FACTS) + render_cold(
        EVIL, {"model": COLD, "popularity": COLD}, FACTS
    )
    assert "<script" not in shown


def test_the_cold_start_protocol_is_judged_by_its_own_recall() -> None:
    shown = render_cold("shop", {"model": COLD | COLD_GAIN, "popularity": COLD | {"cold_recall@10": 0.1}}, {})
    assert "Better than every baseline" in shown
    assert "+0.0500 to +0.1500" in shown
    assert "12 answers that were hidden from training" in shown


def test_a_bundle_without_cold_answers_is_not_judged() -> None:
    shown = render_cold("shop", {"model": {"queries": 5.0, "cold_answers": 0.0}, "popularity": {}}, {})
    assert "Not compared with every baseline" in shown
