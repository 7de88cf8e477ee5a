import re
from pathlib import Path

import msgspec
import pytest

from loadtests.gate import gate
from loadtests.outcomes import read_outcomes
from loadtests.profiles import PROFILES
from loadtests.run import load, main, served_columns
from twotower.data.schema import EventColumns

RATE = 20.0  # requests per second: far below what a small model bears
SHORT = msgspec.structs.replace(PROFILES["steady"].lasting(3), generators=("poisson", "locust"))


def said(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_without_the_demos_data_it_says_how_to_make_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "make demo ARGS=--once" in said(["--store", str(tmp_path / "none")], capsys)


def test_a_server_that_is_not_there_is_one_sentence(tiny_shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["smoke", "--events", str(tiny_shop / "events.parquet"), "--out", str(tmp_path)]
    assert said([*arguments, "--url", "http://127.0.0.1:1"], capsys).endswith(
        "no server answers at http://127.0.0.1:1: Connection refused"
    )
    assert "is not an address such as" in said([*arguments, "--url", "127.0.0.1:1"], capsys)


def test_wrong_names_and_numbers_are_one_sentence_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "Did you mean 'smoke'?" in said(["smok"], capsys)
    (tmp_path / "limits.toml").write_text("[smoke]\np99 = 80\n")
    assert "Did you mean 'p99_ms'?" in said(["smoke", "--limits", str(tmp_path / "limits.toml")], capsys)
    assert re.search("-1 is no rate and no length", said(["smoke", "--rate", "-1"], capsys))


def test_the_columns_of_the_log_are_those_of_the_served_release(tiny_store: Path, tmp_path: Path) -> None:
    assert served_columns(tiny_store).features == {"price_paid": "numeric", "channel": "categorical"}
    assert served_columns(tmp_path) == EventColumns()


@pytest.fixture
def limits(tmp_path: Path) -> Path:
    """Limits that hold on a machine that does other things too, and not when each batch takes so much longer."""
    path = tmp_path / "limits.toml"
    path.write_text("[steady]\np50_ms = 150\nerror_share = 0\n")
    return path


@pytest.mark.alone
def test_a_modest_load_passes(tiny_shop: Path, tiny_store: Path, limits: Path, tmp_path: Path) -> None:
    load(SHORT, tiny_store, tiny_shop / "events.parquet", tmp_path, capacity_per_s=RATE)
    assert gate("steady", tmp_path, limits)
    assert [outcomes.generator for outcomes in read_outcomes(tmp_path, "steady")] == list(SHORT.generators)


@pytest.mark.alone
def test_the_same_load_fails_when_the_server_is_slowed_by_a_failpoint(
    tiny_shop: Path, tiny_store: Path, limits: Path, tmp_path: Path
) -> None:
    module = ("loadtests.slowed_server", "300")
    profile = msgspec.structs.replace(SHORT, generators=("poisson",))
    load(profile, tiny_store, tiny_shop / "events.parquet", tmp_path, capacity_per_s=RATE, module=module)
    assert not gate("steady", tmp_path, limits)
