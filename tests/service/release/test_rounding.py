"""A release with rounded products is served only while its results are those of float32."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from service.api.schemas import RecommendRequest
from service.histories.history import StoredEvent, UserHistory
from service.ranking.queries import new_state, queries_from, queries_of
from service.ranking.user_request import ModelInput, UserRequest, read_input
from service.release import rounding
from service.release.loaded import LoadedRelease
from service.release.loading import load_release
from service.release.rounding import histories_of, overlap
from service.states.cache import UserCache
from tests.service.conftest import NOW_MS
from twotower.device import CPU, Device
from twotower.model.golden import GoldenQuery

ROUNDED = Device(CPU, torch.bfloat16)


@pytest.fixture(scope="module")
def rounded(tiny_store: Path) -> LoadedRelease:
    return load_release(tiny_store, device=ROUNDED)


def golden(*lengths: int) -> list[GoldenQuery]:
    return [GoldenQuery(item_ids=["a"] * n, times_ms=list(range(n)), now_ms=n, top_item_ids=[], top_scores=[]) for n in lengths]


def asked(release: LoadedRelease, events: list[StoredEvent]) -> ModelInput:
    return read_input(release, UserRequest(RecommendRequest(user_id="ann"), UserHistory().extended(events), NOW_MS))


def test_rounding_shows_in_the_last_digits_alone(
    release: LoadedRelease, rounded: LoadedRelease, shop_events: list[StoredEvent]
) -> None:
    assert (release.dtype, rounded.dtype) == (torch.float32, torch.bfloat16)
    model_input = asked(release, sorted(shop_events, key=lambda e: e.time_ms)[:200])
    exact, near = (queries_from(each, [new_state(each)], [model_input])[0] for each in (release, rounded))
    error = np.abs(exact.query_V - near.query_V).max()
    assert 1e-5 < error < rounded.reader.tolerance
    assert release.reader.tolerance < rounded.reader.tolerance


def test_a_release_whose_results_would_change_is_served_in_fp32_and_it_is_logged(
    tiny_store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for share, dtype in ((rounding.MIN_OVERLAP, torch.bfloat16), (0.98, torch.float32)):
        caplog.clear()
        monkeypatch.setattr(rounding, "overlap", lambda *_, share=share: share)
        with caplog.at_level(logging.WARNING, "twotower.release"):
            assert load_release(tiny_store, device=ROUNDED).dtype == dtype
        assert len(caplog.messages) == (dtype == torch.float32)
    assert "served in fp32: in bf16 only 0.980" in caplog.text


def test_the_longest_golden_history_is_asked_from_several_beginnings() -> None:
    assert [len(history) for history in histories_of(golden(0, 1, 2, 20))] == [2, 20, 8, 16]
    assert histories_of(golden(0, 1)) == []


def test_overlap_is_the_share_of_the_best_items_that_both_find(
    release: LoadedRelease, monkeypatch: pytest.MonkeyPatch, shop_events: list[StoredEvent]
) -> None:
    history = tuple(shop_events[:3])
    assert overlap(release, release, [history]) == 1.0
    assert overlap(release, release, []) == 1.0
    other = replace(release)
    monkeypatch.setattr(rounding, "best", lambda which, _: set(range(10)) if which is release else set(range(3, 13)))
    assert overlap(release, other, [history, history]) == 0.7


def test_states_of_one_dtype_are_not_used_by_the_other(
    release: LoadedRelease, rounded: LoadedRelease, shop_events: list[StoredEvent], tmp_path: Path
) -> None:
    release = replace(release)  # of which no other test has kept anybody
    assert not release.can_take_over(rounded)
    assert rounded.can_take_over(replace(rounded))
    model_input = asked(release, shop_events[:5])
    before, after = UserCache(0), UserCache(1 << 20)
    before.open_file(tmp_path, 1 << 20)
    queries_of(rounded, [("user", "ann")], [model_input], before)
    before.close()
    after.open_file(tmp_path, 1 << 20)
    queries_of(release, [("user", "ann")], [model_input], after)
    assert (after.counters.restored, after.counters.unreadable, after.counters.misses) == (0, 1, 1)
    assert after.file is not None
    after.file.close()  # without its own states
    again = UserCache(1 << 20)
    again.open_file(tmp_path, 1 << 20)
    queries_of(rounded, [("user", "ann")], [model_input], again)
    assert (again.counters.restored, again.counters.unreadable) == (1, 0)
    again.close()
