import pytest

from twotower import doctor
from twotower.doctor import Check, Probe, examine, main, run_probe

HEALTHY = {"version": "1.0", "threads": 1, "gpu": None, "gpus": 0}


def everything_works(_code: str, _given: str) -> Probe:
    return Probe(dict(HEALTHY))


def only_fails(needle: str, failure: str) -> doctor.RunProbe:
    """A machine on which everything works but the probes whose code or input holds `needle`."""

    def probe(code: str, given: str) -> Probe:
        return Probe({}, failure) if needle in code or needle == given else Probe(dict(HEALTHY))

    return probe


def find(checks: list[Check], what: str) -> Check:
    (found,) = [check for check in checks if check.what == what]
    return found


def test_this_machine_has_what_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0

    shown = capsys.readouterr().out
    for what in (
        "Python",
        "torch",
        "FAISS",
        "pyarrow",
        "numpy",
        "SQLite",
        "redis client",
        "cores",
        "bf16",
        "memory",
        "GPU",
        "Triton",
    ):
        assert what in shown


def test_what_works_needs_no_advice() -> None:
    checks = [c for c in examine(everything_works, None) if c.required]

    assert all(c.works and not c.advice for c in checks)


def test_a_broken_faiss_is_required_and_comes_with_advice() -> None:
    faiss = find(examine(only_fails("import faiss", "killed by signal 11"), None), "FAISS")

    assert (faiss.works, faiss.required, faiss.state) == (False, True, "killed by signal 11")
    assert "pip install" in faiss.advice


def test_a_stage_requires_only_what_it_needs() -> None:
    """An image holds one stage: nothing is searched in the one for training, and nothing is kept in Redis but by the server."""

    def required(*packages: str) -> set[str]:
        checks = examine(only_fails("", "not here"), None, frozenset(packages))
        return {check.what for check in checks if check.required and not check.works}

    base = required()
    assert base == {"pyarrow", "numpy", "torch", "SQLite"}
    assert required("embedder_cache") == base | {"FAISS"}
    assert required("service") == base | {"FAISS", "redis client"}


def test_a_missing_requirement_decides_the_exit_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "run_probe", only_fails("import torch", "No module named 'torch'"))

    assert main([]) == 1


def test_a_missing_gpu_and_triton_are_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "run_probe", only_fails("triton", "No module named 'triton'"))

    assert main([]) == 0


def test_triton_is_advised_only_beside_a_gpu() -> None:
    absent = Probe({}, "No module named 'triton'")

    assert "pip install" in doctor.triton_check(Probe({"gpu": "H100, 80 GiB"}), absent).advice
    assert "pip install" not in doctor.triton_check(Probe({"gpu": None}), absent).advice


def test_a_redis_that_was_named_must_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--redis", "redis://:secret@127.0.0.1:1/0"]) == 1

    shown = capsys.readouterr().out
    assert "--redis" in shown
    assert "secret" not in shown


def test_more_threads_than_cores_is_said() -> None:
    check = doctor.cores_check(Probe({"threads": 64}), cores=2)

    assert not check.works
    assert "OMP_NUM_THREADS=2" in check.advice


@pytest.mark.parametrize(
    ("speedup", "state"),
    [
        (1.04, "1.0 times as fast as fp32: auto takes fp32, because 1.5 are needed"),
        (2.5, "2.5 times as fast as fp32: auto takes bf16"),
        (None, "the processor has no AVX512-BF16 and no AMX: auto takes fp32"),
    ],
)
def test_what_a_server_takes_for_auto_is_said(speedup: float | None, state: str) -> None:
    check = doctor.bf16_check(Probe({"speedup": speedup, "needed": 1.5}))
    assert (check.state, check.works, check.required) == (state, True, False)


def test_only_a_server_is_asked_for_bf16() -> None:
    assert not [c for c in examine(everything_works, None, frozenset({"embedder_cache"})) if c.what == "bf16 on the CPU"]
    failed = find(examine(only_fails("measured_speedup", "no room"), None), "bf16 on the CPU")
    assert (failed.state, failed.works, failed.required) == ("no room", False, False)


def test_a_container_with_little_memory_left_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left counts the limits of control groups: the machine's own memory may be far larger."""
    for available, state, works in ((3 << 30, "3.0 GiB available", False), (4 << 30, "4.0 GiB available", True)):
        monkeypatch.setattr(doctor, "available_bytes", lambda available=available: available)
        check = find(doctor.examine(everything_works, None), "memory")
        assert (check.state, check.works, bool(check.advice)) == (state, works, not works)


def test_a_library_that_kills_its_process_leaves_the_doctor_standing() -> None:
    assert run_probe("import os; os.abort()", "") == Probe({}, "killed by signal 6")


def test_a_failing_probe_is_quoted_by_its_last_line() -> None:
    assert run_probe("raise RuntimeError('no such device')", "") == Probe({}, "no such device")
