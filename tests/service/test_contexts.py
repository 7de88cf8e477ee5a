"""Contexts of events are kept, and nothing else is kept with them."""

import numpy as np

from service.contexts import Contexts
from service.history import StoredEvent
from service.index import LoadedRelease


def event(price: float) -> StoredEvent:
    return StoredEvent(user_id="ann", event_type="view", time_ms=0, item_id="tea", properties={"price_paid": price})


def test_a_kept_context_does_not_hold_on_to_those_it_was_made_with(release: LoadedRelease) -> None:
    contexts = Contexts(release.towers, release.reader)
    made_TD = contexts.of([event(price) for price in range(10)])
    assert len(contexts._kept) == 10
    assert all(kept_D.base is None for kept_D in contexts._kept.values())
    np.testing.assert_array_equal(contexts.of([event(3)]), made_TD[3:4])
