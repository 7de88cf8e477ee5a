"""The kinds for GPUs on a stand-in of FAISS for GPUs, which has the recorded surface and the habits of the real one."""

import ast
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch

from tests.twotower.index import faiss_gpu
from tests.twotower.index.faiss_gpu import GPU_WHEEL, STANDING_IN, everything, free_on_gpu, recorded, stand_in
from tests.twotower.index.test_search import clustered, queries_for, reference
from twotower.data.features import Floats
from twotower.device import ON_CPU, Device
from twotower.errors import EnvironmentProblem, ReleaseMismatch
from twotower.index import gpu as gpu_module
from twotower.index.files import open_index, write_index
from twotower.index.gpu import GpuFinder, gpu_of
from twotower.index.gpu_memory import TEMPORARY_BYTES, built_bytes, held_bytes
from twotower.index.kinds import FAISS, GPU_KINDS, GpuKind, IndexInfo
from twotower.index.search import Index

ROOT = Path(__file__).parents[3]
GPU = Device(torch.device("cuda", 0))
EFFORT: dict[GpuKind, int] = {"gpu_flat16": 0, "gpu_ivfpq": 1000, "gpu_cagra": 1000}
K = 20


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)


def vectors_of(num_items: int = 2_000) -> Floats:
    return clustered(num_items, num_popularity=2)


WRITTEN: dict[tuple[GpuKind, bytes], bytes] = {}  # files by kind and vectors, because training takes the most time here


def write(directory: Path, vectors_NV: Floats, kind: GpuKind) -> None:
    key, file = (kind, vectors_NV.tobytes()), directory / FAISS
    if key not in WRITTEN:
        write_index(directory, vectors_NV, vectors_NV.shape[1] - 2, kind, GPU)
        WRITTEN[key] = file.read_bytes() if file.exists() else b""
    elif WRITTEN[key]:
        file.write_bytes(WRITTEN[key])


def make(directory: Path, vectors_NV: Floats, kind: GpuKind) -> Index:
    width = vectors_NV.shape[1] - 2
    write(directory, vectors_NV, kind)
    return open_index(directory, vectors_NV, width, IndexInfo(kind=kind, effort=EFFORT[kind]), GPU)


def finder_of(index: Index) -> GpuFinder:
    assert isinstance(index.finder, GpuFinder)
    return index.finder


def recall(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.mean([np.isin(e, f).mean() for e, f in zip(expected, found, strict=True)]))


