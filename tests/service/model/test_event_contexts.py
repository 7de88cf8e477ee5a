"""Contexts of events are kept, and nothing else is kept with them."""

import numpy as np
import torch

from benchmarks.serving_rivals.offline import event_context
from service.histories.history import StoredEvent
from service.model.event_contexts import KEPT, Contexts
from service.release.loaded import LoadedRelease


def event(event_type: str = "view", **properties: object) -> StoredEvent:
    return StoredEvent(user_id="ann", event_type=event_type, time_ms=0, item_id="tea", properties=properties)


PRICES = [event(price_paid=price) for price in (3, 3.5, "much", True)]
EVENTS = [event(), event("purchase"), *PRICES]


def test_contexts_are_those_of_the_offline_model(release: LoadedRelease) -> None:
    towers = release.towers
    encoded, model = event_context(towers, EVENTS), towers.contextualizer
    dense_TF = np.concatenate([np.zeros((len(EVENTS), model.event_time_width), np.float32), encoded.dense_NF], 1)
    with torch.inference_mode():
        pooled_TD = model.pool_slots(torch.from_numpy(encoded.slots_NS), torch.from_numpy(encoded.weights_NS))
        expected_TD = (model.context_in(torch.from_numpy(dense_TF)) + pooled_TD).numpy()
    contexts = Contexts(towers, release.reader)
    for _ in ("made", "kept"):
        np.testing.assert_allclose(contexts.of(EVENTS), expected_TD, atol=1e-6)


def test_numbers_make_no_new_contexts(release: LoadedRelease) -> None:
    contexts = Contexts(release.towers, release.reader)
    contexts.of([event(price_paid=price) for price in range(10)])
    assert len(contexts._places) == 1


def test_room_is_made_for_contexts_whatever_their_number(release: LoadedRelease) -> None:
    contexts, fresh = Contexts(release.towers, release.reader), Contexts(release.towers, release.reader)
    contexts.of([event(f"type {n}") for n in range(KEPT)])
    many = [event(f"kind {n}") for n in range(KEPT + 1)]
    np.testing.assert_array_equal(contexts.of(many)[-10:], fresh.of(many[-10:]))
    assert len(contexts._places) == KEPT + 1
    contexts.of(EVENTS)
    assert len(contexts._places) < 10
