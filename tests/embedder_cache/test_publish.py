"""One run wins, the pointer always names a whole release, and a bucket is published to as a directory is."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from embedder_cache.build import build_release
from embedder_cache.publish import publishing
from tests.embedder_cache.forked import Run
from twotower.artefacts.bundle import load_bundle
from twotower.artefacts.cache import local_copy
from twotower.artefacts.manifest import MANIFEST, seal
from twotower.artefacts.release import (
    VECTORS,
    activate,
    list_releases,
    newest,
    open_store,
    read_info,
    read_pointer,
    release_path,
    roll_back,
    verify,
    verify_release,
    write_pointer,
)
from twotower.artefacts.signature import SIGNATURE, Signer, load_signer, make_keys
from twotower.artefacts.store import LocalStore, Store
from twotower.errors import IntegrityError, StoreError

Publish = Callable[[int], str]
Start = Callable[[Store, Path], Run]


@pytest.fixture
def publish(any_store: Store, tiny_bundle: Path, tiny_shop: Path, tmp_path: Path) -> Publish:
    """Publishes a catalogue of so many items in any_store."""
    items = pq.read_table(tiny_shop / "items.parquet")

    def publish(num_items: int) -> str:
        pq.write_table(items.slice(0, num_items), tmp_path / "items.parquet")
        return build_release(load_bundle(tiny_bundle), tmp_path / "items.parquet", any_store, None).release

    return publish


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return load_signer(make_keys(tmp_path / "keys")[0])


def test_what_was_published_is_whole_and_current(any_store: Store, publish: Publish) -> None:
    first = publish(400)
    assert list_releases(any_store) == [first]
    assert read_pointer(any_store).release == first
    assert verify(any_store, first, None).id == first
    assert not list((any_store.local / "releases").glob(".staging-*"))


def test_nothing_changed_publishes_nothing(any_store: Store, publish: Publish) -> None:
    first = publish(400)
    pointer = read_pointer(any_store)
    assert publish(400) == first
    assert (read_pointer(any_store), list_releases(any_store)) == (pointer, [first])


def test_each_rollback_goes_one_further_back(any_store: Store, publish: Publish) -> None:
    first, second, third = (publish(n) for n in (400, 399, 398))
    assert read_pointer(any_store).release == third
    assert roll_back(any_store, None).release == second
    assert roll_back(any_store, None).release == first
    with pytest.raises(StoreError, match="nothing to roll back"):
        roll_back(any_store, None)
    assert read_pointer(any_store).sequence == 5
    assert activate(any_store, third, None).previous == first


def test_a_damaged_release_is_found_and_replaced(any_store: Store, publish: Publish) -> None:
    release = publish(400)
    any_store.replace(f"releases/{release}/{VECTORS}", b"rotten")
    with pytest.raises(IntegrityError, match=VECTORS):
        verify(any_store, release, None)
    again = publish(400)
    assert list_releases(any_store) == [again], "what is damaged is no release any more"
    verify(any_store, again, None)
    assert read_pointer(any_store).release == again


def test_a_current_release_that_is_gone_is_replaced(
    any_store: Store, publish: Publish, capsys: pytest.CaptureFixture[str]
) -> None:
    release = publish(400)
    any_store.retire(release, lambda: False)
    capsys.readouterr()
    publish(400)
    assert f"{release} is current but not in" in capsys.readouterr().err
    verify(any_store, read_pointer(any_store).release, None)


def test_what_cannot_be_read_again_is_not_pointed_at(any_store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    first, add = publish(400), type(any_store).add

    def lose_bits(self: Store, directory: Path, release: str) -> None:
        add(self, directory, release)
        self.replace(f"releases/{release}/{VECTORS}", b"half")

    monkeypatch.setattr(type(any_store), "add", lose_bits)
    with pytest.raises(IntegrityError, match=VECTORS):
        publish(399)
    assert read_pointer(any_store).release == first


def test_a_pointer_that_moved_during_the_run_stays_where_it_is(any_store: Store, publish: Publish) -> None:
    first, second = publish(400), publish(399)
    with publishing(any_store) as publication:
        write_pointer(any_store, first, reason="an operator")
        (publication.directory / "x").touch()
        with pytest.raises(StoreError, match="published meanwhile"):
            write_pointer(any_store, second, "a run", publication.at_start)
    assert read_pointer(any_store).release == first


@pytest.fixture
def start(tiny_bundle: Path) -> Start:
    """Starts `twotower embed` as a process of its own that waits before it publishes."""

    def start(store: Store, items: Path) -> Run:
        arguments = ("--bundle", tiny_bundle, "--items", items, "--store", store)
        return Run(items.with_suffix(".said"), items.with_suffix(".cache"), *arguments)

    return start


def test_an_operator_who_rolls_back_during_a_run_wins(any_store: Store, publish: Publish, start: Start, tmp_path: Path) -> None:
    first = publish(400)
    publish(399)
    pq.write_table(pq.read_table(tmp_path / "items.parquet").slice(0, 398), tmp_path / "tonight.parquet")
    run = start(any_store, tmp_path / "tonight.parquet")
    run.wait_until_built()
    roll_back(any_store, None)
    run.go_on()
    status, said = run.end()
    assert status == 2
    assert "published meanwhile" in said
    assert "Traceback" not in said
    assert (read_pointer(any_store).release, read_pointer(any_store).sequence) == (first, 3)


def test_of_two_runs_on_one_machine_the_second_is_refused(
    tiny_bundle: Path, tiny_shop: Path, start: Start, tmp_path: Path
) -> None:
    store, items = LocalStore(tmp_path / "store"), tiny_shop / "items.parquet"
    first = start(store, items)
    first.wait_until_built()
    with pytest.raises(StoreError, match="another `twotower embed` is publishing"):
        build_release(load_bundle(tiny_bundle), items, store, None)
    first.go_on()
    assert (first.end()[0], read_pointer(store).sequence) == (0, 1)
    verify(store, read_pointer(store).release, None)


def test_of_two_runs_at_once_exactly_one_wins(s3_store: str, tiny_shop: Path, start: Start, tmp_path: Path) -> None:
    store, runs = open_store(s3_store), []
    for num_items in (400, 399):
        items = tmp_path / f"{num_items}.parquet"
        pq.write_table(pq.read_table(tiny_shop / "items.parquet").slice(0, num_items), items)
        runs.append(start(store, items))
    for run in runs:
        run.wait_until_built()
    for run in runs:
        run.go_on()
    won, lost = sorted(run.end() for run in runs)
    assert (won[0], lost[0]) == (0, 2), (won, lost)
    assert "published meanwhile" in lost[1]
    assert read_pointer(store).sequence == 1
    verify(store, read_pointer(store).release, None)


def test_what_a_bucket_holds_is_compared_with_and_served(s3_store: str, tiny_bundle: Path, tiny_shop: Path) -> None:
    bundle, items = load_bundle(tiny_bundle), tiny_shop / "items.parquet"
    build_release(bundle, items, s3_store, None)
    published = build_release(bundle, items, s3_store, tiny_shop / "events.parquet")
    assert {gate.name for gate in published.gates} >= {"recent_coverage", "item_count_change", "golden_overlap"}
    path = local_copy(open_store(s3_store))
    verify_release(release_path(path, published.release))


def tamper(store: Store, release: str, directory: Path) -> None:
    """Flip a byte of a file and make the manifest true again, as someone would who may write to the store."""
    with store.reread(release, None) as path:
        directory.mkdir()
        for file in path.iterdir():
            (directory / file.name).write_bytes(file.read_bytes())
    signature = (directory / SIGNATURE).read_bytes()
    for name in (MANIFEST, SIGNATURE):
        (directory / name).unlink()
    content = bytearray((directory / VECTORS).read_bytes())
    content[-1] ^= 1
    (directory / VECTORS).write_bytes(content)
    seal(directory, "release", parent=read_info(directory).bundle_id)
    for name in (VECTORS, MANIFEST):
        store.replace(f"releases/{release}/{name}", (directory / name).read_bytes())
    store.replace(f"releases/{release}/{SIGNATURE}", signature)


def test_tampering_that_hashes_cannot_tell_is_caught_by_the_signature(
    any_store: Store, tiny_bundle: Path, tiny_shop: Path, tmp_path: Path, signer: Signer
) -> None:
    items = tiny_shop / "items.parquet"
    release = build_release(load_bundle(tiny_bundle), items, any_store, None, signer=signer).release
    verify(any_store, release, signer.verifier)
    tamper(any_store, release, tmp_path / "tampered")
    verify(any_store, release, None)
    with pytest.raises(IntegrityError, match="changed afterwards"):
        verify(any_store, release, signer.verifier)
    with pytest.raises(IntegrityError, match="changed afterwards"):
        activate(any_store, release, signer.verifier)


def test_a_release_that_was_not_signed_is_published_anew_by_who_signs(
    any_store: Store, tiny_bundle: Path, tiny_shop: Path, signer: Signer
) -> None:
    bundle, items = load_bundle(tiny_bundle), tiny_shop / "items.parquet"
    unsigned = build_release(bundle, items, any_store, None).release
    signed = build_release(bundle, items, any_store, None, signer=signer)
    verify(any_store, signed.release, signer.verifier)
    assert read_pointer(any_store).release == signed.release
    again = build_release(bundle, items, any_store, None, signer=signer)
    assert (again.release, again.changed) == (signed.release, False)
    with pytest.raises(IntegrityError, match="not signed"):
        verify(any_store, unsigned, signer.verifier)


def test_a_signature_is_no_part_of_what_is_signed(tiny_bundle: Path, tiny_shop: Path, tmp_path: Path, signer: Signer) -> None:
    store = LocalStore(tmp_path)
    signed = build_release(load_bundle(tiny_bundle), tiny_shop / "items.parquet", store, None, signer=signer)
    manifest = verify(store, signed.release, signer.verifier)
    (tmp_path / "releases" / signed.release / SIGNATURE).unlink()
    assert verify(store, signed.release, None) == manifest
    assert newest(tmp_path).sequence == 1


def test_a_release_put_aside_is_whole_and_moves_no_pointer(any_store: Store, tiny_bundle: Path, tiny_shop: Path) -> None:
    bundle, items = load_bundle(tiny_bundle), tiny_shop / "items.parquet"
    aside = build_release(bundle, items, any_store, None, aside=True)
    assert (aside.changed, newest(any_store).pointer) == (True, None)
    verify(any_store, aside.release, None)
    activate(any_store, aside.release, None)
    again = build_release(bundle, items, any_store, None, aside=True)
    assert (again.release, again.changed) == (aside.release, False), "it is current already"
