"""Bodies made by a fuzzer that looks for ones that take new ways through the service: none may be answered with a 5xx.

`python -m tests.service.faults.fuzz STORE CORPUS SECONDS PATHS...`; the corpus holds bodies to begin with, each behind a byte
that chooses the path. Ends with 0 when nothing was found, and else prints the body.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["service"]):
    from service.release.loading import load_release
    from service.settings import Settings
    from tests.service.conftest import Client, MemoryHistory


def main() -> None:
    """Fuzz until the time is up."""
    store, corpus, seconds, *paths = sys.argv[1:]
    settings = Settings(store=Path(store), torch_threads=1)
    with Client(settings, load_release(Path(store)), MemoryHistory()) as client:

        def answer(data: bytes) -> None:
            path, body = paths[data[0] % len(paths) if data else 0], data[1:]
            response = client.post_raw(path, body)
            assert response.status_code < 500, f"{path} answered {response.status_code} to {body!r}: {response.text}"

        options = (f"-max_total_time={seconds}", f"-artifact_prefix={corpus}/found-", "-timeout=20", "-max_len=4096")
        atheris.Setup([sys.argv[0], corpus, *options], answer)
        atheris.Fuzz()  # which ends the process


if __name__ == "__main__":
    main()
