"""What a batch launches is counted, and is no more than wanted."""

from benchmarks.kernel_static.launches import MOST_BESIDE, MOST_COPIES, MOST_PER_LAYER, default_model, launches


def test_a_batch_launches_no_more_than_wanted() -> None:
    for batch in launches(default_model()):
        assert 5 <= batch.most_of_a_layer <= MOST_PER_LAYER
        assert batch.copies <= MOST_COPIES
        assert 4 <= batch.beside <= MOST_BESIDE


def test_one_new_event_each_is_one_launch_of_a_graph() -> None:
    appended, cold = launches(default_model())
    assert appended.in_a_graph
    assert str(appended).startswith("32 requests, one new event each: one graph launch, 2 copies; at most")
    assert not cold.in_a_graph
