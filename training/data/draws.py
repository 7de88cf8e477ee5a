"""Every random number of a run follows from (seed, what is drawn, step): a step can be drawn early, done again, or shared out."""

from enum import IntEnum

import numpy as np
import torch


class Draw(IntEnum):
    """What is drawn; each has a stream of its own at every step."""

    BATCH = 1
    CANDIDATES = 2
    DROPOUT = 3


def step_rng(seed: int, draw: Draw, step: int) -> np.random.Generator:
    """The generator behind one draw of one step."""
    return np.random.default_rng((seed, draw, step))


def seed_dropout(seed: int, step: int, rank: int) -> None:
    """Set torch's own generators for one step; ranks drop different activations."""
    words = np.random.SeedSequence((seed, Draw.DROPOUT, step, rank)).generate_state(1, np.uint64)
    torch.manual_seed(int(words[0]))
