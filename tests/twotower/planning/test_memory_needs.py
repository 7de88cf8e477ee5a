"""Bytes that a run needs, and devices that hold them."""

import msgspec
import pytest
import torch
from torch import Tensor

from twotower.data.features import FeatureSpec
from twotower.model.config import ModelConfig
from twotower.model.contextualizer import Contextualizer
from twotower.planning.flops import Composition
from twotower.planning.memory_needs import GATHERED, activation_bytes, memory_needs, to_bytes, told
from twotower.planning.sizes import Sizes

SIZES = Sizes(width=128, num_layers=4, num_heads=4, num_kv_heads=2, ffn_width=336)
BATCH = Composition(events=2048, positions=2048, attention_pairs=263_168, queries=2048, candidates=1_000_000)


@pytest.mark.parametrize(("width", "heads", "keys", "ffn"), [(64, 4, 2, 168), (128, 4, 4, 336), (128, 4, 2, 128)])
def test_activations_are_what_autograd_keeps(width: int, heads: int, keys: int, ffn: int) -> None:
    """The second layer's share of what two layers keep of 128 positions, so that what comes before and after drops out."""
    sizes = Sizes(width=width, num_layers=1, num_heads=heads, num_kv_heads=keys, ffn_width=ffn)
    kept = [kept_bytes(msgspec.structs.replace(sizes, num_layers=layers)) for layers in (1, 2)]
    assert activation_bytes(sizes) == pytest.approx((kept[1] - kept[0]) / 128, rel=0.02)


def kept_bytes(sizes: Sizes) -> int:
    nothing = FeatureSpec(fields=())
    same = {name: getattr(sizes, name) for name in ("width", "num_layers", "num_heads", "num_kv_heads", "ffn_width")}
    model = Contextualizer(ModelConfig(item_spec=nothing, context_spec=nothing, **same), dropout=0.1)
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in own:
            kept[place] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden = model.stream(torch.randn(2, 64, sizes.width, requires_grad=True))
    assert len(hidden) == 2
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def test_scores_are_never_held_as_a_whole() -> None:
    needs = memory_needs(SIZES, BATCH, 1_000_000, None, None)
    assert needs.scores_if_held == 4 * 2048 * 1_000_000
    assert needs.tiles == 4 * 128 * (GATHERED + 2 * 2048)
    assert needs.vectors == 4 * 128 * 1_000_000
    assert (needs.shards, needs.binds) == (None, "")


def test_a_catalogue_costs_its_vectors_and_its_popularity_of_a_year() -> None:
    needs = memory_needs(SIZES, BATCH, 1_000_000, 3e6, 80e9)
    assert needs.vectors == 4 * 128 * 3e6
    assert needs.popularity == 4 * 2 * 365 * 3e6
    assert (needs.shards, needs.binds) == (1, "")


def test_candidates_that_do_not_fit_are_split_over_as_many_devices_as_hold_them() -> None:
    """1e8 items: 51.2 GB of vectors and 292 GB of popularity, beside which 71.9 GB of 80 GB are free: five devices."""
    needs = memory_needs(SIZES, BATCH, 1_000_000, 1e8, 80e9)
    assert (needs.shards, needs.binds) == (5, "candidates")


def test_a_model_that_does_not_fit_binds_first() -> None:
    large = msgspec.structs.replace(SIZES, width=4096, num_layers=32, num_heads=32, num_kv_heads=16, ffn_width=10_920)
    needs = memory_needs(large, msgspec.structs.replace(BATCH, positions=256, queries=256), 1000, 1e5, 80e9)
    assert needs.binds == "model"
    assert needs.shards is not None
    assert needs.shards > 1


def test_a_device_too_small_for_a_step_is_refused() -> None:
    with pytest.raises(ValueError, match="for its activations alone"):
        memory_needs(SIZES, BATCH, 1000, 1e5, 1e8)


@pytest.mark.parametrize(
    ("text", "size"),
    [("80GB", 80e9), ("80 gb", 80e9), ("80GiB", 80 * 2**30), ("8e10", 8e10), ("1.5T", 1.5e12), ("512MiB", 2**29)],
)
def test_sizes_of_memory_are_read(text: str, size: float) -> None:
    assert to_bytes(text) == size


@pytest.mark.parametrize("text", ["", "x", "0GB", "-3GB", "80XB", "1e400", "1.2.3GB", "GB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="such as 80GB"):
        to_bytes(text)


def test_sizes_are_told_in_three_digits() -> None:
    assert [told(size) for size in (12, 1.5e3, 451e6, 6.99e9, 2.92e12)] == ["12 bytes", "1.5 kB", "451 MB", "6.99 GB", "2.92 TB"]
