"""Impossible runs are refused when the config is made."""

import msgspec
import pytest

from tests.training.conftest import TINY
from training.recipes.config import StageConfig


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("minutes", 0),
        ("embedder_share", 1.2),
        ("evaluations", -1),
        ("patience", 0),
        ("prefetch", -1),
        ("stages", TINY.stages[:1]),
    ],
)
def test_impossible_runs_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"minutes|embedder_share|evaluations|patience|prefetch|shares"):
        msgspec.structs.replace(TINY, **{name: value}).__post_init__()


@pytest.mark.parametrize("minutes", [None, 60.0], ids=["by steps", "by minutes"])
def test_a_run_is_limited_by_minutes_or_by_steps_and_never_by_both(minutes: float | None) -> None:
    timed = tuple(msgspec.structs.replace(stage, max_steps=None) for stage in TINY.stages)
    right, wrong = (TINY.stages, timed) if minutes is None else (timed, TINY.stages)
    assert msgspec.structs.replace(TINY, minutes=minutes, stages=right).minutes == minutes
    with pytest.raises(ValueError, match="give one of the two"):
        msgspec.structs.replace(TINY, minutes=minutes, stages=wrong)


def test_a_stage_needs_a_share() -> None:
    with pytest.raises(ValueError, match="share"):
        StageConfig(share=0.0, num_negatives=None, train_embedder=False)


def test_negatives_that_a_stage_cannot_draw_are_refused() -> None:
    with pytest.raises(ValueError, match="num_negatives"):
        StageConfig(share=1.0, num_negatives=0, train_embedder=False)
    with pytest.raises(ValueError, match="uniform"):
        StageConfig(share=1.0, num_negatives=64, train_embedder=True, negatives="popular")
