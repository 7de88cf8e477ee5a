"""The pages on training, on the nightly job and on serving are typed, on the small shop and in this process.

A line that is not typed is named with its reason. What a newcomer types is typed in a shell by tests/test_walkthrough.py, and the
page on operations by tests/test_operations.py.
"""

import re
import shlex
import shutil
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.documents import ROOT, blocks
from twotower.artefacts.release import current_release
from twotower.cli import main

pytestmark = pytest.mark.timeout(300)

SHOP = ("events.parquet", "items.parquet", "schema.toml")
GATES = "overlap20_same_bundle = 0.05\nsearch_p99_ms = 1000\n"  # the shop is small, and its towers are hardly trained
HERE = {  # what a page says, and what is typed in its place
    r"--minutes \d+": "--minutes 0.003",
    r"^twotower report bundle$": "twotower report bundle --no-open",
    r"^(twotower embed .*)": r"\1 --gates gates.toml",
    r" >> keys.toml$": "",
}
ID = "release-0123456789ab"  # that of the pages
ELSEWHERE = {  # the beginning of a line, and the reason why it is not typed here
    "twotower train demo --minutes 60 --patience 4": "tests/training/run/test_stopping.py stops early",
    "twotower train demo --plant-cold": "tests/training/evaluation/test_cold_start.py hides items",
    "twotower evaluate --bundle planted": "tests/training/commands/test_evaluate_command.py measures them",
    "torchrun ": "tests/training/run/test_distributed.py starts two processes",
    "PYTHONPATH=. ": "the class that the page shows is an outline; tests/twotower/model/test_kinds.py has whole ones",
    "pip install ": "installs a package",
    "export RAY_ADDRESS": "needs a cluster",
    "twotower embed --map ": "tests/embedder_cache/maps/test_process.py draws maps",
    "twotower embed --engine ray": "tests/embedder_cache/embedding/test_ray_engine.py starts a cluster",
    "twotower embed --bundle bundle --items items.parquet --events events.parquet --signals": "needs a bundle with signals",
    "twotower serve ": "tests/service/test_command.py starts servers, tests/service/faults those with Redis",
    "twotower embed --bundle bundle --items items.parquet --events events.parquet --store store --delta": "needs a server's file",
    "curl ": "tests/test_walkthrough.py asks its server",
}


def command_lines(page: str) -> list[str]:
    """The command lines of a page's `sh` blocks, continued ones joined."""
    text = "\n".join(block.text for block in blocks((ROOT / "docs" / page).read_text()) if block.kind == "sh")
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]


class Desk:
    """A directory with the shop's files, in which commands are typed one after the other."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home, self.capsys = home, capsys

    def type(self, line: str) -> str:
        """What a line prints, after it ended well."""
        for said, here in HERE.items():
            line = re.sub(said, here, line)
        line = re.sub(r" +", " ", line).replace(ID, self.another_release()) if ID in line else line
        name, *arguments = shlex.split(line, comments=True)
        assert name == "twotower", line
        status = main(arguments)
        printed = self.capsys.readouterr()
        assert status == 0, f"{line}\n{printed.out}{printed.err}"
        return printed.out + printed.err

    def type_page(self, page: str) -> list[str]:
        """Type every line of a page that is typed here, and give what each printed."""
        return [self.type(line) for line in command_lines(page) if not line.startswith(tuple(ELSEWHERE))]

    def another_release(self) -> str:
        """A release of the store that is not current."""
        store = self.home / "store"
        return next(path.name for path in sorted((store / "releases").iterdir()) if path.name != current_release(str(store)))

    def catalogue_changes(self) -> None:
        path = self.home / "items.parquet"
        items = pq.read_table(path)
        pq.write_table(items.set_column(items.column_names.index("price"), "price", pc.multiply(items["price"], 1.1)), path)


@pytest.fixture
def desk(tiny_shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Desk:
    home = tmp_path / "shop"
    home.mkdir()
    for name in SHOP:
        shutil.copy(tiny_shop / name, home / name)
    (home / "gates.toml").write_text(GATES)
    monkeypatch.chdir(home)
    monkeypatch.setenv("COLUMNS", "160")
    return Desk(home, capsys)


def test_the_page_on_training_can_be_typed(desk: Desk) -> None:
    trained, evaluated, reported = desk.type_page("training.md")
    assert "bundle written to bundle" in trained
    assert "popularity" in evaluated
    assert Path(reported.split()[-1]).is_file()


def test_the_page_on_the_nightly_job_can_be_typed(desk: Desk, tiny_bundle: Path) -> None:
    shutil.copytree(tiny_bundle, desk.home / "bundle")
    for _ in range(2):  # the nights before: the page goes back by one, and compares that one with another
        desk.type("twotower embed --bundle bundle --items items.parquet --events events.parquet --store store")
        desk.catalogue_changes()
    printed = desk.type_page("nightly.md")
    assert "published release-" in printed[0]
    assert Path("embed.prom").is_file()
    assert Path("drift.html").is_file()
    assert Path("keys/signing.pem").is_file()


def test_the_commands_of_the_page_on_serving_can_be_typed(desk: Desk) -> None:
    for printed in desk.type_page("serving.md"):
        assert "[[keys]]" in printed


def test_every_line_of_these_pages_is_typed_or_left_out_for_a_reason_that_is_still_one() -> None:
    lines = [line for page in ("training.md", "nightly.md", "serving.md") for line in command_lines(page)]
    assert [start for start in ELSEWHERE if not any(line.startswith(start) for line in lines)] == []
    typed = [line for line in lines if not line.startswith(tuple(ELSEWHERE))]
    assert all(line.startswith("twotower ") for line in typed)
    assert len(typed) >= 15
    for reason in ELSEWHERE.values():
        for file in re.findall(r"tests/[\w/]+(?:\.py)?", reason):
            assert (ROOT / file).exists(), file


def test_a_line_that_fails_is_found(desk: Desk) -> None:
    with pytest.raises(AssertionError, match="twotower evaluate --bundle nowhere"):
        desk.type("twotower evaluate --bundle nowhere --events events.parquet --items items.parquet")
