"""Memory as Linux tells it, read from a directory that stands for the machine's."""

from pathlib import Path

import pytest

from twotower.memory import available_bytes

MIB = 1 << 20


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """1,000 MiB are left, and no control group has a limit."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(f"MemTotal: 4000000 kB\nMemAvailable: {1000 * 1024} kB\n")
    (tmp_path / "proc/self/cgroup").write_text("0::/pods/ours\n")
    group(tmp_path, "pods/ours", "max", 300)
    return tmp_path


def group(machine: Path, name: str, limit: int | str, used: int, inactive: int = 0) -> None:
    directory = machine / "sys/fs/cgroup" / name
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "memory.max").write_text(f"{limit if isinstance(limit, str) else limit * MIB}\n")
    (directory / "memory.current").write_text(f"{used * MIB}\n")
    (directory / "memory.stat").write_text(f"anon 1\ninactive_file {inactive * MIB}\n")


def test_without_a_limit_it_is_what_the_machine_has(machine: Path) -> None:
    assert available_bytes(machine) == 1000 * MIB


def test_a_limit_of_our_group_counts_without_files_that_can_be_let_go(machine: Path) -> None:
    group(machine, "pods/ours", 800, 300, inactive=100)
    assert available_bytes(machine) == 600 * MIB


def test_so_does_one_of_a_group_above(machine: Path) -> None:
    group(machine, "pods", 500, 300)
    assert available_bytes(machine) == 200 * MIB


def test_in_a_container_the_limit_stands_at_the_root(machine: Path) -> None:
    (machine / "proc/self/cgroup").write_text("0::/\n")
    group(machine, ".", 400, 300)
    assert available_bytes(machine) == 100 * MIB


def test_groups_of_the_first_version_are_not_read(machine: Path) -> None:
    (machine / "proc/self/cgroup").write_text("5:memory:/pods\n")
    assert available_bytes(machine) == 1000 * MIB


def test_another_system_says_nothing(tmp_path: Path) -> None:
    assert available_bytes(tmp_path) is None


def test_this_machine_can_be_asked() -> None:
    available = available_bytes()
    assert available is None or available > 0
