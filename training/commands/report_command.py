"""`twotower report`: write an HTML page about a run."""

import argparse
import os
import sys
from pathlib import Path

PAGE = "report.html"


def main(argv: list[str]) -> int:
    """Write RUN/report.html, one file that needs no network, and open it."""
    parser = argparse.ArgumentParser(prog="twotower report", description=main.__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="directory BUNDLE.run that `twotower train` leaves, or the bundle")
    parser.add_argument("--no-open", action="store_true", help="write the page without opening it")
    args = parser.parse_args(argv)

    from training.report.page import render
    from training.report.run_record import read_run
    from twotower.report.page import save, written_to

    run = read_run(args.run)
    path = run.directory / PAGE
    written_to(run.directory, lambda: run.directory.mkdir(exist_ok=True))
    save(path, render(run))
    print(path)
    if not args.no_open and can_show():
        import webbrowser

        webbrowser.open(path.resolve().as_uri())
    return 0


def can_show() -> bool:
    """Whether there is a graphical display. Without one, Python would start a text browser, which takes over the terminal."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
