import json
from pathlib import Path

import pytest

from loadtests.crowd import Target
from loadtests.loadgen import NUM_SAMPLES, figures_of, samples_of, settings_for
from loadtests.outcomes import Fate, read_outcomes
from loadtests.profiles import Phase, Profile
from loadtests.run import run_loadgen
from loadtests.traffic import EVENTS, RECOMMEND
from tests.loadtests.test_locustfile import stub_api

SUMMARY = """
Result is : VALID
  Performance constraints satisfied : Yes
  Min duration satisfied : Yes
  Min queries satisfied : Yes
  Early stopping satisfied: Yes
50.00 percentile latency (ns)   : 2000000
90.00 percentile latency (ns)   : 3000000
99.00 percentile latency (ns)   : 10500000
99.90 percentile latency (ns)   : 20000000
"""


def test_the_figures_are_read_from_the_summary() -> None:
    assert figures_of(SUMMARY) == {"p50_ms": 2.0, "p99_ms": 10.5, "p999_ms": 20.0, "broken": 0.0, "unsure": 0.0}


def test_a_run_that_is_too_short_to_be_sure_is_told_from_one_that_breaks_a_rule() -> None:
    short = SUMMARY.replace("VALID", "INVALID").replace("stopping satisfied: Yes", "stopping satisfied: NO")
    slow = SUMMARY.replace("VALID", "INVALID").replace("constraints satisfied : Yes", "constraints satisfied : NO")
    assert [figures_of(said)["unsure"] for said in (short, slow)] == [1.0, 0.0]
    assert [figures_of(said)["broken"] for said in (short, slow, "nothing")] == [0.0, 1.0, 1.0]


def test_every_sample_is_a_question_of_a_user_whose_events_are_told_before(tmp_path: Path) -> None:
    events = [{"item_id": "i", "event_type": "view", "timestamp": 1000 * n, "properties": {}} for n in range(6)]
    (tmp_path / "h.jsonl").write_text(json.dumps({"user_id": "ann", "events": events}) + "\n")
    told, samples = samples_of(tmp_path / "h.jsonl")
    assert {step.path for step in told} == {EVENTS}
    assert {step.path for step in samples} == {RECOMMEND}
    assert [step.body["events"][0]["user_id"] for step in told] == [step.body["user_id"] for step in samples]
    assert len({step.body["user_id"] for step in samples}) == NUM_SAMPLES


def test_the_bound_is_that_of_dlrm_v3() -> None:
    loadgen = pytest.importorskip("mlperf_loadgen")
    settings = settings_for(loadgen, Profile(name="smoke", phases=(Phase(seconds=3, load=0.5),)), 40.0)
    assert settings.server_target_latency_ns == 80_000_000
    assert settings.server_target_latency_percentile == 0.99
    assert settings.min_duration_ms == 3000
    assert settings.server_target_qps == pytest.approx(20 * 5.5 / 10.9)  # of 20 requests per second, those that ask


@pytest.mark.alone
def test_loadgen_finds_nothing_wrong_with_a_stub_that_answers_at_once(tmp_path: Path) -> None:
    pytest.importorskip("mlperf_loadgen")
    events = [{"item_id": "i", "event_type": "view", "timestamp": 1000 * n, "properties": {}} for n in range(6)]
    (tmp_path / "h.jsonl").write_text(json.dumps({"user_id": "ann", "events": events}) + "\n")
    profile = Profile(name="smoke", phases=(Phase(seconds=3, load=0.5),))
    with stub_api(10) as (port, calls):
        run_loadgen(Target("127.0.0.1", port), profile, 40.0, tmp_path / "h.jsonl", tmp_path)
    (outcomes,) = read_outcomes(tmp_path, "smoke")
    assert outcomes.own["broken"] == 0.0
    assert outcomes.own["unsure"] == 1.0
    assert set(outcomes.fates) == {Fate.GOOD}
    assert len(outcomes.fates) == len(calls) - 2 * NUM_SAMPLES  # events and one question of each before the run
    assert 8 < len(outcomes.fates) < 60  # ten a second for three seconds, at random
    assert (tmp_path / "smoke-loadgen.txt").read_text().count("Early stopping satisfied: NO") == 1
