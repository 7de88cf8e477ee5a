"""A golden question is the same wherever it is asked."""

from pathlib import Path

import numpy as np
import torch

from twotower.artefacts.bundle import load_bundle
from twotower.model.golden import golden_request
from twotower.model.scoring import answer


def test_the_same_question_has_the_same_answer(tiny_bundle: Path) -> None:
    towers = load_bundle(tiny_bundle).towers
    model = towers.config.model
    vectors_NV = torch.randn(20, model.width + 1)
    rows, times = np.array([3, 3, 9]), np.array([10, 20, 30])
    first, second = (answer(towers.contextualizer, model, vectors_NV, [golden_request(model, rows, times, 40)]) for _ in range(2))
    assert torch.equal(first.vectors_QV, second.vectors_QV)
    assert first.past_rows_M.tolist() == [3, 9]
