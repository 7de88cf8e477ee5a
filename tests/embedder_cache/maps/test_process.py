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
from embedder_cache.maps import process
from embedder_cache.maps.drawing import draw, draw_known
from embedder_cache.maps.process import Drawn, MapOptions, draw_aside
from twotower.artefacts.bundle import load_bundle
from twotower.artefacts.release import list_releases, read_pointer, release_path, verify_release
from twotower.data.features import Floats
from twotower.errors import DataError
from twotower.maps.item_map import MAP, read_map

KILLED = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
BROKEN = "raise RuntimeError('numba is broken')"
ENDLESS = "import time; time.sleep(600)"
GARBAGE = "print('{')"
MISSING = "raise ModuleNotFoundError('no umap', name='umap')"


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose modules the process finds before all others."""
    path = os.environ.get("PYTHONPATH", str(Path(__file__).parents[3]))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'fake'}{os.pathsep}{path}")
    (tmp_path / "fake").mkdir()
    return tmp_path / "fake"


@pytest.fixture
def program(fake: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a program that runs in place of the process that draws."""
    monkeypatch.setattr(process, "_ENTRY", "in_its_place")
    return fake / "in_its_place.py"


@pytest.fixture
def release(tiny_store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(release_path(tiny_store, read_pointer(tiny_store).release), tmp_path / "release"))


def two_columns(units_MD: Floats, start_M2: Floats | None) -> Floats:
    return units_MD[:, :2]


def draw_here(directory: Path, served: Path | None, options: MapOptions, how: str) -> Drawn | str:
    """Draws in this process, with a fake in place of UMAP. No places can be computed again: that is how it fails."""
    if how == "keep":
        assert served
        drawn = draw_known(directory, served, options.colour)
    elif served and (np.load(served / "vectors.npy") != np.load(directory / "vectors.npy")).any():
        return "RuntimeError: numba is broken"
    else:
        drawn = draw(directory, served, options.colour, two_columns)
    info = drawn.info
    return Drawn(num_points=len(drawn), num_items=info.num_items, num_placed=info.num_placed, colour=info.colour_column)


def test_umap_keeps_kinds_together(release: Path) -> None:
    """The embeddings are made three heaps: every point's nearest on the map is of its own heap."""
    vectors_NV = np.load(release / "vectors.npy")
    heaps_N = np.arange(400) % 3
    noise_ND = np.random.default_rng(0).normal(scale=0.2, size=(400, 32))
    vectors_NV[:, :32] = 3 * np.eye(32)[heaps_N] + noise_ND
    np.save(release / "vectors.npy", vectors_NV)
    drawn, trouble = draw_aside(release, None, MapOptions())
    assert trouble is None
    assert drawn is not None
    assert (drawn.num_points, drawn.num_placed, drawn.colour) == (400, 0, "department")
    drawn_map = read_map(release / MAP, 400)
    places_M2, heaps_M = drawn_map.places_M2.astype(float), heaps_N[drawn_map.rows_M]
    apart_MM = ((places_M2[:, None] - places_M2[None]) ** 2).sum(2)
    np.fill_diagonal(apart_MM, np.inf)
    assert (heaps_M[apart_MM.argmin(1)] == heaps_M).all()


@pytest.mark.faults  # two starts of a compiler
def test_umap_gives_the_same_map_each_time(release: Path, tmp_path: Path) -> None:
    again = Path(shutil.copytree(release, tmp_path / "again"))
    for directory in (release, again):
        assert draw_aside(directory, None, MapOptions())[1] is None
    assert (release / MAP).read_bytes() == (again / MAP).read_bytes()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (KILLED, "its process ended with -9"),
        (BROKEN, "RuntimeError: numba is broken"),
        (ENDLESS, "it took longer than 1 s"),
        (GARBAGE, "Input data was truncated"),
    ],
    ids=["killed", "broken", "endless", "garbage"],
)
def test_what_goes_wrong_is_said_and_leaves_no_map(
    release: Path, program: Path, content: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "LIMIT_S", 1 if content == ENDLESS else 60)
    program.write_text(content)
    (release / MAP).write_bytes(b"half a map")
    drawn, trouble = draw_aside(release, None, MapOptions())
    assert (drawn, trouble) == (None, f"this release has no map: {told}")
    assert not (release / MAP).exists()


def test_without_umap_the_extra_that_brings_it_is_named(release: Path, fake: Path) -> None:
    (fake / "umap.py").write_text(MISSING)
    told = "this release has no map: it needs the package 'umap': pip install 'twotower[map]'"
    assert draw_aside(release, None, MapOptions()) == (None, told)


def test_a_night_that_cannot_compute_places_keeps_those_there_were(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_run", draw_here)
    assert draw_aside(release, None, MapOptions())[1] is None
    tonight = Path(shutil.copytree(release, tmp_path / "tonight"))
    np.save(tonight / "vectors.npy", np.load(tonight / "vectors.npy")[:, ::-1])  # of another embedder
    drawn, trouble = draw_aside(tonight, release, MapOptions())
    assert trouble == "the map keeps its places of the night before, without new items: RuntimeError: numba is broken"
    assert drawn is not None
    np.testing.assert_array_equal(read_map(tonight / MAP, 400).places_M2, read_map(release / MAP, 400).places_M2)


def test_a_release_with_a_map_is_published_once_and_lists_it(
    tiny_shop: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_run", draw_here)
    arguments = ["--bundle", tiny_bundle, "--items", tiny_shop / "items.parquet", "--store", tmp_path / "store", "--map"]
    assert main([str(argument) for argument in arguments]) == 0
    assert "400 points, coloured by department; all places computed" in capsys.readouterr().err
    assert main([str(argument) for argument in arguments]) == 0
    assert "nothing changed" in capsys.readouterr().err
    (release,) = list_releases(tmp_path / "store")
    manifest, _ = verify_release(release_path(tmp_path / "store", release))
    assert MAP in manifest.files


def test_a_release_whose_map_failed_is_published_without_it(
    program: Path, tiny_shop: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program.write_text(BROKEN)
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


def test_the_process_ends_with_the_job_that_started_it(release: Path, fake: Path) -> None:
    (fake / "umap.py").write_text("print('here', flush=True)\n" + ENDLESS)
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
