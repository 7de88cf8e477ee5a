"""What is read event by event is what the contextualizer makes of the whole history."""

from collections.abc import Sequence

import numpy as np
import pytest

from benchmarks.serving_rivals.offline import model_history, offline_queries, offline_request
from service.histories.history import StoredEvent, UserHistory
from service.model.event_contexts import Contexts
from service.model.incremental import Incremental
from service.release.loaded import LoadedRelease
from service.states.memory import ArrayMemory
from twotower.data.features import Floats, event_time_features, request_time_features
from twotower.data.past_items import join_statistics, past_items
from twotower.data.window import collate

NOW_MS = 1_746_057_600_000


@pytest.fixture(scope="module")
def events(release: LoadedRelease, shop_events: list[StoredEvent]) -> list[StoredEvent]:
    """One long history, of all users' events."""
    return sorted(shop_events, key=lambda e: e.time_ms)[:256]


@pytest.fixture(scope="module")
def reader(release: LoadedRelease) -> Incremental:
    return Incremental(release.towers.contextualizer, release.towers.config.model)


def contexts_of(release: LoadedRelease, reader: Incremental) -> Contexts:
    return Contexts(release.towers, reader.embed_slots, release.towers.config.model.width)


def first_layer(release: LoadedRelease, reader: Incremental, events: Sequence[StoredEvent]) -> Floats:
    rows = np.array([release.rows[str(e.item_id)] for e in events])
    times = event_time_features(np.array([e.time_ms for e in events]))
    items = release.vectors(rows)[:, : release.towers.config.model.width].numpy()
    contexts = contexts_of(release, reader)
    return reader.embed_events(items, times, contexts.of(events) + reader.embed_numbers(contexts.numbers(events)))


def whole(release: LoadedRelease, events: Sequence[StoredEvent]) -> Floats:
    """The hidden state after every event, as in training."""
    batch = collate([model_history(release, events)])
    vectors = release.vectors_NV[batch.item_rows_BL][..., : release.towers.config.model.width]
    return np.asarray(release.towers.contextualizer(vectors, batch)[0].detach().numpy())


def close(ours: Floats | None, theirs: Floats) -> None:
    assert ours is not None
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize("parts", [(256,), (1,) * 70, (64, 64, 1), (200, 1, 1, 3, 51), (5, 1, 1)])
def test_a_history_read_in_parts_ends_where_a_whole_one_does(
    release: LoadedRelease, reader: Incremental, events: list[StoredEvent], parts: tuple[int, ...]
) -> None:
    memory = ArrayMemory(release.towers.config.model)
    x_TD, hidden_LD = first_layer(release, reader, events), whole(release, events)
    for part in parts:
        reader.read([memory], [part], x_TD[memory.length : memory.length + part])
        close(memory.last_D, hidden_LD[memory.length - 1])


def test_several_histories_are_read_together(release: LoadedRelease, reader: Incremental, events: list[StoredEvent]) -> None:
    histories = [events[:3], events[10:100], events[7:8]]
    memories = [ArrayMemory(release.towers.config.model) for _ in histories]
    packed = np.concatenate([first_layer(release, reader, h) for h in histories])
    reader.read(memories, [len(h) for h in histories], packed)
    for memory, history in zip(memories, histories, strict=True):
        close(memory.last_D, whole(release, history)[-1])


def test_a_memory_that_was_cut_is_read_on_from_there(
    release: LoadedRelease, reader: Incremental, events: list[StoredEvent]
) -> None:
    memory, x_TD = ArrayMemory(release.towers.config.model), first_layer(release, reader, events)
    reader.read([memory], [100], x_TD[:100])
    memory.cut(90)
    assert memory.last_D is None
    other = first_layer(release, reader, [*events[:90], events[200]])
    reader.read([memory], [1], other[90:91])
    close(memory.last_D, whole(release, [*events[:90], events[200]])[-1])


def test_a_copy_is_read_on_without_changing_the_memory_it_is_of(
    release: LoadedRelease, reader: Incremental, events: list[StoredEvent]
) -> None:
    memory, x_TD = ArrayMemory(release.towers.config.model), first_layer(release, reader, events)
    reader.read([memory], [100], x_TD[:100])
    copy = memory.copy()
    copy.cut(90)
    other = first_layer(release, reader, [*events[:90], events[200], events[7]])
    reader.read([copy], [2], other[90:92])
    close(copy.last_D, whole(release, [*events[:90], events[200], events[7]])[-1])
    assert (memory.length, copy.length) == (100, 92)
    close(memory.last_D, whole(release, events[:100])[-1])
    reader.read([memory], [1], x_TD[100:101])
    close(memory.last_D, whole(release, events[:101])[-1])


def test_room_is_made_a_page_at_a_time(release: LoadedRelease, reader: Incremental, events: list[StoredEvent]) -> None:
    memory, x_TD = ArrayMemory(release.towers.config.model), first_layer(release, reader, events)
    sizes = []
    for stop in (1, 64, 65, 256):
        reader.read([memory], [stop - memory.length], x_TD[memory.length : stop])
        sizes.append(memory.keys_LGCE.shape[2])
    assert sizes == [64, 64, 128, 256]


@pytest.mark.parametrize("wanted", [None, "purchase"])
@pytest.mark.parametrize("length", [0, 1, 40])
def test_query_and_repeat_scores_are_those_of_the_model(
    release: LoadedRelease, reader: Incremental, events: list[StoredEvent], length: int, wanted: str | None
) -> None:
    history = UserHistory().extended(events[:length])
    request = offline_request(release, history, NOW_MS, wanted)
    statistics, expected = request.statistics, offline_queries(release, request)
    items = past_items(*join_statistics([statistics]), np.array([NOW_MS]))
    hidden = whole(release, history.window)[-1] if length else None
    from_request = np.concatenate([request_times(release, history), items.activity_Q6[0].numpy()])
    parts = reader.past_parts(release.vectors(statistics.item_rows_M).numpy())
    features = items.features_M6.numpy()
    hidden_D = reader.hidden(hidden, contexts_of(release, reader).wanted(wanted))
    query_X = reader.query(hidden_D, from_request, features, parts)
    close(reader.vector(query_X), expected.vectors_QV[0].numpy())
    repeat = reader.repeat_scores(query_X, features, items.activity_Q6[0].numpy(), parts)
    close(repeat, expected.repeat_M.numpy())


def request_times(release: LoadedRelease, history: UserHistory) -> Floats:
    last = history.window[-1].time_ms if history.window else NOW_MS
    width = release.towers.config.model.request_time_width
    return request_time_features(np.array([NOW_MS]), np.array([last]))[0, :width]
