"""Grids vary what their name says, and nothing else."""

from typing import Any

import msgspec
import pytest

from training.sweeps.grids import AGES, BATCHES, GRIDS, LADDER, LEAST_EVENTS, MOST_EVENTS, NEGATIVES, SHARES, base, shape_of
from training.sweeps.ledger import Settings
from twotower.planning.sizes import count_contextualizer

SHAPES = [shape_of(name) for name in LADDER]
START = base("shop-1", SHAPES[0])


def points(name: str, budgets: list[float], seeds: list[int] | None = None, shapes: int = 1) -> list[Settings]:
    return GRIDS[name].points(START, budgets, SHAPES[-shapes:], seeds or [0])


def varied(runs: list[Settings]) -> set[str]:
    """Names of the settings that are not the same in all runs."""
    rows: list[dict[str, Any]] = [msgspec.to_builtins(run) for run in runs]
    return {name for name in rows[0] if len({repr(row[name]) for row in rows}) > 1}


def test_shapes_are_read_from_a_width_and_a_number_of_layers() -> None:
    assert shape_of("64x2") == (64, 2, 2, 1)
    assert shape_of("128x4") == (128, 4, 4, 2)


@pytest.mark.parametrize("text", ["64", "x2", "64x", "63x2", "64x0", "-8x1", "64x2.5"])
def test_other_texts_are_no_shape(text: str) -> None:
    with pytest.raises(ValueError, match=f"{text!r} is no shape: give a width that 8 divides"):
        shape_of(text)


def test_an_isoflop_grid_holds_every_size_that_reads_a_sensible_number_of_events() -> None:
    runs = GRIDS["isoflop"].points(START, [1e11, 1e12], SHAPES, [0])
    for run in runs:
        shape = shape_of(f"{run.width}x{run.num_layers}")
        assert LEAST_EVENTS <= run.flops / (6 * count_contextualizer(shape) / (1 - run.share)) <= MOST_EVENTS
    sizes = {flops: [run.width for run in runs if run.flops == flops] for flops in (1e11, 1e12)}
    assert min(sizes[1e11]) < min(sizes[1e12]), "larger budgets have larger models"
    assert max(sizes[1e11]) < max(sizes[1e12])


def test_grids_vary_what_they_are_named_for() -> None:
    assert varied(points("batch", [1e11])) == {"batch_windows", "max_queries"}
    assert varied(points("negatives", [1e11])) == {"negatives", "log_q"}
    assert varied(points("drift", [1e11])) == {"train_until", "periods"}
    assert varied(points("share", [1e11])) == {"share", "width", "num_heads", "num_kv_heads"}


def test_grids_have_a_run_for_every_combination() -> None:
    assert len(points("batch", [1e11, 1e12], [0, 1], 2)) == 8 * len(BATCHES)
    assert len(points("negatives", [1e11])) == 2 * len(NEGATIVES)
    assert len(points("drift", [1e11])) == len(AGES)
    assert len(points("share", [1e11], [0, 1, 2])) == 3 * len(SHARES)


def test_the_more_the_embedder_gets_the_less_has_the_contextualizer_so_that_both_are_about_as_large() -> None:
    totals = []
    for run in points("share", [1e11]):
        totals.append(count_contextualizer(shape_of(f"{run.width}x{run.num_layers}")) / (1 - run.share))
    assert max(totals) / min(totals) == pytest.approx(1.0, abs=0.1)


def test_models_of_all_ages_are_measured_in_the_last_month_before_the_test_part() -> None:
    trained, validated = 304, 30  # days of a year until November, and of November
    months = [((1 - until) * trained + validated) / periods for until, periods in AGES]
    assert months == pytest.approx([30, 30, 30], abs=0.5)
