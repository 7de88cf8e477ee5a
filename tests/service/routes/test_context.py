import time

from service.routes.context import ms_since, now_ms
from tests.service.conftest import Client


def test_times_are_whole_and_thousandths_of_milliseconds() -> None:
    assert abs(now_ms() - time.time() * 1000) < 1000
    elapsed_ms = ms_since(time.monotonic() - 1.5)
    assert 1500 <= elapsed_ms < 2500
    assert elapsed_ms == round(elapsed_ms, 3)


def test_what_an_answer_lacks_is_counted(client: Client) -> None:
    context, sample = client.context, client.context.metrics.registry.get_sample_value
    context.count_answer([], 0, has_items=True)
    context.count_answer(["history_unavailable", "other"], 3, has_items=False)
    assert (sample("twotower_unknown_items_total"), sample("twotower_empty_results_total")) == (3, 1)
    assert sample("twotower_degraded_total", {"reason": "history_unavailable"}) == 1
    assert sample("twotower_degraded_total", {"reason": "other"}) == 1
