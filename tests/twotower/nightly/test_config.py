"""nightly.toml: a wrong name is named, with the one that was meant."""

import re
from pathlib import Path
from typing import get_type_hints

import pytest
from msgspec import Struct

from tests.documents import ROOT, blocks, tables
from twotower.errors import DataError
from twotower.nightly.config import Config, load_config

PAGE = ROOT / "docs/operations.md"

MINIMAL = """
[data]
events = "events.parquet"
items = "items.parquet"
schema = "schema.toml"

[release]
store = "store"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "nightly.toml"
    path.write_text(text)
    return path


def test_files_and_store_are_enough(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, MINIMAL))
    assert (config.release.store, config.nights, config.train.every_days, config.canary.servers) == ("store", "nights", 7, ())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (MINIMAL + 'stroe = "x"', r"in \[release\], there is no 'stroe'\. Did you mean 'store'\?"),
        (MINIMAL + "[cannary]\npercent = 5", r"there is no 'cannary'\. Did you mean 'canary'\?"),
        (MINIMAL + "[canary]\nxyzzy = 5", r"in \[canary\], there is no 'xyzzy'\. Known are servers, "),
        (MINIMAL + "[canary]\npercent = 500", r"<= 100.*\$\.canary\.percent"),
        (MINIMAL + '[canary]\nservers = ["localhost:9000"]', r"'localhost:9000' needs http://"),
        (MINIMAL + '[canary]\nservers = ["dns+localhost:9000"]', r"'dns\+localhost:9000' needs http://"),
        (MINIMAL + '[canary]\nservers = ["dns+https://servers:9000"]', r"certificates are for names"),
        (MINIMAL + 'device = "gpu"', r"Invalid enum value 'gpu'.*\$\.release\.device"),
        (MINIMAL + '[warm]\nhistory = "sqlite:///h.db"', r"\[warm\] needs both"),
        ("[data]", r"missing required field"),
        ("[data", r"is not TOML"),
    ],
)
def test_what_is_wrong_with_the_file_is_said(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(DataError, match=told):
        load_config(written(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*nightly\.toml: No such file or directory.*--config"):
        load_config(tmp_path / "nightly.toml")


def test_the_file_that_the_page_shows_is_one(tmp_path: Path) -> None:
    (shown,) = (block.text for block in blocks(PAGE.read_text()) if block.kind == "toml")
    config = load_config(written(tmp_path, shown))
    assert (config.canary.servers, config.retention.days) == (("http://127.0.0.1:9000",), 400)


def test_the_page_has_every_setting_and_no_other() -> None:
    (table,) = (table for table in tables(PAGE.read_text()) if table[0][:2] == ["table", "name"])
    told: dict[str, set[str]] = {}
    section = ""
    for cells in table[1:]:
        section = cells[0].strip("`[]") or section
        told.setdefault(section, set()).update(re.findall(r"`([^`]+)`", cells[1]))
    inner = {name: kind for name, kind in get_type_hints(Config).items() if isinstance(kind, type) and issubclass(kind, Struct)}
    assert told == {"": {"nights", "metrics"}} | {name: set(kind.__struct_fields__) for name, kind in inner.items()}
