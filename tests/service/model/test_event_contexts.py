"""Contexts of events are kept, and nothing else is kept with them."""

import numpy as np
import torch

from benchmarks.serving_rivals.offline import event_context
from service.histories.history import StoredEvent
from service.model.event_contexts import KEPT, Contexts
from service.model.incremental import Incremental
from service.release.loaded import LoadedRelease
from twotower.data.features import Floats


def event(event_type: str = "view", **properties: object) -> StoredEvent:
    return StoredEvent(user_id="ann", event_type=event_type, time_ms=0, item_id="tea", properties=properties)


def contexts_of(release: LoadedRelease) -> Contexts:
    model = release.towers.config.model
    return Contexts(release.towers, Incremental(release.towers.contextualizer, model).embed_slots, model.width)


def vectors_of(release: LoadedRelease, contexts: Contexts) -> Floats:
    model = Incremental(release.towers.contextualizer, release.towers.config.model)
    return contexts.of(EVENTS) + model.embed_numbers(contexts.numbers(EVENTS))


PRICES = [event(price_paid=price) for price in (3, 3.5, "much", True)]
EVENTS = [event(), event("purchase"), *PRICES]


def test_contexts_are_those_of_the_offline_model(release: LoadedRelease) -> None:
    towers = release.towers
    encoded, model = event_context(towers, EVENTS), towers.contextualizer
    dense_TF = np.concatenate([np.zeros((len(EVENTS), model.event_time_width), np.float32), encoded.dense_NF], 1)
    with torch.inference_mode():
        pooled_TD = model.pool_slots(torch.from_numpy(encoded.slots_NS), torch.from_numpy(encoded.weights_NS))
        expected_TD = (model.context_in(torch.from_numpy(dense_TF)) + pooled_TD).numpy()
    contexts = contexts_of(release)
    for _ in ("made", "kept"):
        np.testing.assert_allclose(vectors_of(release, contexts), expected_TD, atol=1e-6)


def test_numbers_make_no_new_contexts(release: LoadedRelease) -> None:
    contexts = contexts_of(release)
    contexts.of([event(price_paid=price) for price in range(10)])
    assert len(contexts._places) == 1


def test_room_is_made_for_contexts_whatever_their_number(release: LoadedRelease) -> None:
    contexts, fresh = contexts_of(release), contexts_of(release)
    contexts.of([event(f"type {n}") for n in range(KEPT)])
    many = [event(f"kind {n}") for n in range(KEPT + 1)]
    np.testing.assert_array_equal(contexts.of(many)[-10:], fresh.of(many[-10:]))
    assert len(contexts._places) == KEPT + 1
    contexts.of(EVENTS)
    assert len(contexts._places) < 10
