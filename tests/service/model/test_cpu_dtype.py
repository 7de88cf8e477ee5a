import pytest
import torch

from service.model import cpu_dtype
from service.model.cpu_dtype import MIN_SPEEDUP, dtype_on_cpu, has_bf16, measured_speedup, name_of
from service.model.packed_layers import PackedLayers


@pytest.mark.parametrize(
    ("has", "speedup", "taken"), [(True, MIN_SPEEDUP, "bf16"), (True, MIN_SPEEDUP - 0.1, "fp32"), (False, 9.0, "fp32")]
)
def test_auto_takes_bf16_only_where_it_is_there_and_much_faster(
    monkeypatch: pytest.MonkeyPatch, has: bool, speedup: float, taken: str
) -> None:
    monkeypatch.setattr(cpu_dtype, "has_bf16", lambda: has)
    monkeypatch.setattr(cpu_dtype, "measured_speedup", lambda: speedup)
    assert name_of(dtype_on_cpu("auto")) == taken


def test_what_was_asked_for_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_dtype, "measured_speedup", pytest.fail)
    assert dtype_on_cpu("fp32") == torch.float32
    assert dtype_on_cpu("bf16") == torch.bfloat16


def test_a_torch_that_is_held_to_avx2_has_no_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    for capability, has in (("AVX512", True), ("AVX2", False), ("DEFAULT", False)):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability)
        assert has_bf16() is has
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    for part, has in (("amx_bf16", True), ("avx512_f", False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda part=part: {part: True})
        assert has_bf16() is has


def seconds(bf16: float, asked: list[torch.dtype], monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading takes 1 s in float32, and so many in bfloat16."""

    def timed(layers: PackedLayers, *_: object) -> float:
        asked.append(layers.dtype)
        return 1.0 if layers.dtype == torch.float32 else bf16

    monkeypatch.setattr(cpu_dtype, "_seconds", timed)


def test_both_are_measured_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.dtype] = []
    seconds(0.5, asked, monkeypatch)
    drawn = torch.get_rng_state()
    assert measured_speedup() == 2.0
    assert asked == [torch.float32, torch.bfloat16] * (len(asked) // 2)
    assert torch.equal(torch.get_rng_state(), drawn), "a server's random numbers are not touched"


def test_a_bf16_that_is_emulated_is_soon_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    fast: list[torch.dtype] = []
    slow: list[torch.dtype] = []
    seconds(0.5, fast, monkeypatch)
    measured_speedup()
    seconds(100.0, slow, monkeypatch)
    assert measured_speedup() == 0.01
    assert len(slow) < len(fast) / 2


def test_layers_are_read_for_real() -> None:
    assert measured_speedup() > 0
