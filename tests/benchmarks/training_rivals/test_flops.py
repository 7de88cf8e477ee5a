import torch
from torch import nn

from benchmarks.training_rivals.flops import DenseWork, training_flops


def test_a_row_of_the_batch_is_an_event_and_padding_is_no_work() -> None:
    model = nn.Linear(3, 5)
    work = DenseWork(model)

    for _ in range(2):
        model(torch.zeros(4, 10, 3))

    # Two steps that read 25 events in all, of 80 places: 15 weights for each event.
    assert work.take(num_steps=2, num_events=25) == 15 * 25


def test_rows_that_are_no_events_are_counted_as_they_come() -> None:
    model = nn.Sequential(nn.Linear(3, 5, bias=False), nn.ReLU(), nn.Linear(5, 2))
    work = DenseWork(model)

    model(torch.zeros(7, 3))

    assert work.take(num_steps=1, num_events=99) == 7 * (15 + 10)


def test_attention_counts_its_four_projections() -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    work = DenseWork(attention)

    x_BLD = torch.zeros(2, 6, 8)
    attention(x_BLD, x_BLD, x_BLD, need_weights=False)

    assert work.take(num_steps=1, num_events=12) == 4 * 64 * 12


def test_counting_begins_anew_once_taken() -> None:
    model = nn.Linear(3, 5)
    work = DenseWork(model)
    model(torch.zeros(7, 3))
    work.take(1, 0)

    assert work.take(1, 10) == 0


def test_training_flops_are_six_per_forward_multiply_add() -> None:
    # One window of 4 events: 16 pairs, of which causal attention needs half, twice, in each of 2 layers of width 8.
    assert training_flops(dense=100, num_layers=2, width=8, squared_lengths=16, num_scores=30) == 6 * (100 + 2 * 8 * 16 + 8 * 30)
