"""Kernels on Triton's interpreter, watched: `with checked():` around a launch, or `@checked()` over a test.

Importing this makes every kernel imported later an interpreted one, in this process alone. Triton 3.9's interpreter has no
bfloat16: matrix products and arithmetic come out silently wrong. Inside `checked()`
- bfloat16 is converted (to nearest, ties to even) and multiplied as a GPU does; arithmetic on it is refused, as kernels load,
  convert to float32, compute, convert and store;
- each address read or written must lie in a tensor argument;
- no program may touch what another program of the same launch writes, and no store may write two values to one address;
- programs run in an order drawn at random;
- what `torch.empty` returns is NaN, or the largest integer, until it is written.
What it cannot show: time, TensorFloat-32's rounding, races within a program, what hardware does with NaN in a maximum.
"""

import atexit
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

Array = np.ndarray[Any, Any]


def _interpreting() -> tuple[Any, Any]:
    """Triton and its interpreter; the environment, which processes started by tests inherit, stays as it was."""
    with patch.dict(os.environ, TRITON_INTERPRET="1"):  # read when Triton's own functions are made
        triton = import_module("triton")
    triton.knobs.propagate_env = False
    triton.knobs.runtime.interpret = True
    return triton, import_module("triton.runtime.interpreter")


triton, _interpreter = _interpreting()


@atexit.register
def _end_quietly() -> None:
    """Keep nanobind, the binding of Triton, from listing on stderr what Python still holds when it ends.

    The list is longer than the summary of the tests above it, and says nothing of our code.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


tl = triton.language
_Builder, _Executor, _Handle = _interpreter.InterpreterBuilder, _interpreter.GridExecutor, _interpreter.TensorHandle
_PRODUCTS = 8  # an instruction multiplies in TensorFloat-32: the fewest of any kind
_ARITHMETIC = ("binary_op", "unary_op", "create_fma")


class MemoryFault(Exception):
    """An address that no tensor argument holds, or one that two writes or two programs contend for."""


@contextmanager
def checked(seed: int = 0) -> Iterator[None]:
    """Run kernels watched, with programs in an order drawn from `seed`."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    launches = _Launches(np.random.default_rng(seed))
    replaced = [
        *launches.watching(),
        patch.object(_interpreter.ReduceOps, "apply_impl", _reduce),
        patch.object(_Builder, "cast_impl", _cast),
        patch.object(_Builder, "create_fp_to_fp", _fp_to_fp),
        patch.object(_Builder, "create_dot", _dot),
        *(patch.object(_Builder, name, _no_bfloat16(getattr(_Builder, name))) for name in _ARITHMETIC),
    ]
    _poison(True)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):  # a GPU says nothing of inf - inf
            warnings.simplefilter("ignore", RuntimeWarning)
            for replacement in replaced:
                replacement.start()
            yield
    finally:
        for replacement in reversed(replaced):
            replacement.stop()
        _poison(deterministic)


def _poison(on: bool) -> None:
    """Deterministic torch fills what `torch.empty` returns; its public switch takes seconds to import a compiler."""
    torch._C._set_deterministic_algorithms(on, warn_only=False)


