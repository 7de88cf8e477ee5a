"""What continuous integration does before `make test`: it installs programs if it can, and goes on if it cannot."""

import shutil
import subprocess
from pathlib import Path

import pytest

RUN = Path(__file__).parents[1] / ".ci" / "run"
PROGRAMS = ("prometheus", "promtool", "haproxy", "chromium")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder of programs, which is all that the script finds; `make` and `apt-get` write down how they were called."""
    for name in ("bash", "dirname", "env", "timeout"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    program(tmp_path, "make", f'echo "make $*" >> {tmp_path}/called')
    program(tmp_path, "id", "echo 0")
    return tmp_path


def program(machine: Path, name: str, line: str = "true") -> None:
    path = machine / name
    path.write_text(f"#!{shutil.which('sh')}\n{line}\n")
    path.chmod(0o755)


def ran(machine: Path) -> tuple[str, list[str]]:
    """What the script says, and what it called."""
    bash = shutil.which("bash") or "bash"
    done = subprocess.run([bash, str(RUN)], capture_output=True, text=True, check=True, env={"PATH": str(machine)})
    return done.stdout, (machine / "called").read_text().splitlines()


def test_what_is_there_is_not_installed(machine: Path) -> None:
    for name in PROGRAMS:
        program(machine, name)
    program(machine, "apt-get", "exit 1")
    said, called = ran(machine)
    assert said.startswith("programs for tests: there after")
    assert called == ["make test"]


def test_what_is_missing_is_installed_if_it_can_be(machine: Path) -> None:
    program(machine, "haproxy")
    program(machine, "apt-get", f'echo "apt-get $*" >> {machine}/called')
    _, called = ran(machine)
    assert [line.split()[0] for line in called] == ["apt-get", "apt-get", "make"]
    assert called[1].endswith("prometheus chromium")


@pytest.mark.parametrize(
    ("apt", "user", "reason"),
    [
        ("echo no network >&2; exit 100", "0", "no network"),
        (None, "0", "prometheus haproxy chromium: there is no apt-get"),
        ("true", "1000", "a password is required"),
    ],
)
def test_without_apt_a_network_or_rights_the_tests_are_run_all_the_same(
    machine: Path, apt: str | None, user: str, reason: str
) -> None:
    if apt:
        program(machine, "apt-get", apt)
    program(machine, "id", f"echo {user}")
    program(machine, "sudo", "echo sudo: a password is required >&2; exit 1")
    said, called = ran(machine)
    assert said.rstrip().endswith(reason)
    assert "tests that need them are skipped" in said
    assert called == ["make test"]
