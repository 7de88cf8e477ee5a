"""The house rules that a program can check."""

import ast
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

from twotower.cli import COMMANDS, DISTRIBUTIONS, PACKAGES

ROOT = Path(__file__).parents[1]
ROOMS = (*PACKAGES, "benchmarks", "loadtests", "deploy", "clients")
MAX_LINES, MAX_ROOM_LINES = 500, 1900
CODE = sorted(path for room in PACKAGES for path in (ROOT / room).rglob("*.py"))
EVERYTHING = sorted(path for room in (*ROOMS, "tests") for path in (ROOT / room).rglob("*.py"))
BENCHMARKS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if path.stem != "report")
CAPITALISED = {"ALICE", "CAGRA", "NVIDIA"}  # names that are written in capitals
CODE_LOADERS = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_imports_point_the_way_they_should() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    checked = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_no_import_runs_in_a_circle() -> None:
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    imported = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    TopologicalSorter(imported).prepare()  # CycleError names the modules of a circle


@pytest.mark.parametrize("room", sorted({path.parent for path in CODE if path.parent.parent != ROOT}), ids=relative)
def test_a_room_holds_several_files_and_can_be_read_in_an_afternoon(room: Path) -> None:
    files = [path for path in room.glob("*.py") if path.name != "__init__.py"]
    assert len(files) >= 2
    assert sum(len(path.read_text().splitlines()) for path in files) <= MAX_ROOM_LINES
    assert ast.get_docstring(ast.parse((room / "__init__.py").read_text())), "it says what the room is for"


def test_no_module_has_a_name_that_admits_anything() -> None:
    assert not [relative(p) for p in EVERYTHING if p.stem.lower() in ("utils", "util", "common", "helpers", "misc")]


def test_no_file_is_too_long_to_read() -> None:
    assert not [relative(p) for p in EVERYTHING if len(p.read_text().splitlines()) > MAX_LINES]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_names_a_function_that_exists(name: str) -> None:
    module, function = COMMANDS[name].target.split(":")
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("room", ROOMS)
def test_every_test_file_mirrors_what_it_tests(room: str) -> None:
    homeless = []
    for test in (ROOT / "tests" / room).rglob("test_*.py"):
        if test.parent.name == "faults":  # a fault is no module's: the name begins with its row
            continue
        tested = (ROOT / test.relative_to(ROOT / "tests")).parent
        stems = {path.stem.lower() for path in tested.glob("*")}
        if test.stem.removeprefix("test_") not in stems:
            homeless.append(relative(test))
    assert not homeless


# Files that need more than their package, and the extra it comes with. Other files import them inside a function only.
FURTHER = {
    "twotower/demo.py": "demo",
    "twotower/artefacts/object_store.py": "s3",
    "twotower/ray_cluster.py": "ray",
    "twotower/index/approximate.py": "cpu",
    "twotower/index/gpu.py": "cpu",  # whose module has the name of the GPU build's
    "twotower/index/milvus.py": "milvus",
    "twotower/report/charts.py": "train",
    "twotower/maps/fit.py": "map",
    "twotower/report/svg.py": "train",
    "embedder_cache/drift/page.py": "train",
    "embedder_cache/embedding/ray_engine.py": "ray",
    "training/sweeps/ray_engine.py": "ray",
    "service/telemetry/tracing.py": "otel",
}
EXTRAS = {"twotower": (), "training": ("train",), "embedder_cache": ("embed", "cpu"), "service": ("serve", "cpu")}


def test_a_stage_imports_only_the_libraries_of_its_extra() -> None:
    """So that an image needs no more than its own extra, and no file of it fails for want of another."""
    declared = distributions_of_extras()
    reached = {relative(path): reached_distributions(path) for path in CODE}
    for file, found in reached.items():
        extras = ("", *EXTRAS[file.partition("/")[0]], *([FURTHER[file]] if file in FURTHER else []))
        assert found <= set().union(*(declared[extra] for extra in extras)), file


def test_every_file_that_needs_more_than_its_package_does_need_it() -> None:
    declared = distributions_of_extras()
    for file, extra in FURTHER.items():
        package = set().union(*(declared[name] for name in ("", *EXTRAS[file.partition("/")[0]])))
        assert (reached_distributions(ROOT / file) - package) & declared[extra], file


