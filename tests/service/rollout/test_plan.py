"""The file that says which releases answer whom."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.rollout.plan import Arm, CanaryPlan, Plan, ShadowPlan, load_plan, place_of
from twotower.errors import EnvironmentProblem

OLD, NEW = "release-00000000000a", "release-00000000000b"
HALVES = Plan(arms=(Arm(name="a", percent=50), Arm(name="b", percent=50, release=OLD)))


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
    with pytest.raises(EnvironmentProblem, match="not a valid plan of variants"):
        load_plan(file)


def test_a_plan_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="cannot read"):
        load_plan(tmp_path / "none.toml")
