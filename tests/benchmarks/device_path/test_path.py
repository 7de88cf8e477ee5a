"""The path runs on CPU tensors, and its batches stay within the launches that they may take."""

import pytest

from benchmarks.device_path.figures import Figure
from benchmarks.device_path.path import SECTIONS, EngineBatch, device_model
from benchmarks.device_path.sizes import SMALL
from twotower.device import ON_CPU


def figures(section: str) -> list[Figure]:
    return list(SECTIONS[section](SMALL, ON_CPU, False))


@pytest.mark.parametrize("section", SECTIONS)
def test_a_dry_run_reaches_every_section_and_times_nothing(section: str) -> None:
    found = figures(section)
    assert found
    assert {figure.unit for figure in found if figure.value is not None} <= {"launches"}


@pytest.mark.parametrize("most_new", [1, SMALL.num_events])
def test_the_batch_that_is_measured_is_one_that_the_engine_could_make(most_new: int) -> None:
    batch = EngineBatch(device_model(SMALL, ON_CPU), SMALL, most_new)
    inputs = batch.model.layout.views(batch.buffer, batch.shape)
    real = SMALL.num_requests * most_new
    assert len(set(inputs.places_T[:real].tolist())) == real, "every new event has a place of its own"
    assert inputs.positions_T[inputs.last_Q[: SMALL.num_requests].long()].tolist() == [SMALL.num_events - 1] * SMALL.num_requests
    assert batch.answer().numel() > 0
