"""Rankers side by side on the parts of the split."""

import math
from pathlib import Path

import numpy as np
import torch

from training.data.read import Data
from training.evaluation.metrics import Rankings, headline_values, paired_differences, paired_ratio, summarise
from training.evaluation.rankers import PROTOCOLS, Model, PersonalFrequency, Popularity, Query, Ranker, rank
from training.recipes.config import ProtocolName
from twotower.artefacts.bundle import Towers
from twotower.model.catalogue import embed_catalogue
from twotower.progress import step

SAMPLE_ANSWERS = 10_000  # of the training and validation parts; the test part is judged whole
EXPLORING = "unseen_recall@10"  # the metric whose ratio to popularity's is reported


def compare_with_counters(
    data: Data, towers: Towers, items: Path, queries: list[Query], name: str
) -> dict[str, dict[str, float]]:
    """Metrics of a bundle's model and of the counters on the same queries."""
    model = towers.config.model
    with step("embed items", total=len(data.item_ids), unit="items") as work:
        parts = embed_catalogue(items, towers.schema.items, towers.embedder, model.item_spec, model.table_rows, work.advance)
        vectors_ND = torch.from_numpy(np.concatenate([vectors for _, vectors in parts]))
    return judge_part(
        data, with_counters(data, Model(towers.contextualizer, model, vectors_ND, data.log, data.snapshots)), queries, name
    )


def with_counters(data: Data, model: Ranker) -> dict[str, Ranker]:
    """The model, and what it must beat."""
    return {
        "model": model,
        "popularity": Popularity(data.snapshots),
        "personal_frequency": PersonalFrequency(data.snapshots),
    }


def judge(data: Data, model: Ranker, protocol: ProtocolName, seed: int) -> dict[str, dict[str, dict[str, float]]]:
    """Metrics of the model on all three parts of the split, with the counters beside it on the test part."""
    rng, queries_of = np.random.default_rng(seed), PROTOCOLS[protocol]
    month_ms = data.test_from_ms - data.train_until_ms
    parts = {
        "train": sample(rng, queries_of(data.log, data.train_until_ms - month_ms, data.train_until_ms), SAMPLE_ANSWERS),
        "validation": sample(rng, queries_of(data.log, data.train_until_ms, data.test_from_ms), SAMPLE_ANSWERS),
        "test": queries_of(data.log, data.test_from_ms, data.end_ms),
    }
    result: dict[str, dict[str, dict[str, float]]] = {}
    for name, queries in parts.items():
        result[name] = judge_part(data, with_counters(data, model) if name == "test" else {"model": model}, queries, name)
    return result


def judge_part(data: Data, rankers: dict[str, Ranker], queries: list[Query], name: str) -> dict[str, dict[str, float]]:
    """Metrics of several rankers on the same queries; nothing when there are no queries."""
    if not queries:
        return {}
    with step(f"rank {name}", total=len(queries), unit="queries") as work:
        work.say(", ".join(rankers).replace("_", " "))
        ranked = rank(rankers, data.log, queries, data.train_count_N, work.advance)
        result = {ranker: summarise(rankings, len(data.item_ids)) for ranker, rankings in ranked.items()}
        for other in [name for name in rankers if name != "model"]:
            for bound, value in paired_differences(ranked["model"], ranked[other]).items():
                result["model"][f"minus {other}: {bound}"] = value
        if "popularity" in rankers:
            result["model"] |= exploring(ranked["model"], ranked["popularity"])
        return result


def exploring(model: Rankings, popularity: Rankings) -> dict[str, float]:
    """How many times popularity's recall the model reaches on new items ranked among the unseen, with its paired interval."""
    ours, theirs = headline_values(model)[EXPLORING][0], headline_values(popularity)[EXPLORING][0]
    name = f"over popularity: {EXPLORING}"
    bounds = paired_ratio(ours, theirs, model.user_Q)
    return {f"{name}{end}": value for end, value in zip(("", ".low", ".high"), bounds, strict=True) if not math.isnan(value)}


def sample(rng: np.random.Generator, queries: list[Query], num_answers: int) -> list[Query]:
    """Queries with about `num_answers` answers in all, of whole users; users stay together because they share forward passes.

    Answers, because they are what a metric averages over: 300 next baskets say as much as 3,000 next events.
    """
    users, user_Q = np.unique([q.user for q in queries], return_inverse=True)
    answers_U = np.bincount(user_Q, [len(q.answers) for q in queries])
    order = rng.permutation(len(users))
    enough = int(np.searchsorted(np.cumsum(answers_U[order]), num_answers)) + 1
    chosen = set(users[order[:enough]].tolist())
    return [q for q in queries if q.user in chosen]
