import tomllib
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from service.http.keys import KeyRing
from service.keys_command import main
from service.telemetry.metrics import Metrics
from twotower.errors import DataError


def test_the_key_that_is_printed_opens_what_its_entry_says(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for key_id in ("web", "app"):
        scopes = ["--scopes", "recommend,events:write", "--days", "90", "--rate", "50"]
        assert main(["new", "--id", key_id, *scopes]) == 0
    printed = capsys.readouterr().out
    path = tmp_path / "keys.toml"
    path.write_text(printed)  # all of it: what is not the entry is a comment
    tokens = [line.removeprefix("# ") for line in printed.splitlines() if line.startswith(("# web.", "# app."))]
    keys = KeyRing(path, Metrics(CollectorRegistry()))
    for token, key_id in zip(tokens, ("web", "app"), strict=True):
        key = keys.identify({b"x-api-key": token.encode()})
        assert (key.id, key.rate, sorted(key.scopes)) == (key_id, 50, ["events:write", "recommend"])
        assert token.partition(".")[2] not in str(tomllib.loads(printed))


def test_a_key_has_a_random_name_unless_it_is_given_one(capsys: pytest.CaptureFixture[str]) -> None:
    main(["new", "--scopes", "recommend"])
    main(["new", "--scopes", "recommend"])
    first, second = [entry["id"] for entry in tomllib.loads(capsys.readouterr().out.replace("[[keys]]", "[[keys]]"))["keys"]]
    assert first != second


@pytest.mark.parametrize(
    "wrong", [["--scopes", "everything"], ["--scopes", "admin", "--id", "a b"], ["--scopes", "admin", "--rate", "0"]]
)
def test_what_is_no_key_is_refused(wrong: list[str]) -> None:
    with pytest.raises(DataError, match="Scopes are recommend, events:write"):
        main(["new", *wrong])
