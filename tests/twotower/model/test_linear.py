"""Linear layers by oneDNN give what those of torch give, and are taken only where they are faster and need no gradient."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from twotower.model import linear as module
from twotower.model.linear import FEW, linear, linear_gelu, onednn_is_faster


@pytest.fixture
def by_onednn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """oneDNN is taken for faster. The number of rows of each product that it made."""
    made: list[int] = []
    multiply = module._by_onednn

    def counted(x_NF: torch.Tensor, layer: nn.Linear, activation: str) -> torch.Tensor:
        made.append(len(x_NF))
        return multiply(x_NF, layer, activation)

    monkeypatch.setattr(module, "onednn_is_faster", lambda: True)
    monkeypatch.setattr(module, "_by_onednn", counted)
    return made


@pytest.mark.parametrize("num_rows", [FEW, 100, 513])
def test_products_are_those_of_float64_to_rounding(num_rows: int, by_onednn: list[int]) -> None:
    torch.manual_seed(0)
    layer, x_NF = nn.Linear(49, 968), torch.randn(num_rows, 49)
    with torch.no_grad():
        plain, bent = linear(x_NF, layer), linear_gelu(x_NF, layer)
        exact = functional.linear(x_NF.double(), layer.weight.double(), layer.bias.double())
        torch.testing.assert_close(plain.double(), exact, rtol=0, atol=3e-6)
        torch.testing.assert_close(bent.double(), functional.gelu(exact), rtol=0, atol=3e-6)
    assert by_onednn == [num_rows, num_rows]


def test_few_rows_gradients_and_other_numbers_are_left_to_the_layer(by_onednn: list[int]) -> None:
    layer, x_NF = nn.Linear(6, 4), torch.randn(FEW, 6)
    assert linear(x_NF, layer).requires_grad
    with torch.no_grad():
        assert torch.equal(linear_gelu(x_NF[1:], layer), functional.gelu(layer(x_NF[1:])))
        linear(x_NF.double(), layer.double())
    assert not by_onednn


@pytest.mark.parametrize(
    ("vendor", "capability", "faster"),
    [
        ("AuthenticAMD", "AVX512", True),
        ("AuthenticAMD", "AVX2", False),
        ("GenuineIntel", "AVX512", False),
        (None, "AVX512", False),
    ],
)
def test_onednn_is_for_processors_whose_vectors_mkl_leaves_out(
    vendor: str | None, capability: str, faster: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = tmp_path / "cpuinfo"
    if vendor is not None:
        processor.write_text(f"vendor_id\t: {vendor}\n")
    monkeypatch.setattr(module, "_PROCESSOR", processor)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert onednn_is_faster.__wrapped__() is faster
