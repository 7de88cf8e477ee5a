"""The query of each request: a product with the request's numbers, and a small MLP that weighs the popularity.

Q: requests, X: width of their input, D: width, B: X - D, P: popularity dimensions, U: width of the MLP, V: width of a query
"""

from functools import partial

from torch import Tensor

from service.kernels.query_input import product
from twotower.kernels.configurations import configuration, current_target
from twotower.kernels.dispatch import jit, run, tl, triton
from twotower.model.contextualizer import Contextualizer


def queries(model: Contextualizer, query_input_QX: Tensor, out_QV: Tensor) -> None:
    """Write `Contextualizer.queries`, filled up with zeros to the width of `out_QV`."""
    kernel, reference = (partial(impl, model) for impl in (queries_triton, queries_reference))
    run(kernel, reference, query_input_QX, out_QV)


def queries_reference(model: Contextualizer, query_input_QX: Tensor, out_QV: Tensor) -> None:
    """Torch reference of `queries`: the model's."""
    made = model.queries(query_input_QX)
    out_QV[:, : made.shape[1]] = made
    out_QV[:, made.shape[1] :] = 0


def queries_triton(model: Contextualizer, query_input_QX: Tensor, out_QV: Tensor, options: dict[str, int] | None = None) -> None:
    """Triton implementation of `queries`. One program makes one query."""
    (num_requests, num_numbers), width = query_input_QX.shape, model.width
    assert query_input_QX.is_contiguous()
    assert out_QV.is_contiguous()
    hidden, out = model.popularity_hidden, model.popularity_out
    options = options or configuration("queries", current_target())
    queries_kernel[(num_requests,)](
        query_input_QX, None if model.query_request is None else model.query_request.weight, model.query_scale,
        hidden.weight, hidden.bias, out.weight, out.bias, out_QV,
        D=width, X=num_numbers, P=out.out_features, U=hidden.out_features, V=out_QV.shape[1],
        BLOCK_D=triton.next_power_of_2(width), BLOCK_B=triton.next_power_of_2(num_numbers - width),
        BLOCK_P=triton.next_power_of_2(out_QV.shape[1] - width), **options,
    )  # fmt: skip


@jit
def queries_kernel(  # type: ignore[no-untyped-def]
    input_ptr, request_ptr, scale_ptr, hidden_ptr, hidden_bias_ptr, popularity_ptr, popularity_bias_ptr, out_ptr,
    D: tl.constexpr, X: tl.constexpr, P: tl.constexpr, U: tl.constexpr, V: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_SIZE: tl.constexpr,
) -> None:  # fmt: skip
    """One program makes one query."""
    request = tl.program_id(0).to(tl.int64)
    column, place, weight = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_B), tl.arange(0, BLOCK_P)
    is_column, is_beside, is_weight = column < D, place < X - D, weight < P
    hidden = tl.load(input_ptr + request * X + column, mask=is_column, other=0.0)
    beside = tl.load(input_ptr + request * X + D + place, mask=is_beside, other=0.0)
    popularity = tl.load(popularity_bias_ptr + weight, mask=is_weight, other=0.0)
    BLOCK_U: tl.constexpr = max(BLOCK_SIZE // BLOCK_D, 1)
    for start in range(0, U, BLOCK_U):
        unit = start + tl.arange(0, BLOCK_U)
        is_unit = unit < U
        read = product(hidden_ptr, unit, is_unit, column, is_column, hidden, X)
        read += product(hidden_ptr + D, unit, is_unit, place, is_beside, beside, X)
        read += tl.load(hidden_bias_ptr + unit, mask=is_unit, other=0.0)
        popularity += product(popularity_ptr, weight, is_weight, unit, is_unit, read / (1 + tl.exp(-read)), U)
    if request_ptr is not None:
        hidden += product(request_ptr, column, is_column, place, is_beside, beside, X - D)
    hidden *= tl.load(scale_ptr + column, mask=is_column, other=0.0)
    tl.store(out_ptr + request * V + column, hidden, mask=is_column)
    tl.store(out_ptr + request * V + D + weight, popularity, mask=weight < V - D)
