"""`twotower embed` says what it did."""

import hashlib
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from prometheus_client.parser import text_string_to_metric_families

from embedder_cache.commands.embed_command import main
from twotower.artefacts.cache import fetch
from twotower.artefacts.item_changes import DeltaStore
from twotower.artefacts.release import read_pointer, read_release_manifest, verify
from twotower.artefacts.signature import load_verifier, make_keys
from twotower.artefacts.store import LocalStore, Store
from twotower.errors import EnvironmentProblem
from twotower.index.kinds import GPU_KINDS


def test_it_publishes_once_and_says_when_nothing_changed(
    tiny_shop: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--bundle", tiny_bundle, "--items", tiny_shop / "items.parquet", "--store", tmp_path / "store"]
    assert main([str(a) for a in arguments]) == 0
    assert "published release-" in capsys.readouterr().err
    assert main([str(a) for a in [*arguments, "--json"]]) == 0
    said = capsys.readouterr()
    assert "nothing changed" in said.err
    assert json.loads(said.out)["items"] == 400


@pytest.mark.parametrize("options", [["--device", "cuda"], ["--device", "auto"], ["--engine", "ray"]])
def test_what_by_content_does_not_do_is_refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["--bundle", "b", "--items", "i", "--store", "s", "--by-content", *options])
    assert refused.value.code == 2
    assert f"leave out {options[0]}" in capsys.readouterr().err


@pytest.mark.parametrize("kind", GPU_KINDS)
def test_an_index_for_gpus_is_refused_before_anything_is_embedded(
    kind: str, tiny_shop: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--bundle", tiny_bundle, "--items", tiny_shop / "items.parquet", "--store", tmp_path / "store", "--index", kind]
    with pytest.raises(EnvironmentProblem, match=f"the index kind {kind} needs a GPU: use --device cuda, or "):
        main([str(a) for a in arguments])
    assert "embed items" not in capsys.readouterr().err


@pytest.mark.parametrize("kept", [400, 399])
def test_the_files_of_the_served_release_are_hashed_once_a_night(
    tiny_shop: Path, tiny_bundle: Path, tmp_path: Path, any_store: Store, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    """With a changed catalogue, and with the same: to keep vectors, to compare answers, to say what changed, or to stay."""
    items, real, hashed = tmp_path / "items.parquet", hashlib.file_digest, Counter[Path]()
    arguments = ["--bundle", tiny_bundle, "--items", items, "--events", tiny_shop / "events.parquet", "--store", any_store]
    catalogue = pq.read_table(tiny_shop / "items.parquet")
    pq.write_table(catalogue, items)
    main([str(a) for a in arguments])
    served = any_store.local / "releases" / read_pointer(any_store).release
    fetch(any_store, served.name)  # as a night before has it

    def counted(file: Any, digest: str) -> Any:
        hashed[Path(file.name)] += 1
        return real(file, digest)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    pq.write_table(catalogue.slice(0, kept), items)
    main([str(a) for a in arguments])
    names = read_release_manifest(served).files
    assert {name: hashed[served / name] for name in names} == dict.fromkeys(names, 1)
    assert (read_pointer(any_store).release == served.name) is (kept == 400)


def test_it_folds_in_what_a_server_was_told(
    tiny_shop: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = DeltaStore(tmp_path / "delta.db")
    store.write({"new": {"title": "sweet olives"}, "item-1": None})
    arguments = ["--bundle", tiny_bundle, "--items", tiny_shop / "items.parquet", "--store", tmp_path / "store"]
    assert main([str(a) for a in [*arguments, "--delta", f"sqlite:///{tmp_path / 'delta.db'}", "--json"]]) == 0
    told = capsys.readouterr()
    assert "1 items that were put and 1 that were deleted are folded in" in told.err
    assert json.loads(told.out)["items"] == 400


def test_it_leaves_metrics_for_prometheus(tiny_shop: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    arguments = ["--bundle", tiny_bundle, "--items", tiny_shop / "items.parquet", "--events", tiny_shop / "events.parquet"]
    started = time.time()
    assert main([str(a) for a in [*arguments, "--store", tmp_path / "store", "--metrics", tmp_path / "twotower.prom"]]) == 0
    families = text_string_to_metric_families((tmp_path / "twotower.prom").read_text())
    values = {(s.name, s.labels.get("gate")): s.value for family in families for s in family.samples}
    assert started <= values.pop(("twotower_embed_last_success_timestamp_seconds", None)) <= time.time()
    assert values.pop(("twotower_embed_duration_seconds", None)) > 0
    assert values.pop(("twotower_embed_items", None)) == 400
    assert values.pop(("twotower_embed_embedded_items", None)) == 400
    assert values.pop(("twotower_embed_rejected_items", None)) == 0
    assert values.pop(("twotower_embed_published", None)) == 1
    assert values["twotower_embed_gate", "recent_coverage"] == pytest.approx(1)
    assert {gate for _, gate in values} >= {"recent_coverage", "recall100", "holdout_recall10_over_popularity"}
    assert {value for (name, _), value in values.items() if name == "twotower_embed_gate_passed"} == {1}


def test_metrics_that_cannot_be_written_are_named(tiny_shop: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    arguments = ["--bundle", tiny_bundle, "--items", tiny_shop / "items.parquet", "--store", tmp_path / "store"]
    with pytest.raises(EnvironmentProblem, match="--metrics"):
        main([str(a) for a in [*arguments, "--metrics", tmp_path / "no such directory" / "twotower.prom"]])


def test_it_signs_and_forgets_old_releases_when_asked(
    tiny_shop: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    private, public = make_keys(tmp_path / "keys")
    store = LocalStore(tmp_path / "store")
    arguments = ["--bundle", tiny_bundle, "--items", tiny_shop / "items.parquet", "--store", store]
    monkeypatch.setattr("twotower.artefacts.store.GRACE_MINUTES", 0.0)
    for more in ([], ["--events", tiny_shop / "events.parquet"], ["--sign", private, "--keep", "1"]):
        assert main([str(a) for a in [*arguments, *more]]) == 0
    assert "1 old releases removed, 2 kept" in capsys.readouterr().err
    verify(store, read_pointer(store).release, load_verifier(public))
    monkeypatch.setenv("TWOTOWER_SIGNING_KEY", str(tmp_path / "no.pem"))
    with pytest.raises(EnvironmentProblem, match=r"no\.pem"):
        main([str(a) for a in arguments])


def test_keeping_no_release_at_all_is_refused(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--bundle", str(tiny_bundle), "--items", "i", "--store", "s", "--keep", "0"])
    assert "--keep must be 1 or more" in capsys.readouterr().err


def test_it_says_what_the_night_changed(
    tiny_shop: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = pq.read_table(tiny_shop / "items.parquet")
    pq.write_table(items.slice(2), tmp_path / "items.parquet")
    arguments = ["--bundle", str(tiny_bundle), "--store", str(tmp_path / "store"), "--items"]
    assert main([*arguments, str(tmp_path / "items.parquet")]) == 0
    assert "overlap@20" not in capsys.readouterr().err, "there was nothing before"
    assert main([*arguments, str(tiny_shop / "items.parquet")]) == 0
    said = capsys.readouterr().err
    assert "400 items, 2 of them embedded anew" in said
    assert "+2 -0 items, 0.0% of vectors changed, overlap@20" in said
