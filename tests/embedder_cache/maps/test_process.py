"""The process that draws: UMAP itself once, and every way in which it can fail. The release goes out all the same."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from embedder_cache.build import build_release
from embedder_cache.commands.embed_command import main
from embedder_cache.maps.process import MapOptions, draw_aside
from twotower.artefacts.bundle import load_bundle
from twotower.artefacts.release import list_releases, read_pointer, release_path, verify_release
from twotower.errors import DataError
from twotower.maps.item_map import MAP, read_map

# What stands in the place of UMAP, so that no test waits for its compiler.
FAKE = """
class UMAP:
    def __init__(self, init, **options):
        self.places = init

    def fit_transform(self, vectors):
        return self.places
"""
MISSING = "raise ModuleNotFoundError('no umap', name='umap')"
KILLED = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
BROKEN = "raise RuntimeError('numba is broken')"
ENDLESS = "import time; time.sleep(600)"
NAN = FAKE.replace("return self.places", "return self.places * float('nan')")


@pytest.fixture
def umap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the process takes for UMAP."""
    (tmp_path / "fake").mkdir()
    path = os.environ.get("PYTHONPATH", str(Path(__file__).parents[3]))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'fake'}{os.pathsep}{path}")
    return tmp_path / "fake" / "umap.py"


@pytest.fixture
def release(tiny_store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(release_path(tiny_store, read_pointer(tiny_store).release), tmp_path / "release"))


def test_umap_keeps_kinds_together_and_is_the_same_each_time(release: Path, tmp_path: Path) -> None:
    """The embeddings are made three heaps: every point's nearest on the map is of its own heap."""
    vectors_NV = np.load(release / "vectors.npy")
    heaps_N = np.arange(400) % 3
    noise_ND = np.random.default_rng(0).normal(scale=0.2, size=(400, 32))
    vectors_NV[:, :32] = 3 * np.eye(32)[heaps_N] + noise_ND
    np.save(release / "vectors.npy", vectors_NV)
    again = Path(shutil.copytree(release, tmp_path / "again"))
    for directory in (release, again):
        drawn, trouble = draw_aside(directory, None, MapOptions())
        assert trouble is None
        assert drawn is not None
        assert (drawn.num_points, drawn.num_placed, drawn.colour) == (400, 0, "department")
    drawn_map = read_map(release / MAP, 400)
    places_M2, heaps_M = drawn_map.places_M2.astype(float), heaps_N[drawn_map.rows_M]
    apart_MM = ((places_M2[:, None] - places_M2[None]) ** 2).sum(2)
    np.fill_diagonal(apart_MM, np.inf)
    assert (heaps_M[apart_MM.argmin(1)] == heaps_M).all()
    assert (release / MAP).read_bytes() == (again / MAP).read_bytes()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (MISSING, "this release has no map: it needs the package 'umap': pip install 'twotower[map]'"),
        (KILLED, "this release has no map: its process ended with -9"),
        (BROKEN, "this release has no map: RuntimeError: numba is broken"),
        (ENDLESS, "this release has no map: it took longer than 4 s"),
        (NAN, "this release has no map: UMAP gave places that are no numbers"),
    ],
    ids=["missing", "killed", "broken", "endless", "nan"],
)
def test_what_goes_wrong_is_said_and_leaves_no_map(release: Path, umap: Path, content: str, told: str) -> None:
    umap.write_text(content)
    drawn, trouble = draw_aside(release, None, MapOptions(limit_s=4 if content == ENDLESS else 60))
    assert (drawn, trouble) == (None, told)
    assert not (release / MAP).exists()


def test_a_night_that_cannot_compute_places_keeps_those_there_were(release: Path, umap: Path, tmp_path: Path) -> None:
    umap.write_text(FAKE)
    assert draw_aside(release, None, MapOptions())[1] is None
    tonight = Path(shutil.copytree(release, tmp_path / "tonight"))
    (tonight / MAP).unlink()
    np.save(tonight / "vectors.npy", np.load(tonight / "vectors.npy")[:, ::-1])  # of another embedder
    umap.write_text(BROKEN)
    drawn, trouble = draw_aside(tonight, release, MapOptions())
    assert trouble == "the map keeps its places of the night before, without new items: RuntimeError: numba is broken"
    assert drawn is not None
    np.testing.assert_array_equal(read_map(tonight / MAP, 400).places_M2, read_map(release / MAP, 400).places_M2)


def test_a_release_with_a_map_is_published_once_and_lists_it(
    umap: Path, tiny_shop: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    umap.write_text(FAKE)
    arguments = ["--bundle", tiny_bundle, "--items", tiny_shop / "items.parquet", "--store", tmp_path / "store", "--map"]
    assert main([str(argument) for argument in arguments]) == 0
    assert "400 points, coloured by department; all places computed" in capsys.readouterr().err
    umap.write_text(BROKEN)  # and not asked for: no place changes
    assert main([str(argument) for argument in arguments]) == 0
    assert "nothing changed" in capsys.readouterr().err
    (release,) = list_releases(tmp_path / "store")
    manifest, _ = verify_release(release_path(tmp_path / "store", release))
    assert MAP in manifest.files


def test_a_release_whose_map_failed_is_published_without_it(
    umap: Path, tiny_shop: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    umap.write_text(BROKEN)
    items, store = tiny_shop / "items.parquet", tmp_path / "store"
    published = build_release(load_bundle(tiny_bundle), items, store, None, map_options=MapOptions())
    assert (published.changed, published.num_points) == (True, 0)
    warnings = [line for line in capsys.readouterr().err.splitlines() if "WARNING" in line and "map" in line]
    assert warnings == ["  WARNING: this release has no map: RuntimeError: numba is broken"]
    manifest, _ = verify_release(release_path(store, published.release))
    assert MAP not in manifest.files


def test_a_column_that_cannot_colour_is_refused_before_anything_is_embedded(
    tiny_shop: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"--map-colour 'price' is no categorical feature of the items \(these are: department\)"):
        build_release(
            load_bundle(tiny_bundle), tiny_shop / "items.parquet", tmp_path, None, map_options=MapOptions(colour="price")
        )
    assert not (tmp_path / "releases").exists()


def test_the_process_ends_with_the_job_that_started_it(release: Path, umap: Path) -> None:
    umap.write_text("print('here', flush=True)\n" + ENDLESS)
    program = (
        "import os, sys; from pathlib import Path; from embedder_cache.maps import process; "
        "real = process.subprocess.run; "
        "process.subprocess.run = lambda command, **options: real(command, **options | {'capture_output': False}); "
        f"process.draw_aside(Path({str(release)!r}), None, process.MapOptions())"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, start_new_session=True) as job:
        assert job.stdout
        assert job.stdout.readline() == b"here\n"
        job.send_signal(signal.SIGKILL)
        started = time.monotonic()
        assert job.stdout.read() == b""  # the end of the process too, which holds the same pipe
        assert time.monotonic() - started < 30


def test_only_the_process_that_draws_imports_umap() -> None:
    imports = "import sys, embedder_cache.build, embedder_cache.maps.drawing, service.app"
    code = f"{imports}; print([name for name in sys.modules if name in ('umap', 'numba')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
