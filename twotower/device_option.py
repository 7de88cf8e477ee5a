"""The option `--device`, which `train`, `evaluate`, `embed` and `serve` share. Does not import torch, which takes a second."""

from argparse import ArgumentParser
from typing import Literal, get_args

Wanted = Literal["cpu", "cuda", "auto"]
WANTED: tuple[Wanted, ...] = get_args(Wanted)
_HELP = "compute on the CPU, on a GPU, or on a GPU if there is one that can be used"


def add_device_option(parser: ArgumentParser, default: Wanted | None, told_default: str = "") -> None:
    """Add `--device`. `told_default` is shown in its help where the default is found elsewhere, as in the settings."""
    parser.add_argument("--device", choices=WANTED, default=default, help=f"{_HELP} ({told_default or default})")
