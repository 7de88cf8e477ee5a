"""`twotower plan` prints tables or JSON, and refuses in one sentence."""

import json

import pytest

from training.commands.plan_command import main
from twotower.cli import main as twotower


def test_the_plan_is_a_page_that_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--flops", "1e18", "--metric", "ndcg@10", "--items", "1e6", "--events", "1e9", "--gpu-memory", "80GB"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 118
    assert len(out.splitlines()) <= 45
    for words in (
        "published points  38.9M  4.28B  110",
        "published law     43.4M  3.84B   88",
        "N ~ C^0.617, D ~ C^0.383; standard error 0.0248, 95 % interval ±0.079",
        "480 wide, 15 layers",
        "2.0%: mlp, 2 layers, 968 wide",
        "2,048 queries in 8 windows, for throughput; ndcg@10 gains little above 200 to 275",
        "learning rate 0.004",
        "a GPU: not timed",
        "no estimate",
        "1B events, read 4.22 times each",
    ):
        assert words in out


def test_the_json_is_the_same_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--flops", "1e15", "--metric", "recall@10", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["metric"], made["model"]["width"], made["schedule"]["batch"]) == ("recall@10", 104, 2048)
    assert made["expected"]["value"] is None


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ([], "name it first"),
        (["--metric", "clicks"], "there is no metric 'clicks'"),
        (["--metric", "ndcg@10", "--gpu-memory", "much"], "'much' is no size of memory"),
        (["--metric", "ndcg@10", "--law", "nowhere.json"], "there is no law nowhere.json"),
    ],
)
def test_bad_input_gets_a_sentence_and_exit_status_2(options: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert twotower(["plan", "--flops", "1e15", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("twotower: error: ")
    assert why in line
