"""The page of a ledger."""

import numpy as np

from tests.training.laws.synthetic_runs import BEHAVIOUR, a_run, isoflop_grid, isoflop_runs
from training.report.law_page import laws_page
from training.sweeps.ledger import Run


def isoflop() -> list[Run]:
    return isoflop_runs(isoflop_grid(BEHAVIOUR, noise=0.005))


def shares(corpus: str) -> list[Run]:
    return [
        a_run(sweep="share", corpus=corpus, share=share, metrics={"set_loss": 8 + float(np.log10(share / 0.05)) ** 2})
        for share in (0.01, 0.02, 0.05, 0.1, 0.2)
    ]


def test_each_figure_is_there_only_where_its_runs_exist() -> None:
    text, drawings = laws_page(isoflop(), "laws")
    assert {name.partition("-")[0] for name in drawings} == {"valley", "frontier", "expected", "agreement"}
    assert "embedder" not in text


def test_the_headline_says_the_exponents_with_intervals_beside_the_published_ones() -> None:
    text, _ = laws_page(isoflop(), "laws")
    assert "By set_loss, N* grows as C^0.6" in text
    assert "Published: C^0.617 and C^0.383." in text


def test_shares_of_several_corpora_are_compared_in_one_figure() -> None:
    text, drawings = laws_page(shares("zipf-1.0-aa") + shares("zipf-1.5-bb"), "laws")
    assert {"share-zipf-1-0-aa-set-loss", "share-zipf-1-5-bb-set-loss", "share-optima"} == drawings.keys()
    assert "best share by set_loss" in text


def test_one_corpus_can_be_shown_alone() -> None:
    _, drawings = laws_page(shares("zipf-1.0-aa") + shares("zipf-1.5-bb"), "laws", "zipf-1.5-bb")
    assert drawings.keys() == {"share-zipf-1-5-bb-set-loss", "share-optima"}


def test_negatives_batches_and_frozen_models_have_their_sections() -> None:
    negatives = [
        a_run(
            sweep="negatives",
            negatives=number,
            parameters=size,
            popular=True,
            log_q=log_q,
            metrics={"set_loss": 8 + float(np.log10(number / 500)) ** 2 + size / 1e6, "recall@10": size / 1e7 + number / 1e6},
        )
        for number in (64, 256, 1024, 4096)
        for size in (1000, 2000, 3000, 4000)
        for log_q in (True, False)
    ]
    batches = [a_run(sweep="batch", batch=b, metrics={"set_loss": 8 + float(np.log1p(b / 500))}) for b in (64, 256, 1024, 4096)]
    frozen = [
        a_run(sweep="drift", seed=age, metrics={f"week {week}: set_loss": 8 + 0.1 * week + 0.01 * size for week in range(age)})
        for age in (1, 4, 7)
        for size in (1, 2)
    ]
    text, drawings = laws_page([*negatives, *batches, *frozen], "laws")
    assert {"negatives", "batch", "aging", "agreement"} == {name.partition("-")[0] for name in drawings}
    assert "agreement-by-k-grocery-1a2b-negatives-set-loss" in drawings
    assert "set_loss changes by +0.1 [" in text


def test_runs_that_are_left_out_and_valleys_without_a_bottom_are_said() -> None:
    runs = [run for run in shares("zipf-1.0-aa") if run.share >= 0.05]
    text, _ = laws_page([*runs, a_run(sweep="share", corpus="zipf-1.0-aa", outcome="diverged")], "laws")
    assert "left out of every fit: 1 (diverged)" in text
    assert "set_loss, zipf-1.0-aa: the valley at 1e+12 FLOPs has 3 sizes, and needs 4: run 1 more" in text


def test_the_page_asks_nothing_of_the_network_and_escapes_names() -> None:
    text, _ = laws_page(shares("<script>$a$"), "<b>laws")
    assert "<script" not in text
    assert "<b>laws" not in text
    assert "http:" not in text.replace("http://www.w3.org", "")