def distributions_of_extras() -> dict[str, set[str]]:
    """Names of the distributions of each extra, and under "" those that are always installed, from pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = {"": project["dependencies"], **project["optional-dependencies"]}
    return {extra: {re.split(r"[^\w.-]", line)[0].replace("_", "-") for line in lines} for extra, lines in lists.items()}


def reached_distributions(path: Path) -> set[str]:
    """Distributions that a file imports anywhere, and those that files of ours need which it imports at module level."""
    anywhere, _ = imports_of(path)
    found, seen, waiting = set(anywhere), {path}, [path]
    while waiting:
        _, at_once = imports_of(waiting.pop())
        ours = {ROOT / f"{module.replace('.', '/')}.py" for module in at_once if module.partition(".")[0] in PACKAGES} - seen
        found |= at_once
        seen |= ours
        waiting += [file for file in ours if file.exists()]
    outside = {module.partition(".")[0] for module in found} - sys.stdlib_module_names - set(PACKAGES)
    return {DISTRIBUTIONS.get(name, name.replace("_", "-")) for name in outside}


@cache
def imports_of(path: Path) -> tuple[set[str], set[str]]:
    """Dotted names of the modules that a file imports anywhere, and of those that it imports when it is imported itself."""
    tree = ast.parse(path.read_text())
    return set(imported(ast.walk(tree))), set(imported(iter(tree.body)))


def imported(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """Dotted names of the modules that statements import; of `from a import b` both a and a.b, which may be a module."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", CODE, ids=relative)
def test_nothing_we_read_can_run_code(path: Path) -> None:
    assert list(code_from_data(ast.parse(path.read_text()))) == []


def test_the_check_for_code_in_data_finds_each_way_in() -> None:
    bad = "import pickle\nfrom joblib import load\ntorch.load(f)\nnp.load(f, allow_pickle=True)\neval(s)\nexec(s)\n"
    good = "model.eval()\nnp.load(f, allow_pickle=False)\nimport json\n"

    assert sorted(line for line, _ in code_from_data(ast.parse(bad))) == [1, 2, 3, 4, 5, 6]
    assert list(code_from_data(ast.parse(good))) == []


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_that_make_offers_runs_its_main(name: str) -> None:
    """A file without one would do nothing, and `make bench` would end with exit status 0."""
    tree = ast.parse((ROOT / "benchmarks" / f"{name}.py").read_text())
    assert "main" in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    last = tree.body[-1]
    assert isinstance(last, ast.If)
    assert ast.unparse(last) == "if __name__ == '__main__':\n    sys.exit(main())"


@pytest.mark.parametrize("name", ["", "report", "kernel_races/loss_gemm", "demo kernels"])
def test_make_bench_refuses_what_is_no_benchmark_and_names_those_there_are(name: str, tmp_path: Path) -> None:
    """`report` is the module that the benchmarks write their tables with."""
    (tmp_path / ".test-installed").touch()
    command = ["make", "bench", f"NAME={name}", f"VENV={tmp_path}", "BIN=/none"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode != 0
    offered = run.stderr.splitlines()[0].removeprefix("give NAME= one of: ")
    assert sorted(offered.split()) == BENCHMARKS


@pytest.mark.parametrize("path", EVERYTHING, ids=relative)
def test_no_citation_names_a_document_that_is_not_here(path: Path) -> None:
    """A reader can look up a paper or a file of the repository, and nothing else."""
    assert citations(path.read_text()) == []


def test_the_check_for_citations_finds_them_in_comments_and_docstrings_alone() -> None:
    bad = '"""Small (SCIENCE: table 2)."""\nx = 1  # of all (NOTES)\n'
    good = '"""See README (SVG, HNSW)."""\nx = f(WIDTH)  # f(WIDTH), (MAX_LINES), (Hesterberg 1995)\n'
    assert citations(bad) == ["SCIENCE", "NOTES"]
    assert citations(good) == []


def citations(source: str) -> list[str]:
    """Words of five or more capitals that begin a parenthesis in a comment or a docstring."""
    statements = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Expr))
    docstrings = {node.lineno for node in statements if isinstance(node.value, ast.Constant)}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    prose = (t.string for t in tokens if t.type == tokenize.COMMENT or (t.type == tokenize.STRING and t.start[0] in docstrings))
    found = [word for text in prose for word in re.findall(r"(?<!\w)\(([A-Z]{5,})(?![A-Z_(\w])", text)]
    return [word for word in found if word not in CAPITALISED]


def code_from_data(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of whatever could turn bytes we read into code we run."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names) if CODE_LOADERS & {alias.name.split(".")[0] for alias in names}:
                yield node.lineno, ast.unparse(node)
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in CODE_LOADERS:
                yield node.lineno, ast.unparse(node)
            case ast.Call(func=ast.Name(id="eval" | "exec")):
                yield node.lineno, ast.unparse(node)
            case ast.Attribute(value=ast.Name(id="torch"), attr="load"):
                yield node.lineno, ast.unparse(node)
            case ast.keyword(arg="allow_pickle", value=ast.Constant(value=value)) if value is not False:
                yield node.lineno, ast.unparse(node)
