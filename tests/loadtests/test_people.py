import itertools
import random
from collections import Counter

import pytest

from loadtests.people import COLD_EVENTS, MOST_LEFT, People, Step
from loadtests.profiles import Habits
from loadtests.traffic import EVENTS, RECOMMEND, History

PLAIN = Habits(repeat_share=0.0, burst_share=0.0, return_share=0.0, cold_share=0.0)


def people(histories: list[History], habits: Habits = PLAIN) -> People:
    return People(histories, habits, "run", random.Random(0))


def sessions(of: People, number: int) -> list[list[Step]]:
    return [list(of.session()) for _ in range(number)]


def test_a_session_tells_the_past_and_then_asks_before_every_new_event(households: list[History]) -> None:
    (steps,) = sessions(people(households), 1)
    assert [step.path for step in steps] == [EVENTS, *[RECOMMEND, EVENTS] * (len(steps) // 2)]
    assert len(steps[0].body["events"]) == 30
    assert len({step.body["user_id"] for step in steps if step.path == RECOMMEND}) == 1


def test_the_number_of_questions_is_geometric(households: list[History]) -> None:
    asked = [sum(s.path == RECOMMEND for s in steps) for steps in sessions(people(households), 2000)]
    assert sum(asked) / len(asked) == pytest.approx(5, abs=0.4)
    assert sum(number == 1 for number in asked) / len(asked) == pytest.approx(1 / 5, abs=0.04)


def test_the_share_of_questions_among_requests_is_what_the_habits_say(households: list[History]) -> None:
    habits = Habits(mean_questions=3.0)
    paths = [step.path for steps in sessions(people(households, habits), 3000) for step in steps]
    assert paths.count(RECOMMEND) / len(paths) == pytest.approx(habits.recommend_share, abs=0.02)


def test_a_repeated_question_is_the_same_question(households: list[History]) -> None:
    habits = Habits(repeat_share=1.0, return_share=0.0, cold_share=0.0)
    asked = [step.body for step in sessions(people(households, habits), 1)[0] if step.path == RECOMMEND]
    assert asked[::2] == asked[1::2]
    assert len(asked) >= 2


def test_in_a_burst_there_are_no_pauses_and_otherwise_they_have_their_mean(households: list[History]) -> None:
    hasty = sessions(people(households, Habits(burst_share=1.0)), 20)
    assert {step.pause_s for steps in hasty for step in steps} == {0.0}
    calm = [step.pause_s for steps in sessions(people(households), 500) for step in steps[1:]]
    assert sum(calm) / len(calm) == pytest.approx(0.5, abs=0.05)


def test_who_returns_goes_on_where_the_session_before_ended(households: list[History]) -> None:
    first, second = sessions(people(households, Habits(repeat_share=0, cold_share=0, return_share=1.0)), 2)
    told = [event["event_id"] for step in (*first, *second) if step.path == EVENTS for event in step.body["events"]]
    assert second[0].path == RECOMMEND
    assert second[0].body["user_id"] == first[1].body["user_id"]
    assert len(told) == len(set(told))


def test_a_user_whose_history_is_over_does_not_return(households: list[History]) -> None:
    crowd = people(households, Habits(mean_questions=1e9, cold_share=0, return_share=1.0))
    (steps,) = sessions(crowd, 1)
    assert steps[-1].path == RECOMMEND
    assert not crowd.left


def test_cold_users_ask_before_they_have_told_anything_and_like_what_many_like() -> None:
    events = [["often"] * 30 + ["rare"] * 10]
    histories = [
        History("one", tuple({"item_id": i, "event_type": "view", "timestamp": n, "properties": {}} for n, i in enumerate(items)))
        for items in events
    ]
    crowd = people(histories, Habits(cold_share=1.0, return_share=0.0, repeat_share=0.0, zipf_exponent=1.0))
    seen = sessions(crowd, 400)
    assert all(steps[0].path == RECOMMEND for steps in seen)
    items = Counter(event["item_id"] for steps in seen for step in steps if step.path == EVENTS for event in step.body["events"])
    assert items["often"] / items.total() == pytest.approx(2 / 3, abs=0.05)
    assert max(sum(step.path == EVENTS for step in steps) for steps in seen) <= COLD_EVENTS


def test_only_the_users_who_left_last_come_back(households: list[History]) -> None:
    crowd = people(households)
    sessions(crowd, 2 * MOST_LEFT)
    assert len(crowd.left) == MOST_LEFT


def test_no_two_users_share_a_name(households: list[History]) -> None:
    users = [steps[1].body["user_id"] for steps in sessions(people(households), 50)]
    assert len(set(users)) == 50
    assert all("-run-" in user for user in users)
    assert [len(list(group)) for _, group in itertools.groupby(sorted(users))] == [1] * 50
