"""An operator types the page on operations: a night, a trial by hand, going back, forgetting a user.

Left out is what needs a container engine or a cluster (tests/deploy checks those files), the load test, whose command builds the
demo (tests/loadtests has its parts), and the checks of Prometheus's files (tests/deploy/prometheus).
"""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.documents import ROOT, blocks
from tests.test_walkthrough import Terminal
from twotower.artefacts.release import current_release, read_pointer

PAGE = (ROOT / "docs/operations.md").read_text()
GATES = "overlap20_same_bundle = 0.05\nsearch_p99_ms = 1000\n"  # the shop is small, and its towers are not trained
HERE = {
    "seconds = 1800": "seconds = 2",
    'recipe = "demo"\nminutes = 30': 'bundle = "bundle"\nevery_days = 1000',
    'store = "store"': 'store = "store"\ngates = "gates.toml"',
    "days = 400": "days = 40_000",  # its events are of 2025
}
ID = "release-0123456789ab"  # that of the page

pytestmark = pytest.mark.timeout(400)  # some ten commands, each of which loads torch


class Operator:
    """Types what stands under a heading of the page, and has the shop of the page in one directory."""

    def __init__(self, home: Path) -> None:
        self.home, self.terminal = home, Terminal(home)

    def settings(self, servers: str) -> None:
        """The page's file, with this shop's bundle and a trial of two seconds."""
        (text,) = [block.text for block in blocks(PAGE) if block.kind == "toml"]
        for said, here in HERE.items():
            assert said in text
            text = text.replace(said, here)
        (self.home / "nightly.toml").write_text(text.replace('["http://127.0.0.1:9000"]', servers))

    def lines(self, heading: str) -> list[str]:
        """The command lines of the first block of commands under a heading."""
        section = PAGE[PAGE.index(f"\n{heading}\n") :]
        return next(block.text for block in blocks(section) if block.kind == "sh").splitlines()

    def type(self, line: str, release: str = ID) -> str:
        line = line.replace(ID, release).replace("localhost:9000", self.terminal.address)
        return self.terminal.type(line)

    @property
    def current(self) -> str | None:
        return current_release(str(self.home / "store"))

    def catalogue_changes(self) -> None:
        path = self.home / "items.parquet"
        items = pq.read_table(path)
        dearer = pc.multiply(items["price"], 1.1)
        pq.write_table(items.set_column(items.column_names.index("price"), "price", dearer), path)


@pytest.fixture(scope="module")
def operator(tiny_shop: Path, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    home = tmp_path_factory.mktemp("operations") / "shop"
    shutil.copytree(tiny_shop, home)
    shutil.copytree(tiny_bundle, home / "bundle")
    (home / "gates.toml").write_text(GATES)
    (home / "export.sh").write_text("#!/bin/sh\n")
    (home / "export.sh").chmod(0o755)
    operator = Operator(home)
    yield operator
    operator.terminal.close()


def test_the_page_can_be_typed(operator: Operator) -> None:
    night, status = operator.lines("## The nightly routine")
    operator.settings(servers="[]")
    operator.type(night)
    first = operator.current
    assert first is not None
    assert re.search(r"promote\W+done", operator.type(status))

    operator.terminal.type("twotower serve --store store --history sqlite:///history.db --port 8000")
    embed, propose, releases, activate = operator.lines("## The canary")
    operator.catalogue_changes()
    aside = operator.type(embed.replace("--aside", "--aside --gates gates.toml"))
    (proposed,) = set(re.findall(r"release-[0-9a-f]{12}", aside)) - {first}
    assert operator.current == first, "what is served is as before"
    operator.type(propose, proposed)
    assert read_pointer(str(operator.home / "store")).release == first
    answer = json.loads(operator.type(releases))
    assert "trial" in json.dumps(answer)
    operator.type(activate, proposed)
    assert operator.current == proposed

    rollback, status = operator.lines("## Going back")
    operator.type(rollback)
    assert operator.current == first
    operator.type(status)

    (delete,) = operator.lines("## Deleting a user")
    user = pq.read_table(operator.home / "events.parquet")["user_id"][0].as_py()
    delete = delete.split(" --server")[0].replace("--user ID", f"--user {user}")
    said = operator.type(delete)
    assert str(user) not in said
    assert user not in pq.read_table(operator.home / "events.parquet")["user_id"].to_pylist()
