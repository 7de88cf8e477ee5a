"""Who is answered by which release, and when a new one may take over. No server, and the clock is a number."""

from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from service.api.errors import ApiError
from service.api.schemas import Recommended, RecommendRequest
from service.histories.history import UserHistory
from service.ranking.recommend import Asked
from service.ranking.rules import Ranking
from service.release.loaded import LoadedRelease
from service.rollout.variants import (
    CANARY,
    MAX_WAITING,
    SHADOW,
    Arm,
    CanaryPlan,
    Copy,
    Plan,
    ShadowPlan,
    Trial,
    Variants,
    Verdict,
    load_plan,
    overlap,
    place_of,
)
from service.telemetry.metrics import Metrics
from twotower.errors import EnvironmentProblem

OLD, NEW = "release-00000000000a", "release-00000000000b"
HALVES = Plan(arms=(Arm(name="a", percent=50), Arm(name="b", percent=50, release=OLD)))
CANARY_PLAN = CanaryPlan(percent=20, seconds=600, min_requests=10, max_error_rate=0.1, max_p99_ratio=2, min_overlap=0.5)
CURRENT_RELEASE, OTHER = (cast(LoadedRelease, name) for name in ("the current one", "another"))


def make(plan: Plan) -> Variants:
    return Variants(plan, Metrics(CollectorRegistry()))


def ranking(*item_ids: str) -> Ranking:
    return Ranking([Recommended(item_id=item_id, score=1.0) for item_id in item_ids], 0, 0, [], [])


def copy(variant: str = "default") -> Copy:
    return Copy(NEW, variant, Asked(RecommendRequest(), UserHistory(), 0), ranking())


def test_without_a_plan_everyone_gets_what_the_pointer_names() -> None:
    assert make(Plan()).choose(CURRENT_RELEASE, {}, RecommendRequest(user_id="ann")) == (CURRENT_RELEASE, "default")


def test_shares_are_as_the_plan_says() -> None:
    plan = Plan(arms=(Arm(name="a", percent=90), Arm(name="b", percent=10)))
    arms = [plan.arm_of(str(user)).name for user in range(10_000)]
    assert 850 < arms.count("b") < 1150


@given(st.text(), st.text())
def test_everyone_has_a_place_and_an_arm(salt: str, key: str) -> None:
    assert 0 <= place_of(salt.encode(errors="replace").decode(), key.encode(errors="replace").decode()) < 100
    assert HALVES.arm_of(key.encode(errors="replace").decode()).name in "ab"


def test_another_salt_deals_the_users_anew() -> None:
    other = Plan(salt="spring", arms=HALVES.arms)
    same = [HALVES.arm_of(str(user)) == other.arm_of(str(user)) for user in range(1000)]
    assert 400 < sum(same) < 600


def test_a_user_stays_in_an_arm_a_session_where_there_is_no_user_and_nobody_where_there_is_neither() -> None:
    def names(**body: Any) -> set[str]:
        variants = make(HALVES)
        return {variants.choose(CURRENT_RELEASE, {OLD: OTHER}, RecommendRequest(**body))[1] for _ in range(100)}

    assert len(names(user_id="ann")) == len(names(session_id="s")) == 1
    assert names(user_id="ann", session_id="s") == names(user_id="ann", session_id="t") == names(user_id="ann")
    assert names() == {"a", "b"}


def test_an_arm_whose_release_is_the_current_one_needs_no_second_copy_of_it() -> None:
    chosen = {make(HALVES).choose(CURRENT_RELEASE, {}, RecommendRequest(user_id=str(user))) for user in range(100)}
    assert chosen == {(CURRENT_RELEASE, "a"), (CURRENT_RELEASE, "b")}


def test_only_users_of_the_current_release_try_the_new_one_and_not_the_same_for_each() -> None:
    variants = make(Plan(arms=HALVES.arms, canary=CANARY_PLAN))
    others = {OLD: OTHER, NEW: OTHER, "release-00000000000c": OTHER}
    trials = []
    for release in (NEW, "release-00000000000c"):
        variants.trial = Trial(release, CANARY_PLAN, 0)
        asked = [RecommendRequest(user_id=str(user)) for user in range(1000)]
        trials.append([variants.choose(CURRENT_RELEASE, others, one)[1] == CANARY for one in asked])
        assert 50 < sum(trials[-1]) < 150, "20 % of half of them"
        assert not any(tried and HALVES.arm_of(str(user)).name == "b" for user, tried in enumerate(trials[-1]))
    assert trials[0] != trials[1]


def trial(new: list[float], old: list[float], failed: int = 0, overlaps: list[float] | None = None) -> Trial:
    result = Trial(NEW, CANARY_PLAN, started_s=1000, overlaps=overlaps or [])
    for number, latency_s in enumerate(new):
        result.new.add(number < failed, latency_s)
    for latency_s in old:
        result.old.add(False, latency_s)
    return result


