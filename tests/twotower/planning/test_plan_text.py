"""What only some plans show."""

import pytest

from twotower.planning.plan_text import show
from twotower.planning.planner import Ask, plan


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (Ask(flops=1e15, metric="ndcg@10", rate=3e14), "your hardware: 35 s at 3e+14 FLOP/s, rate as given"),
        (Ask(flops=1e18, metric="ndcg@10", items=1e8, gpu_memory=80e9), "needs 7 devices of 80 GB"),
        (Ask(flops=1e18, metric="ndcg@10", items=1e6, gpu_memory=80e9), "needs one device of 80 GB"),
        (Ask(flops=1e18, metric="ndcg@10", items=1e6), "all items, so the loss is exact"),
        (Ask(flops=1e15, metric="ndcg@10", events=1e12), "1T events, of which the optimum reads 0.246B"),
    ],
)
def test_a_plan_tells_what_was_asked_for(ask: Ask, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    show(plan(ask))
    assert words in capsys.readouterr().out
