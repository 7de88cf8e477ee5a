"""Random numbers that follow from the step."""

import torch

from training.data.draws import Draw, seed_dropout, step_rng


def test_a_draw_repeats_at_its_step_whatever_was_drawn_before() -> None:
    step_rng(0, Draw.BATCH, 6).random(5)
    assert step_rng(0, Draw.BATCH, 7).random() == step_rng(0, Draw.BATCH, 7).random()


def test_seeds_steps_and_purposes_do_not_share_numbers() -> None:
    keys = [(0, Draw.BATCH, 7), (1, Draw.BATCH, 7), (0, Draw.BATCH, 8), (0, Draw.CANDIDATES, 7)]
    assert len({step_rng(*key).random() for key in keys}) == len(keys)


def test_dropout_repeats_at_its_step_and_differs_between_ranks() -> None:
    drawn = []
    for rank in (0, 0, 1):
        seed_dropout(0, 7, rank)
        drawn.append(torch.rand(1).item())
    assert drawn[0] == drawn[1] != drawn[2]
