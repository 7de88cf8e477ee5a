"""Random numbers follow from (seed, purpose, step), so a step can be drawn early, repeated, or shared by processes."""

from enum import IntEnum

import numpy as np
import torch


class Draw(IntEnum):
    """The purpose of random numbers; each has its own stream at every step."""

    BATCH = 1
    CANDIDATES = 2
    DROPOUT = 3


def step_rng(seed: int, draw: Draw, step: int) -> np.random.Generator:
    """The generator for one purpose at one step."""
    return np.random.default_rng((seed, draw, step))


def seed_dropout(seed: int, step: int, rank: int) -> None:
    """Seed torch's generators for one step. Ranks get different seeds, because they drop different activations."""
    words = np.random.SeedSequence((seed, Draw.DROPOUT, step, rank)).generate_state(1, np.uint64)
    torch.manual_seed(int(words[0]))
