"""How much memory of a GPU the kinds take, and which kind is chosen for a GPU."""

import pytest

from twotower.index.gpu_memory import Geometry, built_bytes, exact_bytes, fitting_kind, geometry_of, held_bytes
from twotower.index.kinds import GPU_KINDS, GpuKind, Kind

GIB, MIB = 1 << 30, 1 << 20
TEN_MILLION = (10_000_000, 130, 128)  # items, columns of a vector, of which the embedding


def test_a_row_of_float16_is_padded_to_whole_loads_of_16_bytes() -> None:
    """130 columns in pairs, popularity and the added column with a pair of their own: 128 + 3 * 2 = 134, and padded 136."""
    assert geometry_of("gpu_flat16", *TEN_MILLION) == Geometry(block=2, width=136, lists=0, codes=0)
    assert held_bytes("gpu_flat16", *TEN_MILLION) == 10_000_000 * (2 * 136 + 4) + 512 * MIB


def test_a_code_has_four_columns_and_their_number_is_one_that_faiss_has_a_kernel_for() -> None:
    """128 / 4 + 3 = 35 codes, and the next larger number is 40."""
    assert geometry_of("gpu_ivfpq", *TEN_MILLION) == Geometry(block=4, width=160, lists=3162, codes=40)
    lists, codebook = 3162 * (4 * 160 + 1024), 256 * 4 * 160
    assert held_bytes("gpu_ivfpq", *TEN_MILLION) == 10_000_000 * (40 + 4) + lists + codebook + 512 * MIB


def test_a_graph_has_its_rows_and_64_links_of_each() -> None:
    assert geometry_of("gpu_cagra", *TEN_MILLION) == Geometry(block=2, width=136, lists=0, codes=0)
    assert held_bytes("gpu_cagra", *TEN_MILLION) == 10_000_000 * (4 * 136 + 4 * 64) + 512 * MIB


@pytest.mark.parametrize(
    ("num_columns", "width", "codes", "block"), [(2, 1, 3, 4), (96, 95, 28, 4), (384, 383, 56, 8), (1025, 1024, 96, 12)]
)
def test_wide_vectors_have_wider_codes_and_never_more_than_96(num_columns: int, width: int, codes: int, block: int) -> None:
    shape = geometry_of("gpu_ivfpq", 1_000, num_columns, width)
    assert (shape.codes, shape.block, shape.width) == (codes, block, codes * block)


@pytest.mark.parametrize("kind", GPU_KINDS)
def test_building_never_takes_less_than_holding(kind: GpuKind) -> None:
    for num_items in (1, 1_000, 10_000_000):
        assert built_bytes(kind, num_items, 130, 128) >= held_bytes(kind, num_items, 130, 128)


def test_the_exact_search_has_every_value_in_float32_and_as_a_byte() -> None:
    assert exact_bytes(10_000_000, 130) == 10_000_000 * (5 * 144 + 6)
    assert exact_bytes(10, 512) == 10 * (5 * 512 + 6)
    assert exact_bytes(10, 513) is None


@pytest.mark.parametrize(
    ("free_gib", "kind", "why"),
    [
        (139, "int8", "two of 6.8 GiB fit into half of the GPU's 139.0 GiB"),
        (24, "gpu_ivfpq", "exact, it would take 6.8 GiB; two of 5.8 GiB fit into half of the GPU's 24.0 GiB"),
    ],
)
def test_the_best_kind_that_fits_twice_beside_the_model_is_taken(free_gib: int, kind: Kind, why: str) -> None:
    assert fitting_kind(*TEN_MILLION, free_gib * GIB, "int8") == (kind, why)


def test_no_kind_fits_on_a_gpu_that_is_full() -> None:
    assert fitting_kind(*TEN_MILLION, 22 * GIB, "int8") is None


def test_vectors_too_wide_for_the_exact_search_go_into_float16() -> None:
    found = fitting_kind(1_000, 600, 599, 80 * GIB, "flat")
    assert found is not None
    assert found[0] == "gpu_flat16"
    assert found[1].startswith("vectors too wide for the exact search; two of")


def test_more_signals_than_codes_are_never_put_into_codes() -> None:
    assert fitting_kind(10_000_000, 228, 128, 40 * GIB, "flat") is None
    found = fitting_kind(10_000_000, 222, 128, 40 * GIB, "flat")
    assert found is not None
    assert found[0] == "gpu_ivfpq"
