import os
import random
import time
from pathlib import Path

import pytest

from loadtests.held import Held, Slope, held_by, read_looks, slope, slopes, watching, write_looks


def test_the_slope_of_a_straight_line_has_no_noise() -> None:
    found = slope([60.0 * n for n in range(20)], [100.0 + 3 * n for n in range(20)])
    assert found.per_min == pytest.approx(3.0)
    assert found.noise == pytest.approx(0.0, abs=1e-9)
    assert not found.is_flat


def test_what_does_not_change_is_flat() -> None:
    assert slope([float(n) for n in range(30)], [7.0] * 30) == Slope(0.0, 0.0)
    assert slope([float(n) for n in range(30)], [7.0] * 30).is_flat


def test_noise_is_not_called_growth() -> None:
    rng = random.Random(1)
    flat = [slope([float(n) for n in range(200)], [100.0 + rng.gauss(0, 1) for _ in range(200)]).is_flat for _ in range(200)]
    assert sum(flat) >= 187  # one side of a 95 % interval: 2.5 % of 200 are wrong, give or take four standard deviations


def test_too_few_looks_give_no_slope() -> None:
    with pytest.raises(ValueError, match="19 looks are too few for a slope: 20 are needed"):
        slope([float(n) for n in range(19)], [1.0] * 19)


def test_the_first_third_does_not_count() -> None:
    looks = [Held(float(n), 100.0 + min(n, 10), 20, 5) for n in range(30)]
    assert all(one.is_flat for one in slopes(looks).values())


def test_a_process_is_looked_at_again_and_again(tmp_path: Path) -> None:
    with watching(os.getpid(), 0.01) as looks:
        while len(looks) < 3:
            time.sleep(0.01)
    assert looks[0].memory_mib > 10
    assert looks[0].threads >= 2
    descriptors = held_by(os.getpid()).descriptors
    with (tmp_path / "file").open("w"):
        assert held_by(os.getpid()).descriptors == descriptors + 1
    write_looks(looks, tmp_path, "soak")
    assert read_looks(tmp_path, "soak") == looks
    assert read_looks(tmp_path, "steady") == []
