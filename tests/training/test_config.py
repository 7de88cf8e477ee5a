"""Impossible runs are refused when the config is made."""

import msgspec
import pytest

from tests.training.conftest import TINY
from training.config import StageConfig


@pytest.mark.parametrize(("name", "value"), [("minutes", 0), ("embedder_share", 0.6), ("stages", TINY.stages[:1])])
def test_impossible_runs_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"minutes|embedder_share|shares"):
        msgspec.structs.replace(TINY, **{name: value}).__post_init__()


def test_a_stage_needs_a_share() -> None:
    with pytest.raises(ValueError, match="share"):
        StageConfig(share=0.0, num_uniform=None, train_embedder=False)
