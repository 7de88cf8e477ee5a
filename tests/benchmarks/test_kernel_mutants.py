"""Which tests run on a mutant, and that explained survivors are of kernels that exist."""

import json
from pathlib import Path

import pytest

from benchmarks.kernel_mutants import EXPLAINED, own_tests, passes
from twotower.kernels import swiglu


def test_a_mutant_meets_the_tests_of_its_own_file() -> None:
    assert own_tests(Path("twotower/kernels/swiglu.py")) == Path("tests/twotower/kernels/test_swiglu.py")
    assert own_tests(Path("twotower/kernels/none.py")) == Path("tests/twotower/kernels")


def test_every_reason_is_of_a_file_that_is_there() -> None:
    assert all(Path(name.split()[0]).exists() for name in json.loads(EXPLAINED.read_text()))


@pytest.mark.kernels
def test_a_planted_error_is_found_and_none_is_found_where_none_is() -> None:
    path = Path("twotower/kernels/swiglu.py")
    source, tests = Path(swiglu.__file__).read_text(), own_tests(path)

    assert passes(path, source, tests, 120.0)
    assert not passes(path, source.replace("* up", "* gate"), tests, 120.0)
