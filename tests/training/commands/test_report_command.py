"""`twotower report` on a run as training leaves it."""

import shutil
import webbrowser
from pathlib import Path

import pytest

from tests.training.conftest import TINY
from training.commands.report_command import main
from training.run.run import run
from twotower.data.schema import load_schema
from twotower.errors import EnvironmentProblem


@pytest.fixture(scope="module")
def trained(tiny_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with a bundle and what its run left beside it."""
    directory = tmp_path_factory.mktemp("trained")
    schema = load_schema(tiny_shop / "schema.toml")
    run(TINY, tiny_shop / "events.parquet", tiny_shop / "items.parquet", schema, directory / "bundle")
    return directory


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a browser was asked to show."""
    asked: list[str] = []
    monkeypatch.setattr(webbrowser, "open", asked.append)
    return asked


def test_the_page_of_a_real_run_holds_its_verdict_and_its_curves(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(trained / "bundle"), "--no-open"]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path == trained / "bundle.run" / "report.html"
    page = path.read_text()
    for words in (
        "Against the counters",
        "Validation during the run",
        "What the optimizer lowers, over the full catalogue.",
        "events used",
    ):
        assert words in page
    assert len(page) < 1_000_000


def test_it_is_opened_where_there_is_a_display(trained: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    assert main([str(trained / "bundle.run")]) == 0
    assert opened == [(trained / "bundle.run" / "report.html").as_uri()]


@pytest.mark.parametrize(("arguments", "display"), [(["--no-open"], ":0"), ([], "")])
def test_else_only_its_path_is_printed(
    trained: Path,
    opened: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    display: str,
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert main([str(trained / "bundle.run"), *arguments]) == 0
    assert opened == []
    assert capsys.readouterr().out.endswith("report.html\n")


def test_a_bundle_without_its_run_gets_a_page_beside_it(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained / "bundle", tmp_path / "bundle")
    assert main([str(tmp_path / "bundle"), "--no-open"]) == 0
    assert "there are no curves to show" in (tmp_path / "bundle.run" / "report.html").read_text()


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="neither a bundle nor a run directory"):
        main([str(tmp_path), "--no-open"])


def test_a_page_that_cannot_be_written_is_an_error_of_one_line(trained: Path) -> None:
    page = trained / "bundle.run" / "report.html"
    page.unlink(missing_ok=True)
    page.mkdir()
    try:
        with pytest.raises(EnvironmentProblem, match="cannot write"):
            main([str(trained / "bundle"), "--no-open"])
    finally:
        page.rmdir()
