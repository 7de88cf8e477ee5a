"""One run of a sweep spends its budget, and errors of its settings are its outcome."""

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from training.evaluation.rankers import Query
from training.sweeps.corpus import Corpus, Files, corpus_name, read_corpus
from training.sweeps.exclusions import excluded
from training.sweeps.grids import base, shape_of
from training.sweeps.measure import KEPT, measure, same_users


@pytest.fixture(scope="module")
def files(tiny_shop: Path) -> Files:
    return Files(tiny_shop / "events.parquet", tiny_shop / "items.parquet", tiny_shop / "schema.toml")


@pytest.fixture(scope="module")
def corpus(files: Files) -> Corpus:
    return read_corpus(files)


SMALL = replace(base("shop", shape_of("16x1"), window=32), sweep="isoflop", share=0.3, batch_windows=4, max_queries=16, flops=3e9)


def test_a_run_spends_its_budget_on_both_stages(corpus: Corpus) -> None:
    run = measure(SMALL, corpus)
    assert (run.outcome, run.reason) == ("done", "")
    assert run.flops_exact == pytest.approx(run.flops, rel=0.02)
    assert 6 * run.parameters * run.events < run.flops_exact, "6 N D leaves out attention and the scores of candidates"
    assert set(run.metrics) >= {name for name in KEPT if not name.startswith("unseen")}
    assert run.metrics["set_loss"] > 0
    assert excluded(run) == ""


def test_equal_settings_give_equal_metrics(corpus: Corpus) -> None:
    first, again = measure(SMALL, corpus), measure(SMALL, corpus)
    assert first.metrics == again.metrics


def test_twice_the_budget_reads_twice_the_events(corpus: Corpus) -> None:
    assert measure(replace(SMALL, flops=6e9), corpus).events == pytest.approx(2 * measure(SMALL, corpus).events, rel=0.1)


def test_a_frozen_model_is_measured_in_every_period_after_its_training(corpus: Corpus) -> None:
    run = measure(replace(SMALL, train_until=0.5, periods=3), corpus)
    weeks = [name.removesuffix(": set_loss") for name in run.metrics if name.endswith(": set_loss")]
    assert weeks == ["week 0.0", "week 2.9", "week 5.7"], "48 days of training and 12 of validation follow: three times 20 days"
    assert run.distinct_events < corpus.data.train_count_N.sum()


def test_models_of_all_ages_are_asked_about_the_same_people() -> None:
    def asked(users: range) -> set[int]:
        queries = [Query(user, 0, 0, np.arange(10)) for user in users for _ in range(5)]
        return {query.user for query in same_users(queries, num_users=1_000)}

    assert len(asked(range(1_000))) == 200, "users of 50 answers each"
    missing = set(range(500))
    assert asked(range(500, 1_000)) >= asked(range(1_000)) - missing, "where some did not come, others are asked beside the same"


def test_a_budget_that_is_too_small_fails_with_what_to_change(corpus: Corpus) -> None:
    run = measure(replace(SMALL, flops=1e8), corpus)
    assert run.outcome == "failed"
    assert "give a larger budget, a smaller model or a smaller batch" in run.reason
    assert excluded(run) == "failed"


def test_an_embedder_that_does_not_fit_its_share_fails_with_what_it_needs(corpus: Corpus) -> None:
    run = measure(replace(SMALL, share=0.001), corpus)
    assert run.outcome == "failed"
    assert "at its smallest the embedder" in run.reason


def test_a_learning_rate_that_is_too_high_diverges(corpus: Corpus) -> None:
    run = measure(replace(SMALL, learning_rate=1e30), corpus)
    assert run.outcome == "diverged"
    assert excluded(run) == "diverged"


def test_the_name_of_a_corpus_changes_with_its_data(files: Files, tmp_path: Path) -> None:
    schema = tmp_path / "schema.toml"
    schema.write_text(files.schema.read_text().replace("2025-", "2024-"))
    name = corpus_name("shop", files)
    assert name.startswith("shop-")
    assert name == corpus_name("shop", files)
    assert name != corpus_name("shop", Files(files.events, files.items, schema))
