import io
import subprocess
import sys
import time
import tomllib
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

from twotower import cli
from twotower.cli import COMMANDS, Command, main


def use_command(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """Make `twotower try` run `main` of a module of ours with this source."""
    module = ModuleType("twotower.tried")
    code = compile(source, "tried.py", "exec")
    exec(code, module.__dict__)
    monkeypatch.setitem(sys.modules, "twotower.tried", module)
    monkeypatch.setitem(COMMANDS, "try", Command("twotower.tried:main", "for this test"))


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0

    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown and command.summary in shown for name, command in COMMANDS.items())


@pytest.mark.parametrize(("set_before", "expected"), [(None, "passive"), ("active", "active")])
def test_threads_without_work_sleep_unless_the_operator_says_otherwise(
    set_before: str | None, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The libraries read the variable when they are loaded, which is after a command was chosen."""
    monkeypatch.setenv("OMP_WAIT_POLICY", set_before or "")
    if set_before is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    use_command(monkeypatch, "import os\ndef main(argv):\n    print(os.environ['OMP_WAIT_POLICY'])\n    return 0")
    assert main(["try"]) == 0
    assert capsys.readouterr().out == f"{expected}\n"


def test_without_arguments_it_shows_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("usage: twotower COMMAND")


def test_help_imports_nothing_but_the_standard_library() -> None:
    program = "import sys; from twotower.cli import main; main(['--help']); print(*{m.split('.')[0] for m in sys.modules})"

    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    imported = set(shown.splitlines()[-1].split()) - sys.stdlib_module_names
    assert imported & {"torch", "pyarrow", "numpy", "msgspec", "rich", "faiss"} == set()


@pytest.mark.alone
def test_help_answers_at_once() -> None:
    def seconds() -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "twotower.cli", "--help"], capture_output=True, check=True)
        return time.perf_counter() - started

    assert min(seconds() for _ in range(7)) < 0.15


def test_version_is_that_of_the_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"twotower {version('twotower')}\n"


def test_an_unknown_command_gets_the_nearest_one_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sevre"]) == 2

    shown = capsys.readouterr().err
    assert shown.startswith("twotower: error: there is no command 'sevre'. Did you mean 'serve'?")


def test_a_command_like_no_other_gets_no_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["xyzzy"]) == 2
    assert "Did you mean" not in capsys.readouterr().err


def test_a_command_gets_the_rest_of_the_line_and_decides_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    use_command(monkeypatch, "def main(argv): return len(argv)")

    assert main(["try", "--one", "two", "three"]) == 3


def test_what_the_encoding_of_the_terminal_has_not_is_written_as_an_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    told = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", told)
    use_command(monkeypatch, "def main(argv): print('caf\u00e9'); return 0")
    assert main(["try"]) == 0
    told.flush()
    assert told.buffer.getvalue() == b"caf\\xe9\n"


def test_our_errors_are_one_line_without_a_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    use_command(monkeypatch, "from twotower.errors import StoreError\ndef main(argv): raise StoreError('no release; embed one')")

    assert main(["try"]) == 2
    assert capsys.readouterr().err == "twotower: error: no release; embed one\n"


def test_a_value_error_of_ours_is_about_the_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    use_command(monkeypatch, "def main(argv): raise ValueError('width 3 must be even')")

    assert main(["try"]) == 2
    assert capsys.readouterr().err == "twotower: error: width 3 must be even\n"


def test_a_value_error_of_a_library_is_a_bug_and_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    use_command(monkeypatch, "import json\ndef main(argv): json.loads('{')")

    with pytest.raises(ValueError, match="Expecting property name"):
        main(["try"])


def test_a_gpu_without_enough_memory_is_one_line_that_names_the_cpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.20 GiB is free."
    use_command(monkeypatch, f"def main(argv): raise RuntimeError({said!r})")

    assert main(["try"]) == 2
    shown = capsys.readouterr().err
    assert "needs more memory than the GPU has free (CUDA out of memory)" in shown
    assert "--device cpu" in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    "said",
    [
        "MemoryError()",
        "OSError(12, 'Cannot allocate memory')",
        "RuntimeError('DefaultCPUAllocator: can\\'t allocate memory: you tried to allocate 4 bytes')",
        "RuntimeError('can\\'t start new thread')",
    ],
)
def test_too_little_memory_is_one_line_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], said: str
) -> None:
    use_command(monkeypatch, f"def main(argv): raise {said}")

    assert main(["try"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("twotower: error: `twotower try` needs more memory")
    assert shown.count("\n") == 1


@pytest.mark.parametrize("said", ["OSError(5, 'Input/output error')", "RuntimeError('shapes differ')"])
def test_any_other_failure_is_a_bug_and_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    use_command(monkeypatch, f"def main(argv): raise {said}")

    with pytest.raises((OSError, RuntimeError)):
        main(["try"])


def test_an_interrupted_command_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    use_command(monkeypatch, "def main(argv): raise KeyboardInterrupt")

    assert main(["try"]) == 130


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    use_command(monkeypatch, "def main(argv): import a_library_that_nobody_has")

    assert main(["try"]) == 2
    assert "needs the Python package 'a_library_that_nobody_has'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "module", "extra"),
    [
        ("serve", "starlette", "serve"),
        ("serve", "pydantic_settings", "serve"),
        ("serve", "prometheus_client", "serve"),
        ("embed", "prometheus_client", "embed"),
        ("report", "matplotlib", "train"),
        ("releases", "matplotlib", "train"),  # its page has drawings
        ("serve", "faiss", "cpu"),
        ("embed", "obstore", "s3"),
        ("demo", "httpx", "demo"),
    ],
)
def test_a_library_of_an_extra_comes_with_the_line_to_type(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, module: str, extra: str
) -> None:
    """The extras are those of pyproject.toml as metadata holds them: sorted, and with the extras that others are made of."""
    declared = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    stages = [line for name in ("train", "embed", "serve") for line in declared[name]]
    requirements = [
        f"{line.partition(';')[0]}; extra == '{name}'"
        for name, lines in sorted(declared.items())
        for line in [*lines, *(stages if name in ("demo", "test") else [])]
    ]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: requirements)

    def without(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(cli, "load", without)
    assert main([command]) == 2
    shown = capsys.readouterr().err
    assert shown == (
        f"twotower: error: `twotower {command}` needs {module}, which comes with the extra `{extra}`: "
        f"pip install 'twotower[{extra}]'\n"
    )


def test_a_command_of_a_package_that_was_left_out_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "PACKAGES", ("twotower", "package_left_out"))
    monkeypatch.setitem(COMMANDS, "serve", Command("package_left_out.command:main", "as in the training image"))

    assert main(["serve"]) == 2
    assert "`twotower serve` is not part of this installation" in capsys.readouterr().err


def test_a_module_of_ours_that_does_not_exist_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "try", Command("twotower.no_such_module:main", "for this test"))

    with pytest.raises(ModuleNotFoundError):
        main(["try"])
