"""Tables and figures of a model beside the counters."""

from tests.training.report.test_verdict import COUNTER, METRICS, rankers
from training.report.comparison import cutoffs_figure, gain_figures, headline_table, kinds_table, parts_table
from twotower.metrics.names import HEADLINE
from twotower.report.parts import Cell, Table


def row(table: Table, name: str) -> list[str]:
    """The texts of a row, without its name."""
    cells = next(row for row in table.rows if row[0] == name)
    return [cell.text if isinstance(cell, Cell) else cell for cell in cells[1:]]


def test_the_candidates_are_named_and_what_is_not_there_is_a_dash() -> None:
    table = headline_table(rankers(None, None), "full catalogue, 50 items, past items kept")
    assert "Candidates: full catalogue, 50 items, past items kept" in table.about
    assert row(table, "personal frequency")[:3] == ["0.1900", "0.2000", "–"]


def test_every_difference_has_its_conclusion_as_a_word_and_its_interval() -> None:
    table = headline_table(rankers((0.02, 0.03), None), "all")
    cell = next(row for row in table.rows if row[0] == "model − personal frequency")[1]
    assert cell == Cell("better", "+0.0200 to +0.0300", "better")


def test_gains_are_drawn_for_every_counter_that_has_some() -> None:
    (drawn,) = gain_figures(rankers((0.02, 0.03), (-0.01, 0.02)), HEADLINE)
    assert drawn.title == "The model against personal frequency"
    assert ">R@10<" in drawn.drawing
    assert ">set loss<" not in drawn.drawing
    assert gain_figures(rankers(None, None), HEADLINE) == []


def test_every_kind_of_answer_has_its_row() -> None:
    model = METRICS | {"repeat_answers": 1200.0, "repeat_recall@10": 0.4, "repeat_ndcg@10": 0.3, "repeat_set_loss": 6.0}
    table = kinds_table({"model": model, "popularity": {"repeat_recall@10": 0.1}})
    assert row(table, "repeat: the user had it") == ["1,200", "0.4000", "0.1000", "0.3000", "6.0000"]
    assert sum("events in training" in str(row[0]) for row in table.rows) == 5


def test_parts_without_queries_are_left_out_and_batch_local_figures_carry_their_warning() -> None:
    table = parts_table({"train": {"model": METRICS}, "validation": {}, "test": {"model": METRICS | {"batch_local_loss": 4.0}}})
    assert table.columns == ["", "train (100)", "test (100)"]
    assert row(table, "batch-local loss") == ["–", "4.0000"]
    assert "poor stand-in for full-catalogue loss" in table.about


def test_the_nan_of_an_older_bundle_is_a_dash() -> None:
    assert row(parts_table({"test": {"model": METRICS | {"entropy": float("nan")}}}), "entropy") == ["–"]


def test_recall_is_drawn_over_the_length_of_the_list_for_rankers_that_have_all_lengths() -> None:
    whole = {f"recall@{k}": k / 100 for k in (1, 5, 10, 20, 100)}
    drawn = cutoffs_figure({"model": METRICS | whole, "popularity": whole, "personal_frequency": COUNTER}).drawing
    assert ">popularity<" in drawn
    assert ">personal frequency<" not in drawn
