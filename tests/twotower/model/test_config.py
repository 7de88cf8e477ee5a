"""Impossible sizes are refused when the config is made."""

from typing import Any

import pytest

from twotower.data.features import FeatureSpec
from twotower.model.config import ModelConfig

EMPTY = FeatureSpec(fields=())


@pytest.mark.parametrize(
    "sizes", [{"width": 130}, {"num_kv_heads": 3}, {"window": 100, "page": 64}, {"width": 12, "num_heads": 4}]
)
def test_sizes_that_do_not_fit_are_refused(sizes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\d"):
        ModelConfig(item_spec=EMPTY, context_spec=EMPTY, **sizes)
