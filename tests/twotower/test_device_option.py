"""`--device` is one option in four commands."""

import subprocess
import sys
from argparse import ArgumentParser

import pytest

from twotower.device_option import WANTED, add_device_option


@pytest.mark.parametrize("wanted", WANTED)
def test_it_takes_each_kind_of_device(wanted: str) -> None:
    parser = ArgumentParser()
    add_device_option(parser, default="cpu")
    assert parser.parse_args([]).device == "cpu"
    assert parser.parse_args(["--device", wanted]).device == wanted


def test_it_refuses_another_word(capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser()
    add_device_option(parser, default=None, told_default="cpu")
    with pytest.raises(SystemExit):
        parser.parse_args(["--device", "gpu"])
    assert "invalid choice: 'gpu'" in capsys.readouterr().err
    assert "(cpu)" in parser.format_help()


def test_a_parser_that_has_it_need_not_load_torch() -> None:
    code = "import sys, twotower.device_option; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