@pytest.mark.usefixtures("one_gpu")
@pytest.mark.parametrize("kind", GPU_KINDS)
class TestAnswers:
    def test_nearly_all_of_the_best_are_found_and_their_scores_are_exact(self, kind: GpuKind, tmp_path: Path) -> None:
        vectors = vectors_of()
        queries = queries_for(vectors, K)
        rows, scores = make(tmp_path, vectors, kind).search(queries, K)
        assert recall(rows, reference(vectors, queries, K)[0]) >= 0.95
        exact = (queries.astype(np.float64) @ vectors.T.astype(np.float64)).astype(np.float32)
        np.testing.assert_array_equal(scores, np.take_along_axis(exact, rows, 1))

    def test_vectors_beyond_the_range_of_float16_are_found_too(self, kind: GpuKind, tmp_path: Path) -> None:
        vectors = vectors_of() * np.float32(1e5)
        queries = queries_for(vectors, K) * np.float32(1e5)
        rows, _ = make(tmp_path, vectors, kind).search(queries, K)
        assert recall(rows, reference(vectors, queries, K)[0]) >= 0.95

    @pytest.mark.parametrize("share", [0.9, 0.3])
    def test_a_filter_leaves_out_rows_and_no_result(self, kind: GpuKind, share: float, tmp_path: Path) -> None:
        vectors = vectors_of()
        queries, allowed = queries_for(vectors, K), np.random.default_rng(0).random(2_000) < share
        rows, _ = make(tmp_path, vectors, kind).search(queries, K, allowed)
        assert recall(rows, reference(vectors, queries, K, allowed)[0]) >= 0.95
        assert allowed[rows].all()

    def test_a_filter_that_allows_only_the_farthest_rows_is_answered(self, kind: GpuKind, tmp_path: Path) -> None:
        vectors = vectors_of(2_500)  # more than a GPU index returns
        queries = queries_for(vectors, 1)
        allowed = np.isin(np.arange(2_500), np.argsort(vectors @ queries[0])[:400])
        rows, _ = make(tmp_path, vectors, kind).search(queries, K, allowed)
        assert recall(rows, reference(vectors, queries, K, allowed)[0]) >= 0.95

    def test_the_past_items_of_a_whole_batch_are_left_out_in_one_search(
        self, kind: GpuKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        vectors = vectors_of()
        queries, index = queries_for(vectors, 4), make(tmp_path, vectors, kind)
        best = reference(vectors, queries, 100)[0]
        without = [best[0], best[1][:3], best[2][:0], best[3][:50]]
        searches, search = list[int](), finder_of(index)._index.search

        def counted(queries_QW: Floats, k: int, params: object) -> tuple[Floats, Floats]:
            searches.append(len(queries_QW))
            found: tuple[Floats, Floats] = search(queries_QW, k, params=params)
            return found

        monkeypatch.setattr(finder_of(index)._index, "search", counted)
        rows, _ = index.search(queries, K, without=without)
        assert searches == [4]
        assert recall(rows, reference(vectors, queries, K, without=without)[0]) >= 0.95
        assert not any(np.isin(row, left_out).any() for row, left_out in zip(rows, without, strict=True))

    def test_more_results_than_a_gpu_returns_are_completed_by_an_exact_search(self, kind: GpuKind, tmp_path: Path) -> None:
        vectors = vectors_of(2_500)
        queries, index = queries_for(vectors, 2), make(tmp_path, vectors, kind)
        expected = reference(vectors, queries, 2_400)[0]
        np.testing.assert_array_equal(index.search(queries, 2_400)[0], expected)
        left_out = [np.arange(5), np.arange(7)]
        expected = reference(vectors, queries, 2_400, without=left_out)[0]
        np.testing.assert_array_equal(index.search(queries, 2_400, without=left_out)[0], expected)

    def test_a_query_of_zeros_is_no_error(self, kind: GpuKind, tmp_path: Path) -> None:
        rows, scores = make(tmp_path, vectors_of(), kind).search(np.zeros((1, 14), np.float32), K)
        assert len(set(rows[0].tolist())) == K
        assert not scores.any()

    def test_threads_take_turns(self, kind: GpuKind, tmp_path: Path) -> None:
        """A StandardGpuResources serves one caller at a time; the stand-in fails at two."""
        vectors, failures = vectors_of(), list[BaseException]()
        queries, index = queries_for(vectors, 8), make(tmp_path, vectors, kind)

        def ask() -> None:
            try:
                for _ in range(10):
                    index.search(queries, K)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []

    def test_each_open_index_has_resources_of_its_own_with_the_memory_that_is_counted(
        self, kind: GpuKind, tmp_path: Path
    ) -> None:
        vectors = vectors_of()
        one, other = (finder_of(make(tmp_path, vectors, kind)) for _ in range(2))
        assert one._kept[0] is not other._kept[0]
        assert one._kept[0].temporary_bytes == TEMPORARY_BYTES
        assert one.num_bytes == held_bytes(kind, 2_000, 14, 12)

    def test_a_gpu_without_room_is_named_with_what_is_needed(
        self, kind: GpuKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        vectors = vectors_of()
        write(tmp_path, vectors, kind)
        free_on_gpu(monkeypatch, held_bytes(kind, 2_000, 14, 12) - 1)
        said = rf"an index of the kind {kind} would take 0\.5 GiB on the GPU, and 0\.5 GiB are free: free memory on it, or take"
        with pytest.raises(EnvironmentProblem, match=said):
            open_index(tmp_path, vectors, 12, IndexInfo(kind=kind), GPU)
        free_on_gpu(monkeypatch, built_bytes(kind, 2_000, 14, 12) - 1)
        with pytest.raises(EnvironmentProblem, match=said):
            write_index(tmp_path, vectors, 12, kind, GPU)

    def test_a_machine_without_a_gpu_is_named(self, kind: GpuKind, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
        with pytest.raises(EnvironmentProblem, match=f"{kind} needs cuda:0, and FAISS sees 0 GPUs: check the driver, or take"):
            gpu_of(kind, GPU)

    def test_the_cpu_as_device_is_named(self, kind: GpuKind) -> None:
        with pytest.raises(EnvironmentProblem, match=f"{kind} needs a GPU: use --device cuda, or take"):
            gpu_of(kind, ON_CPU)

    def test_an_error_of_faiss_is_one_sentence(self, kind: GpuKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        vectors = vectors_of()
        write(tmp_path, vectors, kind)
        mover = "GpuIndexFlatIP" if kind == "gpu_flat16" else "index_cpu_to_gpu"
        monkeypatch.setattr(faiss, mover, raising(RuntimeError("Error in cudaMalloc\n  out of memory")))
        with pytest.raises(EnvironmentProblem, match=f"moving {kind} failed on the GPU: Error in cudaMalloc out of memory"):
            open_index(tmp_path, vectors, 12, IndexInfo(kind=kind), GPU)


def raising(error: Exception) -> Callable[..., object]:
    def fail(*_: object) -> object:
        raise error

    return fail


@pytest.mark.usefixtures("one_gpu")
@pytest.mark.parametrize("kind", ["gpu_ivfpq", "gpu_cagra"])
class TestFiles:
    def test_rows_that_are_lost_on_the_way_are_noticed(
        self, kind: GpuKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As `index_cpu_to_all_gpus` loses all of them where there is no GPU."""
        vectors = vectors_of()
        write(tmp_path, vectors, kind)
        empty = faiss.IndexFlatL2(8)
        monkeypatch.setattr(faiss, "index_cpu_to_gpu", lambda *_: empty)
        with pytest.raises(EnvironmentProblem, match="that was moved to the GPU has 0 rows of 2,000: check the GPU's driver"):
            open_index(tmp_path, vectors, 12, IndexInfo(kind=kind), GPU)
        monkeypatch.setattr(faiss, "index_gpu_to_cpu", lambda _: empty)
        with pytest.raises(EnvironmentProblem, match="that was copied from the GPU has 0 rows of 2,000: check the GPU's driver"):
            write_index(tmp_path, vectors, 12, kind, GPU)

    def test_an_index_of_other_vectors_is_refused(self, kind: GpuKind, tmp_path: Path) -> None:
        vectors = vectors_of()
        write(tmp_path, vectors, kind)
        for other in (vectors[:-1], np.concatenate([vectors[:, :12], vectors], 1)):
            with pytest.raises(ReleaseMismatch, match="it holds 2000 rows"):
                open_index(tmp_path, other, 12, IndexInfo(kind=kind), GPU)

    def test_an_index_of_another_kind_is_refused(self, kind: GpuKind, tmp_path: Path) -> None:
        vectors = vectors_of()
        write_index(tmp_path, vectors, 12, "hnsw")
        with pytest.raises(ReleaseMismatch, match="it is IndexHNSWSQ"):
            open_index(tmp_path, vectors, 12, IndexInfo(kind=kind), GPU)

    def test_a_damaged_file_is_refused(self, kind: GpuKind, tmp_path: Path) -> None:
        (tmp_path / "index.faiss").write_bytes(b"no index")
        with pytest.raises(ReleaseMismatch, match="Publish it again"):
            open_index(tmp_path, vectors_of(), 12, IndexInfo(kind=kind), GPU)

    def test_a_full_disk_is_an_error_of_the_disk(self, kind: GpuKind, tmp_path: Path) -> None:
        with pytest.raises(OSError, match="cannot write"):
            write_index(tmp_path / "missing", vectors_of(), 12, kind, GPU)


@pytest.mark.usefixtures("one_gpu")
def test_float16_rows_have_no_file(tmp_path: Path) -> None:
    make(tmp_path, vectors_of(), "gpu_flat16")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("one_gpu")
@pytest.mark.parametrize("kind", ["gpu_flat16", "gpu_ivfpq"])
@pytest.mark.parametrize("num_items", [1, 2, 17])
def test_a_tiny_catalogue_is_searched_too(kind: GpuKind, num_items: int, tmp_path: Path) -> None:
    vectors = vectors_of(num_items)
    queries = queries_for(vectors, 2)
    rows, scores = make(tmp_path, vectors, kind).search(queries, 5)
    expected = reference(vectors, queries, 5)
    np.testing.assert_array_equal(rows, expected[0])
    np.testing.assert_array_equal(scores, expected[1])


@pytest.mark.usefixtures("one_gpu")
def test_a_graph_of_few_items_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="gpu_cagra is for 1,000 items or more, not 999"):
        make(tmp_path, vectors_of(999), "gpu_cagra")


@pytest.mark.usefixtures("one_gpu")
def test_more_signals_than_codes_are_refused(tmp_path: Path) -> None:
    said = "gpu_ivfpq keeps a code for each of at most 94 dimensions of popularity and signals, not 95: take another kind"
    with pytest.raises(EnvironmentProblem, match=said):
        write_index(tmp_path, np.ones((300, 107), np.float32), 12, "gpu_ivfpq", GPU)


# What is installed.


def test_faiss_for_the_cpu_is_named() -> None:
    said = (
        r"faiss-cpu is installed, .* pip uninstall faiss-cpu, then pip install -c deploy/constraints_gpu.txt 'twotower\[gpu\]'$"
    )
    with pytest.raises(EnvironmentProblem, match=said):
        gpu_of("gpu_ivfpq", GPU)


@pytest.mark.usefixtures("one_gpu")
def test_a_build_without_cagra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(faiss, "GpuIndexCagra")
    said = r"faiss-gpu is installed, which has no CAGRA, .* pip install -c deploy/constraints_cagra.txt 'twotower\[cagra\]'$"
    with pytest.raises(EnvironmentProblem, match=said):
        gpu_of("gpu_cagra", GPU)
    assert gpu_of("gpu_ivfpq", GPU).number == 0


def test_a_missing_faiss_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(EnvironmentProblem, match=r"gpu_flat16 needs FAISS for GPUs: pip install .* 'twotower\[gpu\]'$"):
        gpu_of("gpu_flat16", GPU)


def test_a_missing_library_of_cuda_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """FAISS for GPUs raises a RuntimeError that names the package when it is imported without one."""
    (tmp_path / "faiss.py").write_text("raise RuntimeError('nvidia-cublas-cu12 is missing')")
    monkeypatch.delitem(sys.modules, "faiss")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EnvironmentProblem, match=r"cannot be imported \(nvidia-cublas-cu12 is missing\): pip install"):
        gpu_of("gpu_flat16", GPU)


@pytest.mark.usefixtures("one_gpu")
def test_the_second_gpu_can_be_taken_only_where_there_are_two(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EnvironmentProblem, match="needs cuda:1, and FAISS sees 1 GPUs"):
        gpu_of("gpu_flat16", Device(torch.device("cuda", 1)))
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 2)
    assert gpu_of("gpu_flat16", Device(torch.device("cuda", 1))).number == 1


# The recorded surface.


def test_whatever_is_used_of_faiss_is_on_the_recorded_surface() -> None:
    used = attributes_of(Path(gpu_module.__file__), {"faiss", "gpu.faiss", "self._faiss"})
    surface = everything()
    assert used - surface.classes.keys() - surface.functions.keys() - set(surface.constants) == set()
    without_cagra = recorded()[GPU_WHEEL]
    assert used - without_cagra.classes.keys() - without_cagra.functions.keys() - set(without_cagra.constants) == {
        "GpuIndexCagra",
        "GpuIndexCagraConfig",
        "SearchParametersCagra",
    }


def test_whatever_is_used_of_an_index_is_on_the_recorded_surface() -> None:
    used = attributes_of(Path(gpu_module.__file__), {"index", "saved", "self._index"})
    assert used >= {"ntotal", "train", "add", "search", "cp", "pq"}
    assert used <= everything().names_of("GpuIndexIVFPQ")
    assert used - {"cp", "pq"} <= everything().names_of("GpuIndexFlatIP") & everything().names_of("GpuIndexCagra")


def test_the_stand_in_has_nothing_that_the_wheels_lack() -> None:
    surface = everything()
    assert STANDING_IN.keys() <= surface.classes.keys() | surface.functions.keys() | set(surface.constants)
    for name in ("GpuIndexFlatIP", "GpuIndexIVFPQ", "GpuIndexCagra", "StandardGpuResources"):
        methods = {method for method in vars(STANDING_IN[name]) if not method.startswith("_")}
        assert methods <= surface.names_of(name), name
    with pytest.raises(AssertionError, match="GpuIndexFlatConfig has no use_float16"):
        faiss_gpu.GpuIndexFlatConfig().use_float16 = True


def attributes_of(file: Path, owners: set[str]) -> set[str]:
    nodes = (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Attribute))
    return {node.attr for node in nodes if ast.unparse(node.value) in owners}


@pytest.mark.wheels
@pytest.mark.timeout(1800)
def test_the_classes_of_the_real_wheel_take_what_they_are_given() -> None:
    folder = ROOT / "build" / "faiss-gpu"
    if not folder.exists():
        # Not its torch: that is the one installed here.
        packages = ["faiss-gpu", "nvidia-cublas-cu12", "nvidia-cuda-runtime-cu12", "nvidia-curand-cu12"]
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        constraints = {"PIP_CONSTRAINT": str(ROOT / "deploy" / "constraints_gpu.txt")}
        subprocess.run([*pip, *packages], check=True, env=os.environ | constraints)
    script = [sys.executable, "-m", "tests.twotower.index.with_faiss_gpu"]
    path = {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    ran = subprocess.run(script, cwd=ROOT, env=os.environ | path, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "as recorded\n"), ran.stderr
