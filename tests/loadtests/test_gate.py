from pathlib import Path

import msgspec
import pytest

from loadtests.gate import LIMITS, Judged, judge, main, read_limits
from loadtests.held import Held, write_looks
from loadtests.outcomes import Fate, Outcomes
from loadtests.profiles import PROFILES
from loadtests.traffic import RECOMMEND


def fast(num_requests: int = 100, generator: str = "poisson") -> Outcomes:
    outcomes = Outcomes(generator=generator, profile="steady", capacity_per_s=50.0, seconds=10.0)  # type: ignore[arg-type]
    for number in range(num_requests):
        outcomes.add(number / 10, 10.0, RECOMMEND, Fate.GOOD)
    return outcomes


def verdict(tmp_path: Path, *outcomes: Outcomes, limits: str = "[steady]\np99_ms = 80\nerror_share = 0\n") -> int:
    for one in outcomes:
        one.write(tmp_path / "out")
    (tmp_path / "limits.toml").write_text(limits)
    return main(["steady", "--out", str(tmp_path / "out"), "--limits", str(tmp_path / "limits.toml")])


def test_a_fast_service_passes_and_leaves_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verdict(tmp_path, fast(), fast(generator="locust")) == 0
    page = (tmp_path / "out" / "steady.html").read_text()
    assert "The service holds." in page
    assert page.count("<svg") == 6
    assert "steady passed" in capsys.readouterr().out


def test_a_slow_tail_fails_and_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slow = fast()
    slow.latency_ms[:2] = [81.0, 81.0]
    assert verdict(tmp_path, slow) == 1
    assert "steady failed: p99_ms (poisson)" in capsys.readouterr().out
    assert "p99 is 81\u00a0ms by poisson, the limit is 80\u00a0ms" in (tmp_path / "out" / "steady.html").read_text()


def test_one_failed_request_fails_a_limit_of_none(tmp_path: Path) -> None:
    failing = fast()
    failing.fates[0] = Fate.FAILED
    assert verdict(tmp_path, failing) == 1


def test_goodput_must_be_at_least_its_limit() -> None:
    assert Judged("poisson", "goodput_share", 0.98, 0.99).passed is False
    assert Judged("poisson", "goodput_share", 0.99, 0.99).passed


def test_a_run_fails_that_breaks_the_rules_of_loadgen_and_one_that_is_too_short_to_be_sure_does_not() -> None:
    outcomes = fast(generator="loadgen")
    outcomes.own = {"broken": 1.0, "unsure": 0.0}
    assert [one.figure for one in judge([outcomes], {}) if not one.passed] == ["broken"]
    outcomes.own = {"broken": 0.0, "unsure": 1.0}
    assert all(one.passed for one in judge([outcomes], {}))


def test_a_server_that_grows_in_a_soak_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    write_looks([Held(float(n), 100.0 + n, 20, 5) for n in range(90)], tmp_path / "out", "steady")
    assert verdict(tmp_path, fast()) == 1
    assert "memory_mib_per_min (server)" in capsys.readouterr().out
    assert "grows" in (tmp_path / "out" / "steady.html").read_text()


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ("[steady]\np99ms = 80\n", "has 'p99ms' in [steady], which is no figure. Did you mean 'p99_ms'?"),
        ("[stedy]\np99_ms = 80\n", "has 'stedy', which is no profile. Did you mean 'steady'?"),
        ("p99_ms = 80\n", "has 'p99_ms', which is no profile."),
        ("[steady]\np99_ms = 'fast'\n", "has p99_ms = 'fast' in [steady]: give a number from 0 up"),
        ("[steady]\np99_ms = nan\n", "has p99_ms = nan in [steady]: give a number from 0 up"),
        ("[steady\n", "is not TOML"),
        ("[soak]\np99_ms = 80\n", "has no limit for the profile 'steady': add a table [steady]"),
    ],
)
def test_a_wrong_file_of_limits_is_one_sentence(
    limits: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verdict(tmp_path, fast(), limits=limits) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_missing_file_of_limits_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["steady", "--limits", str(tmp_path / "none.toml")]) == 2
    assert "none.toml: No such file or directory" in capsys.readouterr().err


def test_nothing_to_judge_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["steady", "--out", str(tmp_path)]) == 2
    assert "holds no outcome of the profile 'steady'" in capsys.readouterr().err


@pytest.mark.parametrize("profile", PROFILES)
def test_our_own_limits_are_there_for_each_profile(profile: str) -> None:
    limits = read_limits(LIMITS, profile)
    assert limits["p99_ms"] >= 80
    assert msgspec.json.encode(limits)
