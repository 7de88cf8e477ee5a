"""`twotower releases`: list, verify, activate, roll back, remove."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from embedder_cache.build import build_release
from embedder_cache.commands.releases_command import main
from twotower.artefacts.bundle import load_bundle
from twotower.artefacts.release import VECTORS, Candidate, list_releases, read_pointer, release_path
from twotower.errors import IntegrityError, StoreError


def test_the_current_release_is_marked(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--store", str(store)]) == 0
    old, new = capsys.readouterr().out.splitlines()
    assert old.startswith("  release-")
    assert new.startswith(f"* {read_pointer(store).release}")
    assert "400 items" in new


def test_a_rollback_is_a_new_pointer_to_the_old_release(store: Path) -> None:
    before = read_pointer(store)
    assert main(["rollback", "--store", str(store)]) == 0
    after = read_pointer(store)
    assert (after.release, after.sequence) == (before.previous, before.sequence + 1)


def test_a_release_can_be_activated_by_name(store: Path) -> None:
    first = read_pointer(store).previous
    assert first is not None
    assert main(["activate", first, "--store", str(store)]) == 0
    assert read_pointer(store).release == first


def test_a_damaged_release_is_found_and_never_activated(store: Path) -> None:
    pointer = read_pointer(store)
    assert pointer.previous is not None
    (release_path(store, pointer.previous) / VECTORS).write_bytes(b"nothing")
    assert main(["verify", "--store", str(store)]) == 0
    for arguments in (["verify", pointer.previous], ["activate", pointer.previous], ["rollback"]):
        with pytest.raises(IntegrityError, match=VECTORS):
            main([*arguments, "--store", str(store)])
    assert read_pointer(store) == pointer


def test_nothing_to_roll_back_to_is_said(tiny_store: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nothing to roll back"):
        main(["rollback", "--store", str(tiny_store)])
    with pytest.raises(StoreError, match="no releases"):
        main(["list", "--store", str(tmp_path)])


def test_gc_keeps_the_newest_what_is_served_and_what_a_rollback_needs(
    store: Path, tiny_shop: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = pq.read_table(tiny_shop / "items.parquet")
    for num_items in (399, 398, 397):
        pq.write_table(items.slice(0, num_items), store / "items.parquet")
        build_release(load_bundle(tiny_bundle), store / "items.parquet", store, None)
    oldest, second, third, _, newest = list_releases(store)
    for release in (second, oldest):  # served is the oldest; a rollback would go to the second
        main(["activate", release, "--store", str(store)])
    (store / "releases" / ".damaged-release-0123456789ab-1").mkdir()
    capsys.readouterr()
    assert main(["gc", "--keep", "1", "--store", str(store)]) == 0
    assert capsys.readouterr().out == "0 releases removed, 5 kept\n", "a server may still be loading any of them"
    assert main(["gc", "--keep", "1", "--grace-minutes", "0", "--store", str(store)]) == 0
    assert capsys.readouterr().out == "2 releases removed, 3 kept\n"
    assert {p.name for p in (store / "releases").iterdir()} == {oldest, second, newest}
    assert third not in list_releases(store)
    assert main(["rollback", "--store", str(store)]) == 0
    assert read_pointer(store).release == second


def test_gc_keeps_at_least_one_and_wants_to_know_what_is_served(store: Path) -> None:
    with pytest.raises(StoreError, match="--keep 0"):
        main(["gc", "--keep", "0", "--store", str(store)])
    shutil.rmtree(store / "pointers")
    (store / "CURRENT").unlink()
    with pytest.raises(StoreError, match="no current release"):
        main(["gc", "--keep", "1", "--grace-minutes", "0", "--store", str(store)])
    assert len(list_releases(store)) == 2


def test_keys_are_made_and_what_they_did_not_sign_is_refused(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keygen", "--out", str(tmp_path / "keys")]) == 0
    public = str(tmp_path / "keys" / "verify.pem")
    assert public in capsys.readouterr().out
    before = read_pointer(store)
    for action in (["verify"], ["activate", before.release], ["rollback"]):
        with pytest.raises(IntegrityError, match="not signed"):
            main([*action, "--store", str(store), "--verify-key", public])
    monkeypatch.setenv("TWOTOWER_VERIFY_KEY", public)
    with pytest.raises(IntegrityError, match="not signed"):
        main(["verify", "--store", str(store)])
    assert read_pointer(store) == before


def test_a_bucket_is_looked_after_as_a_directory_is(
    s3_store: str, tiny_shop: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for events in (None, tiny_shop / "events.parquet"):
        build_release(load_bundle(tiny_bundle), tiny_shop / "items.parquet", s3_store, events)
    old, new = read_pointer(s3_store).previous, read_pointer(s3_store).release
    for action, says in (
        (["list"], f"* {new}"),
        (["verify"], f"{new}: "),
        (["rollback"], f"{old} is current again (pointer 3)"),
        (["activate", new], f"{new} is current (pointer 4)"),
        (["gc", "--keep", "1", "--grace-minutes", "0"], "0 releases removed, 2 kept"),
    ):
        assert main([*action, "--store", s3_store]) == 0
        assert says in capsys.readouterr().out


def test_a_proposed_release_is_tried_beside_the_current_one_until_it_is_withdrawn(store: Path) -> None:
    before = read_pointer(store)
    assert before.previous is not None
    assert main(["propose", before.previous, "--store", str(store), "--percent", "10", "--seconds", "60"]) == 0
    tried = read_pointer(store)
    assert tried.candidate == Candidate(release=before.previous, percent=10, seconds=60)
    assert (tried.release, tried.previous) == (before.release, before.previous), "what is served stays, and the way back"
    assert main(["withdraw", "--store", str(store)]) == 0
    after = read_pointer(store)
    assert (after.sequence, after.release, after.previous, after.candidate) == (
        before.sequence + 2,
        before.release,
        before.previous,
        None,
    )


def test_what_cannot_be_tried_is_said(store: Path) -> None:
    current, other = read_pointer(store).release, str(read_pointer(store).previous)
    for arguments, why in (
        (["propose", current], "current already"),
        (["propose", "release-000000000000"], "has no release"),
        (["propose", other, "--percent", "0"], "--percent"),
        (["withdraw"], "nothing to withdraw"),
    ):
        with pytest.raises(StoreError, match=why):
            main([*arguments, "--store", str(store)])
    (release_path(store, other) / VECTORS).write_bytes(b"nothing")
    with pytest.raises(IntegrityError, match=VECTORS):
        main(["propose", other, "--store", str(store)])