class _Launches:
    """What programs of the current launch touch: sorted byte ranges of its tensors, and addresses by program."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def watching(self) -> list[Any]:
        """The interpreter's hooks replaced."""
        init_args, launch, patch_lang = _Executor._init_args_hst, _Executor.__call__, _interpreter._patch_lang
        set_grid_dim, set_grid_idx = _Builder.set_grid_dim, _Builder.set_grid_idx
        load, store, rmw, cas = (
            getattr(_Builder, f"create_{name}") for name in ("masked_load", "masked_store", "atomic_rmw", "atomic_cas")
        )

        def watched_launch(executor: Any, *args: Any, **kwargs: Any) -> None:
            self.loads: list[tuple[int, Array]] = []
            self.stores: list[tuple[int, Array]] = []
            self.patched: frozenset[str] = frozenset()
            try:
                launch(executor, *args, **kwargs)
            except _interpreter.InterpreterError as error:
                raise _root_of(error) from None
            self.check_races(executor.fn.__name__)

        def watched_args(executor: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
            on_host = init_args(executor, args, kwargs)
            self.ranges = _byte_ranges([*on_host[0], *on_host[1].values()])
            return on_host

        def watched_grid(builder: Any, *size: int) -> None:
            self.order = self.rng.permutation(int(np.prod(size)))
            set_grid_dim(builder, *size)

        def shuffled(builder: Any, *index: int) -> None:
            self.program = int(self.order[np.ravel_multi_index(index, builder.grid_dim)])
            set_grid_idx(builder, *(int(place) for place in np.unravel_index(self.program, builder.grid_dim)))

        def watched_load(builder: Any, pointers: Any, mask: Any, *rest: Any, **named: Any) -> Any:
            self.loads.append((self.program, self.inside(pointers, mask, "read")))
            return load(builder, pointers, mask, *rest, **named)

        def watched_store(builder: Any, pointers: Any, value: Any, mask: Any, *rest: Any, **named: Any) -> Any:
            addresses = self.inside(pointers, mask, "written")
            _one_value_each(addresses, np.broadcast_to(value.data, mask.data.shape)[mask.data])
            self.stores.append((self.program, addresses))
            return store(builder, pointers, value, mask, *rest, **named)

        def watched_rmw(builder: Any, operation: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
            self.inside(pointers, mask, "written")
            return rmw(builder, operation, pointers, value, mask, *rest)

        def watched_cas(builder: Any, pointers: Any, *rest: Any) -> Any:
            self.inside(pointers, _Handle(np.ones(pointers.data.shape, bool), tl.int1), "written")
            return cas(builder, pointers, *rest)

        def patched_once(function: Any) -> Any:
            languages = _languages(function)  # patching them for every call of tl.sum and the like is most of the time otherwise
            known, self.patched = languages <= self.patched, self.patched | languages
            return _interpreter._LangPatchScope() if known else patch_lang(function)

        return [
            patch.object(_Executor, "__call__", watched_launch),
            patch.object(_Executor, "_init_args_hst", watched_args),
            patch.object(_Builder, "set_grid_dim", watched_grid),
            patch.object(_Builder, "set_grid_idx", shuffled),
            patch.object(_Builder, "create_masked_load", watched_load),
            patch.object(_Builder, "create_masked_store", watched_store),
            patch.object(_Builder, "create_atomic_rmw", watched_rmw),
            patch.object(_Builder, "create_atomic_cas", watched_cas),
            patch.object(_interpreter, "_patch_lang", patched_once),
        ]

    def inside(self, pointers: Any, mask: Any, done: str) -> Array:
        """The addresses of the lanes that are on, each inside a tensor argument."""
        addresses: Array = pointers.data[np.broadcast_to(mask.data, pointers.data.shape)]
        size = pointers.get_element_ty().primitive_bitwidth // 8
        place = np.searchsorted(self.ranges[:, 0], addresses, "right") - 1
        outside = (place < 0) | (addresses + np.uint64(size) > self.ranges[place, 1])
        if outside.any():
            raise MemoryFault(f"{outside.sum()} of {len(addresses)} addresses {done} are outside every tensor argument")
        return addresses

    def check_races(self, kernel: str) -> None:
        """No program touches what another one writes."""
        written, writer = _by_address(self.stores)
        if not len(written):
            return
        if ((written[1:] == written[:-1]) & (writer[1:] != writer[:-1])).any():
            raise MemoryFault(f"{kernel}: two programs write one address")
        for program, addresses in self.loads:
            place = np.minimum(np.searchsorted(written, addresses), len(written) - 1)
            if ((written[place] == addresses) & (writer[place] != program)).any():
                raise MemoryFault(f"{kernel}: a program reads what another writes")


def _root_of(error: BaseException) -> BaseException:
    """What went wrong, without the interpreter's wrapping at each call."""
    return error if error.__cause__ is None else _root_of(error.__cause__)


@cache
def _languages(function: Any) -> frozenset[str]:
    """The modules of Triton's language that a function sees."""
    return frozenset(value.__name__ for value in function.__globals__.values() if value is tl or value is tl.core)


def _byte_ranges(arguments: Sequence[Any]) -> Array:
    """[tensors, 2]: first byte and end of each tensor argument, sorted and merged where they overlap."""
    spans = []
    for tensor in arguments:
        if isinstance(tensor, torch.Tensor) and tensor.numel():
            last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
            spans.append([tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()])
    merged: list[list[int]] = [[0, 0]]
    for start, end in sorted(spans):
        if start < merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    return np.array(merged, np.uint64)


def _by_address(touched: Sequence[tuple[int, Array]]) -> tuple[Array, Array]:
    """All addresses in order, and which program each is from."""
    addresses = np.concatenate([np.empty(0, np.uint64), *(part for _, part in touched)])
    programs = np.repeat([program for program, _ in touched], [len(part) for _, part in touched])
    order = np.argsort(addresses, kind="stable")
    return addresses[order], programs[order]


def _one_value_each(addresses: Array, values: Array) -> None:
    order = np.argsort(addresses, kind="stable")
    bits = values[order].view(f"u{values.itemsize}")
    if ((addresses[order][1:] == addresses[order][:-1]) & (bits[1:] != bits[:-1])).any():
        raise MemoryFault("one store writes two values to one address")


def _widened(bits: Array) -> Array:
    """bfloat16, as its bits, to float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _narrowed(values: Array) -> Array:
    """float32 to the bits of the nearest bfloat16, ties to even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype(np.uint16).reshape(values.shape)


_cast_impl, _fp_to_fp_impl = _Builder.cast_impl, _Builder.create_fp_to_fp
_reduce_impl = _interpreter.ReduceOps.apply_impl


def _cast(builder: Any, source: Any, to: Any) -> Any:
    if source.dtype.scalar == to.scalar:
        return source
    if source.dtype.scalar == tl.bfloat16:
        return _cast(builder, _Handle(_widened(source.data), tl.float32), to)
    if to.scalar == tl.bfloat16:
        return _Handle(_narrowed(_cast_impl(builder, source, tl.float32).data), tl.bfloat16)
    return _cast_impl(builder, source, to)


def _fp_to_fp(builder: Any, source: Any, to: Any, rounding: Any) -> Any:
    involved = tl.bfloat16 in (source.dtype.scalar, to.scalar)
    return _cast(builder, source, to) if involved else _fp_to_fp_impl(builder, source, to, rounding)


def _dot(builder: Any, a: Any, b: Any, accumulator: Any, *rest: Any) -> Any:
    """Much as tensor cores do: the exact sum of some products is added and rounded (they cut off), whatever tile they are in."""
    left, right = (_cast(builder, side, tl.float32).data.astype(np.float64) for side in (a, b))
    total = accumulator.data
    for first in range(0, left.shape[-1], _PRODUCTS):
        here = slice(first, first + _PRODUCTS)
        total = (total + left[..., here] @ right[..., here, :]).astype(total.dtype)
    return _Handle(total, accumulator.dtype.scalar)


def _no_bfloat16(operation: Callable[..., Any]) -> Callable[..., Any]:
    def refusing(builder: Any, *operands: Any) -> Any:
        if any(isinstance(operand, _Handle) and operand.dtype.scalar == tl.bfloat16 for operand in operands):
            raise TypeError("arithmetic on bfloat16: convert to float32 first")
        return operation(builder, *operands)

    return refusing


def _reduce(reduction: Any, operands: Any) -> Any:
    first = operands[0]
    if first.dtype.scalar == tl.bfloat16:
        raise TypeError("a reduction of bfloat16: convert to float32 first")
    if reduction.combine_fn is tl.standard._xor_combine:  # of sorts; the interpreter's own is a Python loop
        reduced = np.bitwise_xor.reduce(first.handle.data, axis=reduction.axis, keepdims=reduction.keep_dims)
        return reduction.to_tensor(reduced, first.dtype)
    return _reduce_impl(reduction, operands)
