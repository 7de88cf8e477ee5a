"""`twotower releases drift`: a line, JSON, a page."""

import json
from pathlib import Path

import pytest

from embedder_cache.commands.releases_command import main
from twotower.artefacts.release import VECTORS, list_releases, read_pointer, release_path
from twotower.errors import EnvironmentProblem, IntegrityError, StoreError


def test_the_current_release_is_compared_with_the_one_before_it(
    store: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["drift", "--store", str(store), "--bundle", str(tiny_bundle)]) == 0
    line, *reasons = capsys.readouterr().out.splitlines()
    older, newer = list_releases(store)
    assert line.startswith(f"{older} -> {newer}: +0 -0 items, 0.0% of vectors changed, overlap@20 ")
    assert len(reasons) == 3
    assert all(reason.startswith("  retrain ") for reason in reasons)


def test_any_two_releases_can_be_compared(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = list_releases(store)
    main(["drift", "--store", str(store), "--from", second, "--to", first, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["older"]["release"], found["newer"]["release"]) == (second, first)
    assert found["advice"] == {"retrain": "unknown", "findings": []}


def test_when_to_train_again_is_for_the_operator_to_say(
    store: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bundle's provenance does not say when it was made: by default nothing is urgent, and not all is known."""
    arguments = ["drift", "--store", str(store), "--bundle", str(tiny_bundle), "--json"]
    main(arguments)
    assert json.loads(capsys.readouterr().out)["advice"]["retrain"] == "unknown"
    (tmp_path / "rules.toml").write_text("[popularity_divergence]\nsoon = 0.0\nnow = 1.0\n")
    main([*arguments, "--rules", str(tmp_path / "rules.toml")])
    assert json.loads(capsys.readouterr().out)["advice"]["retrain"] == "soon"


def test_the_page_is_written_where_it_is_wanted(store: Path, tmp_path: Path) -> None:
    assert main(["drift", "--store", str(store), "--page", str(tmp_path / "drift.html")]) == 0
    assert (tmp_path / "drift.html").read_text().startswith("<!doctype html>")
    with pytest.raises(EnvironmentProblem, match="Choose another place"):
        main(["drift", "--store", str(store), "--page", str(tmp_path / "nowhere" / "drift.html")])


def test_prometheus_can_read_what_the_rules_found(store: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text("[popularity_divergence]\nsoon = 0.0\nnow = 0.0\n")
    arguments = ["drift", "--store", str(store), "--bundle", str(tiny_bundle), "--rules", str(tmp_path / "rules.toml")]
    assert main([*arguments, "--metrics", str(tmp_path / "drift.prom")]) == 0
    written = (tmp_path / "drift.prom").read_text()
    assert 'twotower_drift_retrain{rule="popularity_divergence"} 2.0' in written
    assert 'twotower_drift_value{rule="unseen_demand"}' in written
    assert "bundle_age_days" not in written  # the bundle's provenance does not say it
    with pytest.raises(EnvironmentProblem, match="--metrics"):
        main([*arguments, "--metrics", str(tmp_path / "nowhere" / "drift.prom")])


def test_a_damaged_release_is_not_compared(store: Path) -> None:
    (release_path(store, list_releases(store)[0]) / VECTORS).write_bytes(b"nothing")
    with pytest.raises(IntegrityError, match=VECTORS):
        main(["drift", "--store", str(store)])


def test_nothing_to_compare_with_is_said(tiny_store: Path) -> None:
    with pytest.raises(StoreError, match="--from"):
        main(["drift", "--store", str(tiny_store)])
    current = read_pointer(tiny_store).release
    assert main(["drift", "--store", str(tiny_store), "--from", current]) == 0