@pytest.mark.parametrize(
    ("on_trial", "early", "at_the_end"),
    [
        (trial([], []), "wait", "promote"),
        (trial([0.01] * 20, [0.01] * 20), "wait", "promote"),
        (trial([0.01] * 20, [0.01] * 20, failed=2), "wait", "promote"),
        (trial([0.01] * 20, [0.01] * 20, failed=3), "errors", "errors"),
        (trial([0.01] * 5, [0.01] * 20, failed=5), "wait", "errors"),
        (trial([0.03] * 20, [0.01] * 20), "latency", "latency"),
        (trial([0.03] * 5, [0.01] * 20), "wait", "promote"),
        (trial([0.03] * 20, [0.01] * 5), "wait", "promote"),
        (trial([], [], overlaps=[0.4] * 20), "overlap", "overlap"),
        (trial([], [], overlaps=[0.4] * 19), "wait", "overlap"),
        (trial([], [], overlaps=[0.5] * 20), "wait", "promote"),
    ],
)
def test_a_trial_ends_when_a_limit_is_broken_or_its_time_is_over(on_trial: Trial, early: Verdict, at_the_end: Verdict) -> None:
    assert on_trial.verdict(1599.9) == early
    assert on_trial.verdict(1600) == at_the_end


def test_errors_count_above_those_of_the_release_before() -> None:
    struggling = trial([0.01] * 20, [], failed=6)
    for number in range(20):
        struggling.old.add(number < 5, 0.01)
    assert struggling.verdict(1001) == "wait"


@pytest.mark.parametrize(
    ("error", "failures"),
    [(ZeroDivisionError(), 1), (ApiError("deadline_exceeded", "x"), 1), (ApiError("invalid_request", "x"), 0), (None, 0)],
)
def test_what_a_client_did_wrong_is_no_failure_of_the_release(error: Exception | None, failures: int) -> None:
    variants = make(Plan(canary=CANARY_PLAN))
    variants.trial = Trial(NEW, CANARY_PLAN, 0)
    for variant in (CANARY, "default"):
        try:
            with variants.watch(variant):
                if error:
                    raise error
        except (ZeroDivisionError, ApiError):
            pass
    for outcomes in (variants.trial.new, variants.trial.old):
        assert (outcomes.num_requests, outcomes.num_failed) == (1, failures)


def test_the_canary_is_not_compared_with_an_arm_of_another_release() -> None:
    variants = make(Plan(arms=HALVES.arms, canary=CANARY_PLAN))
    variants.trial = Trial(NEW, CANARY_PLAN, 0)
    for variant in ("a", "b"):
        with variants.watch(variant):
            pass
    assert variants.trial.old.num_requests == 1


def test_a_sample_is_noted_for_the_shadow_and_every_answer_of_the_canary() -> None:
    variants = make(Plan(shadow=ShadowPlan(release=OLD, percent=50)))
    for _ in range(40):
        variants.copy(copy())
    assert 5 < len(variants.waiting) < 35
    variants.waiting.clear()
    variants.copy(copy(CANARY))
    assert [kind for kind, _ in variants.waiting] == [CANARY]
    nothing = make(Plan())
    nothing.copy(copy())
    assert not nothing.waiting


def test_few_notes_wait_and_the_oldest_is_lost_first() -> None:
    variants = make(Plan(shadow=ShadowPlan(release=OLD, percent=100)))
    for number in range(MAX_WAITING + 5):
        variants.copy(Copy(NEW, SHADOW, Asked(RecommendRequest(), UserHistory(), number), ranking()))
    assert [noted.asked.now_ms for _, noted in variants.waiting] == list(range(5, MAX_WAITING + 5))


@pytest.mark.parametrize(
    ("one", "other", "share"),
    [("abc", "abc", 1), ("abcd", "cdef", 0.5), ("ab", "cd", 0), ("", "", 1), ("ab", "", 0), ("abcdefghijk", "abcdefghijl", 1)],
)
def test_overlap_is_of_the_first_ten_items(one: str, other: str, share: float) -> None:
    assert overlap(ranking(*one), ranking(*other)) == share


def test_a_plan_names_the_releases_that_it_needs() -> None:
    plan = Plan(arms=HALVES.arms, shadow=ShadowPlan(release=NEW, percent=1))
    assert plan.pinned == {OLD, NEW}
    assert Plan().pinned == set()


def test_a_plan_is_read_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "variants.toml"
    file.write_text(
        f"""
        salt = "spring"
        [[arms]]
        name = "control"
        percent = 90
        [[arms]]
        name = "older"
        percent = 10
        release = "{OLD}"
        [shadow]
        release = "{NEW}"
        percent = 5
        [canary]
        percent = 5
        seconds = 600
        """
    )
    assert load_plan(file) == Plan(
        salt="spring",
        arms=(Arm(name="control", percent=90), Arm(name="older", percent=10, release=OLD)),
        shadow=ShadowPlan(release=NEW, percent=5),
        canary=CanaryPlan(percent=5, seconds=600),
    )


@pytest.mark.parametrize(
    "text",
    [
        "salt = 1",
        "salt =",
        "unknown = 1",
        "[canary]\npercent = 5\nseconds = 600\nsecond = 1",
        "[canary]\npercent = 101\nseconds = 600",
        "[shadow]\nrelease = '../x'\npercent = 1",
        "[[arms]]\nname = 'a'\npercent = 99",
        "[[arms]]\nname = 'a'\npercent = 50\n[[arms]]\nname = 'a'\npercent = 50",
        "[[arms]]\nname = 'canary'\npercent = 100",
        "[[arms]]\nname = 'A b'\npercent = 100",
        "\udcff",
    ],
)
def test_a_plan_that_says_something_else_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "variants.toml"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(EnvironmentProblem, match="no plan of variants"):
        load_plan(file)


def test_a_plan_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="cannot read"):
        load_plan(tmp_path / "none.toml")
