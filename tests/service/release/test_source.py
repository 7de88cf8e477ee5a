"""What a server begins with: what the pointer names, or else the last release that is good."""

from pathlib import Path
from typing import Literal

import pytest

from service.engine.remote import setup_of
from service.model.cpu_dtype import name_of
from service.release.source import ReleaseSource, first_release, source_of
from service.rollout.pinned import pinned_releases
from service.rollout.plan import Arm, Plan
from service.settings import Settings
from tests.service.conftest import TwoReleases
from twotower.artefacts.cache import local_copy
from twotower.artefacts.object_store import connect
from twotower.artefacts.release import POINTER, POINTERS, VECTORS, read_pointer, release_path, write_pointer
from twotower.artefacts.signature import load_signer, make_keys
from twotower.artefacts.store import LocalStore
from twotower.errors import ArtefactError, EnvironmentProblem, IntegrityError, StoreError


def damage(store: Path, release: str) -> None:
    (release_path(store, release) / VECTORS).write_bytes(b"rotten")


def test_a_gpu_that_is_not_there_is_no_place_to_search(two: TwoReleases, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twotower.device.why_no_gpu", lambda _: "there is none")
    with pytest.raises(EnvironmentProblem, match="--device cuda cannot be had: there is none"):
        source_of(Settings(store=two.store, device="cuda"))
    with pytest.raises(EnvironmentProblem, match="--device cuda cannot be had: there is none"):
        setup_of(Settings(store=two.store, device="cuda", engine="process"), two.store)


@pytest.mark.parametrize(("engine", "device"), [("thread", "cuda"), ("process", "cpu")])
def test_the_process_that_answers_has_the_gpu(
    two: TwoReleases, monkeypatch: pytest.MonkeyPatch, engine: Literal["thread", "process"], device: str
) -> None:
    monkeypatch.setattr("twotower.device.why_no_gpu", lambda _: "")
    settings = Settings(store=two.store, device="cuda", engine=engine)
    assert source_of(settings).device.torch_device.type == device
    assert setup_of(settings, two.store).device == "cuda"


@pytest.mark.parametrize(("dtype", "name"), [("fp32", "fp32"), ("bf16", "bf16")])
def test_both_processes_know_the_dtype(two: TwoReleases, dtype: Literal["fp32", "bf16"], name: str) -> None:
    source = source_of(settings := Settings(store=two.store, dtype=dtype, engine="process"))
    assert name_of(source.device.dtype) == name
    assert setup_of(settings, two.store, name_of(source.device.dtype)).dtype == name


def test_it_is_what_the_pointer_names(two: TwoReleases) -> None:
    assert first_release(ReleaseSource(LocalStore(two.store))).id == two.second


def test_it_is_the_release_before_when_that_is_damaged_and_it_is_said(
    two: TwoReleases, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(two.store, two.second)
    assert first_release(ReleaseSource(LocalStore(two.store))).id == two.first
    said = capsys.readouterr().err
    assert f"{VECTORS} is not the file that was published" in said
    assert f"WARNING: serving {two.first} instead" in said


def test_it_is_the_last_one_named_when_the_newest_pointer_cannot_be_read(two: TwoReleases) -> None:
    for path in (two.store / POINTER, two.store / POINTERS / "000000000002.json"):
        path.write_bytes(b"{")
    assert first_release(ReleaseSource(LocalStore(two.store))).id == two.first


def test_without_any_good_release_it_is_what_the_pointer_cannot(two: TwoReleases) -> None:
    damage(two.store, two.first)
    damage(two.store, two.second)
    with pytest.raises(IntegrityError, match=two.second):
        first_release(ReleaseSource(LocalStore(two.store)))


def test_a_release_that_the_wrong_key_signed_is_no_way_out(two: TwoReleases, tmp_path: Path) -> None:
    verifier = load_signer(make_keys(tmp_path / "keys")[0]).verifier
    with pytest.raises(IntegrityError, match="not signed"):
        first_release(ReleaseSource(LocalStore(two.store), verifier))


def test_an_empty_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="twotower embed"):
        first_release(ReleaseSource(LocalStore(tmp_path)))


def test_a_bucket_without_answer_is_no_reason_not_to_start(
    s3_store: str, two: TwoReleases, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = connect(s3_store)
    store.add(two.store / "releases" / two.first, two.first)
    write_pointer(store, two.first, "a test")
    local_copy(store)
    monkeypatch.setattr("twotower.artefacts.object_store.ObjectStore.read", no_answer)
    assert read_pointer(store.local).release == two.first
    assert first_release(ReleaseSource(store)).id == two.first


def no_answer(*_: object) -> bytes:
    raise StoreError("no answer")


def test_what_a_plan_names_is_loaded_once(two: TwoReleases) -> None:
    source = ReleaseSource(LocalStore(two.store))
    served = first_release(source)
    arms = (Arm(name="a", percent=50, release=two.first), Arm(name="b", percent=50, release=two.second))
    assert list(pinned_releases(source, Plan(arms=arms), served)) == [two.first]


def test_a_plan_that_names_a_damaged_release_is_refused(two: TwoReleases) -> None:
    source = ReleaseSource(LocalStore(two.store))
    served = first_release(source)
    damage(two.store, two.first)
    with pytest.raises(ArtefactError):
        pinned_releases(source, Plan(arms=(Arm(name="a", percent=100, release=two.first),)), served)


def test_a_release_that_is_gone_is_warned_of_and_the_others_are_served(
    two: TwoReleases, caplog: pytest.LogCaptureFixture
) -> None:
    source = ReleaseSource(LocalStore(two.store))
    served, gone = first_release(source), "release-000000000000"
    arms = (Arm(name="a", percent=50, release=two.first), Arm(name="b", percent=50, release=gone))
    assert list(pinned_releases(source, Plan(arms=arms), served)) == [two.first]
    assert f"names {gone}, in whose place the current release answers" in caplog.text
