"""Batches of requests for the kernels of the query head, with what the model is in single and in double precision.

T: events, Q: requests, M: past items of all requests, V: vector width
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import accumulate

import msgspec
import torch
from torch import Tensor

from service.kernels.item_rows import ItemRows
from tests.twotower.kernels.oracle import normal
from twotower.data.features import FeatureSpec, FieldSpec
from twotower.data.item_statistics import NUM_ACTIVITY_FEATURES, NUM_PAST_FEATURES
from twotower.model.config import ModelConfig
from twotower.model.contextualizer import Contextualizer

SPEC = FeatureSpec(fields=(FieldSpec(name="event_type", kind="categorical"),))
CONFIG = ModelConfig(
    item_spec=SPEC, context_spec=SPEC, width=24, num_layers=1, num_heads=2, num_kv_heads=1, ffn_width=32, context_table_rows=16,
    repeat_hidden=12, repeat_rank=3, repeat_item_width=5, past_heads=3, past_key_width=6, popularity_hidden=10, num_popularity=2,
)  # fmt: skip
KINDS = {"small": CONFIG, "as for leave-one-out": msgspec.structs.replace(CONFIG, past_heads=0, clock=False, num_popularity=1)}
DEFAULT = ModelConfig(item_spec=SPEC, context_spec=SPEC, num_layers=1)


@dataclass(frozen=True)
class Batch:
    """Requests, and their past items one after the other; after them some that are nobody's."""

    model: Contextualizer
    items: ItemRows
    hidden_QD: Tensor
    is_empty_Q: Tensor
    times_QR: Tensor
    activity_QA: Tensor
    wanted_QS: Tensor
    wanted_weights_QS: Tensor
    past_rows_M: Tensor
    past_offsets_F: Tensor
    past_features_MG: Tensor

    @property
    def past(self) -> tuple[Tensor, Tensor, Tensor]:
        """Past items, as the operations take them."""
        return self.past_rows_M, self.past_offsets_F, self.past_features_MG

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What `query_input` takes besides model and items."""
        beside = (self.hidden_QD, self.is_empty_Q, self.times_QR, self.activity_QA, self.wanted_QS, self.wanted_weights_QS)
        return (*beside, *self.past)

    @property
    def doubled(self) -> "Batch":
        """The same in double precision."""
        wide = {name: x.double() for name, x in vars(self).items() if isinstance(x, Tensor) and x.is_floating_point()}
        added_AV = self.items.added_AV
        items = ItemRows(self.items.built_NV.double(), None if added_AV is None else added_AV.double())
        return replace(self, **wide, items=items, model=deepcopy(self.model).double())


def untrained(config: ModelConfig) -> Contextualizer:
    """A model in which every number matters: a new one's biases are 0, and its norms 1."""
    torch.manual_seed(1)
    model = Contextualizer(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.popularity_out.weight.mul_(10)
    return model


def batch_of(config: ModelConfig, counts: Sequence[int], seed: int = 0, *, num_added: int = 0) -> Batch:
    """Requests with so many past items each. Every second history is empty, and the last request is nobody."""
    num, num_past, num_built = len(counts) + 1, sum(counts) + 3, 20
    random = torch.Generator().manual_seed(seed)
    width = config.width + config.num_popularity
    added_AV = normal(num_added, width, seed=seed + 9) if num_added else None
    return Batch(
        untrained(config),
        ItemRows(normal(num_built, width, seed=seed + 8), added_AV),
        normal(num, config.width, seed=seed + 1),
        (torch.arange(num) % 2).int(),
        normal(num, config.request_time_width, seed=seed + 2),
        normal(num, NUM_ACTIVITY_FEATURES, seed=seed + 3),
        torch.randint(config.context_table_rows, (num, 2), generator=random).int(),
        normal(num, 2, seed=seed + 4),
        torch.randint(num_built + num_added, (num_past,), generator=random).int(),
        torch.tensor([0, *accumulate(counts), sum(counts)]).int(),
        normal(num_past, NUM_PAST_FEATURES, seed=seed + 5),
    )


def assert_close_to_truth(made: Tensor, reference: Callable[[Batch], Tensor], batch: Batch) -> None:
    """At most a few times the error of torch in single precision, because sums are in another order."""
    truth, theirs = reference(batch.doubled), reference(batch)
    floor = 4 * torch.finfo(torch.float32).eps * truth.abs().max()
    assert (made.double() - truth).abs().max() <= 4 * (theirs.double() - truth).abs().max() + floor
