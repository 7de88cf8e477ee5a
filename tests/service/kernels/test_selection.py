"""The highest numbers of each row: the kernel against a sort."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from service.kernels import selection
from service.kernels.selection import SPAN, highest, highest_reference, highest_triton
from tests.interpreter import checked
from tests.twotower.kernels.oracle import normal


def check(numbers_QM: Tensor, num: int, made: tuple[Tensor, Tensor], spans_QS: Tensor | None = None) -> None:
    """Places in ascending order, of the highest numbers, and the highest that is left."""
    places_QB, rest_Q = made
    assert places_QB.dtype == torch.int32
    for numbers, places, rest, spans in zip(
        numbers_QM.tolist(), places_QB.tolist(), rest_Q.tolist(), spans_QS if spans_QS is not None else numbers_QM, strict=True
    ):
        seen = list(range(len(numbers)))
        if spans_QS is not None:
            seen = [SPAN * span + place for span in spans.tolist() for place in range(SPAN)]
        ordered = [*sorted((numbers[place] for place in seen), reverse=True), -torch.inf]
        assert places == sorted(set(places))
        assert set(places) <= set(seen)
        assert sorted((numbers[place] for place in places), reverse=True) == ordered[:num]
        assert rest == ordered[num]


@settings(max_examples=30, deadline=None)
@given(
    length=st.integers(1, 70), share=st.floats(0, 1), decimals=st.sampled_from([0, 1, 5]), num_rows=st.sampled_from([0, 1, 3]),
    part=st.sampled_from([8, 4096]), seed=st.integers(0, 99),
)  # fmt: skip
def test_the_kernel_takes_the_highest(length: int, share: float, decimals: int, num_rows: int, part: int, seed: int) -> None:
    numbers_QM = normal(num_rows, length, seed=seed).round(decimals=decimals)
    numbers_QM[:, ::5] = -torch.inf
    num = max(1, round(share * length))
    with checked(seed):
        made = highest_triton(numbers_QM, num, options={"PART": part})
    check(numbers_QM, num, made)
    check(numbers_QM, num, highest_reference(numbers_QM, num))


@settings(max_examples=20, deadline=None)
@given(num_spans=st.integers(1, 4), num=st.integers(1, 16), part=st.sampled_from([16, 4096]), seed=st.integers(0, 99))
def test_of_some_spans_it_takes_the_highest(num_spans: int, num: int, part: int, seed: int) -> None:
    numbers_QM = normal(2, 6 * SPAN, seed=seed).round(decimals=1)
    drawn = torch.Generator().manual_seed(seed)
    spans_QS = torch.stack([torch.randperm(6, generator=drawn)[:num_spans].sort().values for _ in range(2)]).int()
    with checked(seed):
        made = highest_triton(numbers_QM, num, spans_QS, options={"PART": part})
    check(numbers_QM, num, made, spans_QS)
    check(numbers_QM, num, highest_reference(numbers_QM, num, spans_QS), spans_QS)


@pytest.mark.parametrize("number", [0.0, -torch.inf, torch.inf, -3e38])
def test_all_may_be_equal(number: float) -> None:
    numbers_QM = torch.full((1, 20), number)
    with checked():
        made = highest_triton(numbers_QM, 7)
    check(numbers_QM, 7, made)


def test_zero_has_no_sign() -> None:
    numbers_QM = torch.tensor([[-0.0, 0.0, -1.0]])
    with checked():
        places_QB, rest_Q = highest_triton(numbers_QM, 1)
    assert (places_QB.tolist(), rest_Q.tolist()) == ([[0]], [0.0])


def test_a_row_that_is_too_long_for_a_program_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "LONGEST", 30)
    numbers_QM = normal(2, 31, seed=0)
    check(numbers_QM, 4, highest(numbers_QM, 4))
