import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.serving_rivals import in_process as direct
from benchmarks.serving_rivals.bare_products import BareProducts, Product, torch_product
from benchmarks.serving_rivals.in_process import measure_append, measure_cold, measure_visits
from loadtests.traffic import Replay, read_histories, write_histories
from service.histories.history import StoredEvent, UserHistory
from service.model.reader import UserQuery
from service.release.loaded import LoadedRelease
from service.release.loading import load_release
from service.states.cache import UserCache

NOW_MS = 1_746_057_600_000


@pytest.fixture(scope="module")
def release(tiny_store: Path) -> LoadedRelease:
    return load_release(tiny_store)


@pytest.fixture
def histories(release: LoadedRelease, monkeypatch: pytest.MonkeyPatch) -> list[list[StoredEvent]]:
    """Two users of twelve events, of which eight fill what is read here."""
    monkeypatch.setattr(direct, "WINDOW", 8)
    monkeypatch.setattr(direct, "PAGE", 4)
    monkeypatch.setattr(direct, "ROUNDS", 2)
    return [
        [
            StoredEvent(user_id="u", event_type="view", time_ms=NOW_MS + n, item_id=release.item_ids[(user + 2) * n % 9])
            for n in range(12)
        ]
        for user in range(2)
    ]


def anew(error: float) -> Callable[..., Callable[[], UserQuery]]:
    """A served path that remembers nobody, and is wrong by so much about all but the past items."""

    def model_work(
        release: LoadedRelease, user_id: str, history: UserHistory, now_ms: int, cache: UserCache
    ) -> Callable[[], UserQuery]:
        def work() -> UserQuery:
            scores_N, _ = direct.offline(release, history)
            rows = np.arange(len(scores_N))
            return UserQuery(
                np.zeros(release.vectors_NV.shape[1], np.float32), rows, scores_N + np.float32(error) * (rows == rows[-1])
            )

        return work

    return model_work


def test_the_same_answers_show_no_error(
    release: LoadedRelease, histories: list[list[StoredEvent]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "model_work", anew(0.0))
    measured = measure_append(release, histories)
    assert measured.max_error == 0.0
    assert measured.id_mismatches == 0
    assert min(measured.offline_ms, measured.cold_ms, measured.append_ms, measured.page_ms) > 0


def test_the_served_path_errs_by_rounding_alone(release: LoadedRelease, histories: list[list[StoredEvent]]) -> None:
    measured = measure_append(release, histories)
    assert measured.max_error < 1e-5
    assert measured.id_mismatches == 0


def test_another_answer_shows(
    release: LoadedRelease, histories: list[list[StoredEvent]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "model_work", anew(1000.0))
    measured = measure_append(release, histories)
    assert measured.max_error == pytest.approx(1000.0)
    assert measured.id_mismatches == 2


def test_a_cold_history_is_held_against_bare_products(
    release: LoadedRelease, histories: list[list[StoredEvent]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def rate(_: BareProducts, product: Product) -> float:
        asked.append(product)
        return 100.0 if product is torch_product else 400.0

    monkeypatch.setattr(direct, "COLD_ROUNDS", 3)
    monkeypatch.setattr(BareProducts, "gflops_per_s", rate)
    monkeypatch.setattr(BareProducts, "all_flops", 2e8)
    monkeypatch.setattr(direct, "served", lambda *_: (None, 4.0))
    measured = measure_cold(release, histories)
    assert (measured.gemm_share, measured.fastest_share) == (0.5, 0.125)
    assert (measured.torch_gflops, measured.numpy_gflops) == (100.0, 400.0)
    assert len(asked) == 2 * 3 * len(histories)


def test_visits_are_made_of_the_engine_alone(
    release: LoadedRelease, tiny_shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "SECONDS", 0.3)
    monkeypatch.setattr(direct, "WARM_S", 0.0)
    write_histories(tiny_shop / "events.parquet", tmp_path / "histories.jsonl", 4)
    replays = [Replay.start(h, str(n)) for n, h in enumerate(read_histories(tmp_path / "histories.jsonl"))]
    visits = [direct.visit(replay) for replay in replays]
    assert [len({asked.request.user_id for asked in visit}) for visit in visits] == [1] * 4
    assert [asked.stored.num_events - visits[0][0].stored.num_events for asked in visits[0]] == [0, 1, 2, 3, 4]

    measured = asyncio.run(measure_visits(release, visits, 2))

    assert measured.requests_per_s > 0
