"""Chooses the implementation of an operation: Triton on a GPU, else torch.

Triton takes seconds to import and is not installed on machines without a GPU. It is imported only where it can run: beside the
driver of a GPU, in its interpreter (TRITON_INTERPRET=1), or in a program that has imported it already, to compile ahead of
time. The driver is known by its files, because a call to CUDA at import would start it in processes that never use it.
"""

import os
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from twotower.device import may_have_gpu

_IS_INSTALLED = find_spec("triton") is not None
_WANTED = "triton" in sys.modules or (_IS_INSTALLED and (may_have_gpu() or os.environ.get("TRITON_INTERPRET") == "1"))
triton: Any = import_module("triton") if _WANTED else None
tl: Any = import_module("triton.language") if _WANTED else SimpleNamespace(constexpr=int)  # else kernels are never called


def jit(kernel: Callable[..., Any]) -> Any:
    """Decorate a kernel for Triton. Without Triton it stays a plain function."""
    return triton.jit(kernel) if triton else kernel


def use_triton(*tensors: Tensor) -> bool:
    """Whether an operation on these tensors runs in Triton."""
    return triton is not None and all(tensor.is_cuda for tensor in tensors)


def needs_gradient(*tensors: Tensor) -> bool:
    """Whether the result of an operation on these tensors will be differentiated."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def run(in_triton: Callable[..., Any], in_torch: Callable[..., Any], *tensors: Tensor, fits: bool = True) -> Any:
    """An operation on tensors, by its kernel on a GPU if its widths fit the kernel, else by its torch reference.

    Where a gradient is needed, the kernel computes the result too, and torch the gradient.
    """
    if not (fits and use_triton(*tensors)):
        return in_torch(*tensors)
    if needs_gradient(*tensors):
        return WithTorchGradient.apply(in_triton, in_torch, *tensors)  # type: ignore[no-untyped-call]
    return in_triton(*tensors)


class WithTorchGradient(torch.autograd.Function):
    """A kernel's result, with the gradient of its torch reference: the backward pass runs the reference and differentiates it.

    Only the arguments are kept from the forward pass. The reference alone would keep what it computes in between as well: five
    times as much for a norm, and the rotated queries beside the others for attention.
    """

    @staticmethod
    def forward(ctx: Any, in_triton: Callable[..., Any], in_torch: Callable[..., Any], *tensors: Tensor) -> Any:
        """What the kernel returns: a tensor, or several."""
        ctx.in_torch = in_torch
        ctx.save_for_backward(*tensors)
        return in_triton(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the tensors that need one, from the same arguments."""
        tensors = [
            tensor.detach().requires_grad_(needed)
            for tensor, needed in zip(ctx.saved_tensors, ctx.needs_input_grad[2:], strict=True)
        ]
        with torch.enable_grad():
            results = ctx.in_torch(*tensors)
        wanted = [tensor for tensor in tensors if tensor.requires_grad]
        found = iter(torch.autograd.grad(results, wanted, grads))
        return (None, None, *(next(found) if tensor.requires_grad else None for tensor in tensors))
