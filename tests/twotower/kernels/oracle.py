"""What kernels are held to: no worse than torch, against the truth in double precision."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def assert_no_worse(made: Tensor, reference: Callable[..., Tensor], *arguments: Any) -> None:
    """At most twice the error of torch in the same precision, and one unit in the last place of the largest number."""
    truth = reference(*(x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in arguments))
    theirs = reference(*arguments)
    assert made.dtype == theirs.dtype
    assert made.shape == truth.shape
    if truth.numel():
        floor = torch.finfo(made.dtype).eps * truth.abs().max()
        error = (made.double() - truth).abs().max()
        assert error <= 2 * (theirs.double() - truth).abs().max() + floor


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers drawn from `seed`."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def tables(num_positions: int, head_width: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of angles that no two places share."""
    half = head_width // 2
    angles = torch.outer(torch.arange(num_positions), 10.0 ** (-torch.arange(half) / half))
    return angles.cos(), angles.sin()
