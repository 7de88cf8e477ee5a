"""Catalogues in memory: alone, and several as one."""

import asyncio
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from service.api.errors import ApiError
from service.api.schemas import AboutUser, Event, RecommendRequest
from service.histories.history import UserHistory
from service.release.changes import with_item_changes
from service.release.loaded import LoadedRelease
from service.rollout.plan import Plan
from service.rollout.served import ServedReleases
from service.uploads.folder import CatalogueFolder, Job, State, rows_name
from service.uploads.job import main
from service.uploads.releases import CatalogueReleases, Target, Uploaded, join, named, open_uploaded, own_id
from tests.service.conftest import NOW_MS, recommend
from tests.service.uploads.files import catalogue, written
from twotower.artefacts.release import read_pointer, release_path
from twotower.errors import IntegrityError

IDS = [f"item-{n}" for n in range(12)]  # the shop has items of the same ids


@pytest.fixture(scope="module")
def folder(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> CatalogueFolder:
    """One catalogue that is ready, and one that waits."""
    folder = CatalogueFolder.open(tmp_path_factory.mktemp("catalogues") / "all", alone=True)
    names, prices = [f"organic tea {n}" for n in range(12)], [f"{n}.50" for n in range(12)]
    table = catalogue(id=IDS, name=names, price=prices, categories=["Drinks, Tea"] * 12)
    state, job = folder.create("ready", None, written(folder.uploading(), table), False, most=2)
    path, towers = folder.path(state.catalog_id), release_path(tiny_store, read_pointer(tiny_store).release)
    assert main([str(path), str(job.number), str(towers)]) == 0
    done = msgspec.structs.replace(job, status="ready")
    folder.change(state.catalog_id, done, release=read_pointer(path / "store").release, rows=rows_name(job))
    folder.create("waiting", None, written(folder.uploading(), table), False, most=2)
    return folder


def state_of(folder: CatalogueFolder, name: str) -> State:
    return next(state for state in folder.states() if state.name == name)


@pytest.fixture(scope="module")
def uploaded(folder: CatalogueFolder) -> Uploaded:
    return open_uploaded(folder, state_of(folder, "ready"))


def test_ids_of_an_uploaded_catalogue_name_it() -> None:
    assert own_id("cat_0123456789ab", "x/y", "shop") == "cat_0123456789ab/x/y"
    assert named("cat_0123456789ab/x/y", "shop") == ("cat_0123456789ab", "x/y")
    assert named(own_id("shop", "x/y", "shop"), "shop") == ("shop", "x/y")


def test_an_uploaded_catalogue_has_its_own_rows_in_filters(uploaded: Uploaded) -> None:
    mask_N = uploaded.release.filters.mask("price < 3 and 'Tea' in categories")
    assert [item for item, is_in in zip(uploaded.rows.column("id").to_pylist(), mask_N, strict=True) if is_in] == IDS[:3]


def test_joined_catalogues_rank_as_each_of_them_alone(release: LoadedRelease, uploaded: Uploaded) -> None:
    joined = join({"shop": release, "other": uploaded})
    assert len(joined) == len(release) + len(uploaded.release)
    request = RecommendRequest(num_results=50)
    alone = [recommend(part, request, UserHistory(), NOW_MS).items for part in (release, uploaded.release)]
    expected = sorted((item for part in alone for item in part), key=lambda item: -item.score)[:50]
    found = recommend(joined, request, UserHistory(), NOW_MS).items
    np.testing.assert_allclose([item.score for item in found], [item.score for item in expected], atol=1e-5)
    assert {item.item_id for item in found} == {item.item_id for item in expected}


def test_events_of_each_catalogue_are_read_where_both_are_ranked(release: LoadedRelease, uploaded: Uploaded) -> None:
    joined, ours = join({"shop": release, "other": uploaded}), uploaded.release.item_ids[0]
    events = [Event(event_type="view", timestamp=NOW_MS - n, item_id=item) for n, item in enumerate(["item-1", ours])]
    request = RecommendRequest(events=events)
    assert recommend(joined, request, UserHistory(), NOW_MS).events_used == 2
    assert recommend(release, request, UserHistory(), NOW_MS).events_used == 1
    assert recommend(uploaded.release, request, UserHistory(), NOW_MS).events_used == 1


def test_changed_items_are_joined_as_they_are_served(release: LoadedRelease, uploaded: Uploaded) -> None:
    changed = with_item_changes(release, {"item-1": None, "new": {"title": "fresh soap"}})
    joined = join({"shop": changed, "other": uploaded})
    assert "new" in joined.rows
    assert "item-1" not in joined.rows
    assert len(joined) == len(release) + len(uploaded.release)


def test_one_filter_holds_for_both_catalogues(release: LoadedRelease, uploaded: Uploaded) -> None:
    joined = join({"shop": release, "other": uploaded})
    found = np.array(joined.item_ids)[joined.filters.mask("price < 2")]
    assert {named(item, "shop")[0] for item in found} == {"shop", uploaded.release.item_ids[0].partition("/")[0]}


def test_an_item_of_several_catalogues_says_in_which_it_is(release: LoadedRelease, uploaded: Uploaded) -> None:
    joined = join({"shop": release, "other": uploaded})
    assert joined.filters.mask("catalog_id == 'other'").tolist() == [False] * len(release) + [True] * len(uploaded.release)


def releases_of(release: LoadedRelease, folder: CatalogueFolder | None) -> CatalogueReleases:
    return CatalogueReleases(ServedReleases(release, Plan()), "shop", folder)


def test_a_request_gets_the_catalogues_that_it_names(release: LoadedRelease, folder: CatalogueFolder) -> None:
    releases, ready = releases_of(release, folder), state_of(folder, "ready").catalog_id

    async def ask() -> None:
        alone = await releases.target(["shop"], AboutUser())
        assert alone.chosen.release is release
        assert alone.features_of["name"] == ("title",)
        both = await releases.target([ready, "shop", ready], AboutUser())
        assert both.catalog_ids == (ready, "shop")
        assert (await releases.target([ready, "shop"], AboutUser())).chosen.release is both.chosen.release
        data = both.data([f"{ready}/item-3", "item-3"], "shop")
        assert (data[0]["name"], data[0]["price"]) == ("organic tea 3", "3.50")
        assert data[1]["id"] == "item-3"

    asyncio.run(ask())


@pytest.mark.parametrize(("name", "status", "says"), [("waiting", 409, "still being embedded"), (None, 404, "no catalogue")])
def test_a_catalogue_that_cannot_be_ranked_is_refused(
    name: str | None, status: int, says: str, release: LoadedRelease, folder: CatalogueFolder
) -> None:
    catalog_id = state_of(folder, name).catalog_id if name else "cat_000000000000"
    with pytest.raises(ApiError, match=says) as refused:
        asyncio.run(releases_of(release, folder).target([catalog_id], AboutUser()))
    assert refused.value.status == status


def test_several_requests_at_once_join_catalogues_once(
    release: LoadedRelease, folder: CatalogueFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    releases, ready, made = releases_of(release, folder), state_of(folder, "ready").catalog_id, []

    def counted(parts: Mapping[str, Uploaded | LoadedRelease]) -> LoadedRelease:
        made.append(join(parts))
        return made[-1]

    async def ask() -> list[Target]:
        return await asyncio.gather(*(releases.target([ready, "shop"], AboutUser()) for _ in range(4)))

    monkeypatch.setattr("service.uploads.releases.join", counted)
    assert [target.chosen.release for target in asyncio.run(ask())] == made * 4


def test_files_that_a_job_replaces_while_they_are_read_are_read_again(
    release: LoadedRelease, folder: CatalogueFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, asked = state_of(folder, "ready"), []
    before = msgspec.structs.replace(state, release="release-0", rows="rows-0.parquet")

    def find(_: CatalogueFolder, catalog_id: str) -> State:
        asked.append(catalog_id)
        return before if len(asked) <= 2 else state

    monkeypatch.setattr(CatalogueFolder, "find", find)
    target = asyncio.run(releases_of(release, folder).target([state.catalog_id], AboutUser()))
    assert target.chosen.release.id == state.release


@pytest.mark.parametrize(
    ("error", "status"), [(IntegrityError("damaged"), 404), (FileNotFoundError("rows"), 404), (OSError(24, "too many"), None)]
)
def test_only_a_catalogue_that_is_gone_or_damaged_has_to_be_uploaded_again(
    error: Exception, status: int | None, release: LoadedRelease, folder: CatalogueFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("service.uploads.releases.open_uploaded", fail)
    with pytest.raises(ApiError if status else OSError) as refused:
        asyncio.run(releases_of(release, folder).target([state_of(folder, "ready").catalog_id], AboutUser()))
    assert getattr(refused.value, "status", None) == status


def test_rows_that_are_damaged_are_said_to_be(folder: CatalogueFolder, tmp_path: Path) -> None:
    copy = CatalogueFolder(tmp_path)
    state = state_of(folder, "ready")
    shutil.copytree(folder.path(state.catalog_id), copy.path(state.catalog_id))
    (copy.path(state.catalog_id) / str(state.rows)).write_bytes(b"PAR1 no PAR1")
    with pytest.raises(IntegrityError, match="cannot be read"):
        open_uploaded(copy, state)


def test_catalogues_of_two_models_are_not_compared(release: LoadedRelease, folder: CatalogueFolder) -> None:
    other = replace(release, info=msgspec.structs.replace(release.info, vector_space_id="another"))
    with pytest.raises(ApiError, match="different models") as refused:
        asyncio.run(releases_of(other, folder).target(["shop", state_of(folder, "ready").catalog_id], AboutUser()))
    assert refused.value.status == 409


def test_a_job_number_names_its_files() -> None:
    assert rows_name(Job(number=7, kind="add")) == "rows-7.parquet"
