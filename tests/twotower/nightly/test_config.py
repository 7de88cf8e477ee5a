"""nightly.toml: a wrong name is named, with the one that was meant."""

from pathlib import Path

import pytest

from twotower.errors import DataError
from twotower.nightly.config import load_config

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
