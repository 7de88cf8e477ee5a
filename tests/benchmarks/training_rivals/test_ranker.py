from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.training_rivals.job import ITEM_ROWS, ITEM_VECTORS, QUERY_VECTORS
from benchmarks.training_rivals.ranker import Dot, load_peer
from training.data.read import Data
from training.evaluation.rankers import Query, next_basket, rank
from twotower.data.features import Floats
from twotower.data.item_statistics import ItemStatistics


def finished(directory: Path, known: list[int], vectors: list[list[float]], queries: list[list[float]]) -> Path:
    directory.mkdir()
    np.save(directory / ITEM_ROWS, np.array(known))
    np.save(directory / ITEM_VECTORS, np.array(vectors, np.float32))
    np.save(directory / QUERY_VECTORS, np.array(queries, np.float32))
    return directory


def scores(ranker: Dot, query: Query, num_items: int) -> Floats:
    out_QN = torch.full((1, num_items), torch.nan)
    ranker.score([query], [ItemStatistics.empty()], out_QN)
    return out_QN[0].numpy()


def test_a_peer_is_scored_by_its_own_vectors_and_what_it_does_not_know_comes_last(data: Data, tmp_path: Path) -> None:
    queries = next_basket(data.log, data.test_from_ms, data.end_ms)[:2]
    directory = finished(tmp_path / "peer", [3, 1], [[1.0, 0.0], [0.0, 2.0]], [[5.0, 1.0], [0.5, 1.0]])

    ranker = load_peer(directory, data, queries)

    first, second = (scores(ranker, query, len(data.item_ids)) for query in queries)
    assert [first[3], first[1]] == [5.0, 2.0]
    assert [second[3], second[1]] == [0.5, 2.0]
    others = np.delete(first, [1, 3])
    assert others.min() == others.max() < -1000


def test_a_user_without_a_known_history_gets_what_is_popular(data: Data, tmp_path: Path) -> None:
    queries = next_basket(data.log, data.test_from_ms, data.end_ms)[:1]
    directory = finished(tmp_path / "peer", [3, 1], [[1.0, 0.0], [0.0, 2.0]], [[0.0, 0.0]])

    answered = scores(load_peer(directory, data, queries), queries[0], len(data.item_ids))

    assert answered.tolist() == data.snapshots.day(queries[0].now_ms)[0].tolist()


def test_a_peer_is_judged_by_the_code_that_judges_ours(data: Data, tmp_path: Path) -> None:
    queries = next_basket(data.log, data.test_from_ms, data.end_ms)[:1]
    answer = int(queries[0].answers[0])
    directory = finished(tmp_path / "peer", [answer], [[1.0]], [[1.0]])

    ranked = rank({"peer": load_peer(directory, data, queries)}, data.log, queries, data.train_count_N)["peer"]

    assert ranked.rank_A[0] == 1.0
    assert np.isnan(ranked.nll_A).all()


def test_answers_to_other_queries_are_refused(data: Data, tmp_path: Path) -> None:
    queries = next_basket(data.log, data.test_from_ms, data.end_ms)[:3]
    directory = finished(tmp_path / "peer", [3], [[1.0]], [[1.0]])

    with pytest.raises(ValueError, match="delete it"):
        load_peer(directory, data, queries)
