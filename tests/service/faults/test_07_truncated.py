"""Row 7: files that are cut short are refused, the release before stays, and it is counted."""

from collections.abc import Callable

import numpy as np
import pytest

from tests.service.conftest import Following, TwoReleases
from tests.service.faults.following import check_refused
from twotower.artefacts.release import release_path, write_pointer


@pytest.mark.faults
def test_a_file_cut_anywhere_is_refused(two: TwoReleases, follow: Callable[..., Following]) -> None:
    server, rng = follow(two.store, two.first), np.random.default_rng(0)
    files = sorted(release_path(two.store, two.second).iterdir())
    for number in range(50):
        file = files[number % len(files)]
        content = file.read_bytes()
        file.write_bytes(content[: rng.integers(len(content))])
        write_pointer(two.store, two.second, "a test")
        check_refused(server, "integrity")
        file.write_bytes(content)
    write_pointer(two.store, two.second, "a test")
    assert server.look() == "swapped"
