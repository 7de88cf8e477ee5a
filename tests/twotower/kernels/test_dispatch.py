"""Which implementation runs, and the gradient of a kernel: that of its reference, from the same arguments."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.interpreter import checked
from tests.twotower.kernels.oracle import normal, tables
from twotower.kernels import dispatch
from twotower.kernels.dispatch import WithTorchGradient, run
from twotower.kernels.gather_pool import gather_pool_reference, gather_pool_triton
from twotower.kernels.packed_attention import Packing, packed_attention_reference, packed_attention_triton
from twotower.kernels.rms_norm import add_rms_norm_reference, add_rms_norm_triton, rms_norm_reference, rms_norm_triton
from twotower.kernels.rotary import rotate_reference, rotate_triton
from twotower.kernels.swiglu import swiglu_reference, swiglu_triton

PACKING = Packing((3, 0, 2), (5, 0, 2), torch.device("cpu"))
SLOTS = torch.randint(0, 12, (5, 4), generator=torch.Generator().manual_seed(0))
ATTENTION = {"BLOCK_ROWS": 16, "BLOCK_KEYS": 16, "num_warps": 1, "num_stages": 1}

Op = tuple[Callable[..., Any], Callable[..., Any], tuple[Tensor, ...]]

OPS: dict[str, Op] = {
    "rms_norm": (rms_norm_triton, rms_norm_reference, (normal(5, 32, seed=0), normal(32, seed=1))),
    "add_rms_norm": (
        add_rms_norm_triton,
        add_rms_norm_reference,
        (normal(5, 32, seed=0), normal(5, 32, seed=1), normal(32, seed=2)),
    ),
    "swiglu": (swiglu_triton, swiglu_reference, (normal(5, 64, seed=0),)),
    "rotate": (rotate_triton, rotate_reference, (normal(5, 2, 16, seed=0), *tables(9, 16), torch.tensor([0, 8, 3, 3, 1]))),
    "packed_attention": (
        partial(packed_attention_triton, packing=PACKING, options=ATTENTION),
        partial(packed_attention_reference, packing=PACKING),
        (normal(5, 4, 16, seed=0), normal(7, 2, 16, seed=1), normal(7, 2, 16, seed=2), *tables(9, 16)),
    ),
    "gather_pool": (
        partial(gather_pool_triton, slot_counts=[1, 3]),
        partial(gather_pool_reference, slot_counts=[1, 3]),
        (normal(12, 16, seed=0), SLOTS, normal(5, 4, seed=1)),
    ),
}
CONSTANT = {"rotate": 1, "packed_attention": 3}  # the tensors from here on are tables: they need no gradient


def asking_for_gradients(name: str) -> list[Tensor]:
    made = [tensor.clone() for tensor in OPS[name][2]]
    for tensor in made[: CONSTANT.get(name)]:
        tensor.requires_grad_(tensor.is_floating_point())
    return made


def gradients(result: Tensor | tuple[Tensor, ...], tensors: list[Tensor]) -> list[Tensor]:
    results = result if isinstance(result, tuple) else (result,)
    loss = torch.stack([(out * normal(*out.shape, seed=7)).sum() for out in results]).sum()
    return list(torch.autograd.grad(loss, [tensor for tensor in tensors if tensor.requires_grad]))


@pytest.mark.parametrize("name", OPS)
def test_a_kernel_has_the_gradient_of_its_reference(name: str) -> None:
    in_triton, in_torch, _ = OPS[name]
    ours, theirs = asking_for_gradients(name), asking_for_gradients(name)
    with checked():
        result = WithTorchGradient.apply(in_triton, in_torch, *ours)  # type: ignore[no-untyped-call]
    expected = in_torch(*theirs)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    for gradient, wanted in zip(gradients(result, ours), gradients(expected, theirs), strict=True):
        assert torch.equal(gradient, wanted)


@pytest.mark.parametrize("name", OPS)
def test_only_the_arguments_are_kept_for_the_backward_pass(name: str) -> None:
    in_triton, in_torch, _ = OPS[name]
    given, kept = asking_for_gradients(name), list[Tensor]()

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with checked(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        WithTorchGradient.apply(in_triton, in_torch, *given)  # type: ignore[no-untyped-call]
    assert [tensor.data_ptr() for tensor in kept] == [tensor.data_ptr() for tensor in given]


def test_on_a_cpu_the_reference_runs() -> None:
    assert run(lambda _: "kernel", lambda _: "reference", torch.ones(1)) == "reference"


def test_on_a_gpu_the_kernel_runs_with_and_without_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "use_triton", lambda *_: True)
    doubled, square = torch.mul, torch.square
    x = torch.tensor([3.0], requires_grad=True)

    def kernel(x: Tensor) -> Tensor:
        return doubled(x, 2)

    with torch.no_grad():
        assert run(kernel, square, x).tolist() == [6.0]
    differentiable = run(kernel, square, x)
    assert differentiable.tolist() == [6.0]
    assert torch.autograd.grad(differentiable.sum(), x)[0].tolist() == [6.0], "the reference's gradient, 2 x"
    assert run(kernel, square, x.detach()).tolist() == [6.0]
    assert run(kernel, square, x.detach(), fits=False).tolist() == [9.0]
