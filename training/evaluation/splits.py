"""Evaluate rankers on the parts of the split: train, validation and test."""

import math
from pathlib import Path

import numpy as np
import torch

from training.data.read import Data
from training.evaluation.metrics import Rankings, headline_values, paired_differences, paired_ratio, summarise
from training.evaluation.ranked_batch import ANSWERS_AT_ONCE
from training.evaluation.rankers import PROTOCOLS, QUERIES_PER_BATCH, Model, PersonalFrequency, Popularity, Query, Ranker, rank
from training.recipes.config import ProtocolName
from twotower.artefacts.bundle import Towers
from twotower.device import ON_CPU, Device, Needs, bytes_of_weights, with_room
from twotower.model.catalogue import embed_catalogue
from twotower.progress import step

SAMPLE_ANSWERS = 10_000  # sampled of the train and validation parts; the test part is evaluated whole
EXPLORING = "unseen_recall@10"  # the metric that is reported as a ratio to that of popularity


def compare_with_counters(
    data: Data, towers: Towers, items: Path, queries: list[Query], name: str, device: Device = ON_CPU
) -> dict[str, dict[str, float]]:
    """Metrics of a bundle's model, which computes on the device, and of the counting baselines on the same queries."""
    return evaluate_part(data, with_counters(data, model_of(data, towers, items, device)), queries, name)


def model_of(data: Data, towers: Towers, items: Path, device: Device) -> Model:
    """A bundle's model as a ranker: towers, item vectors and scores lie on the device. Moves the towers there.

    EnvironmentProblem for a GPU without room for them.
    """
    model = towers.config.model
    device = with_room(device, needs(towers, len(data.item_ids)))
    embedder, contextualizer = towers.embedder.to(device.torch_device), towers.contextualizer.to(device.torch_device)
    with step("embed items", total=len(data.item_ids), unit="items") as work:
        parts = embed_catalogue(items, towers.schema.items, embedder, model.item_spec, model.table_rows, work.advance, device)
        vectors_ND = torch.from_numpy(np.concatenate([vectors for _, vectors in parts])).to(device.torch_device)
    return Model(contextualizer, model, vectors_ND, data.log, data.snapshots, embedder)


def needs(towers: Towers, num_items: int) -> Needs:
    """The bytes of an evaluation: beside a matrix of scores, one row of it in float64, and comparisons with some answers."""
    width = towers.config.model.width
    return Needs(
        weights=bytes_of_weights(towers.embedder, towers.contextualizer),
        vectors=4 * width * num_items,
        batch=num_items * (4 * QUERIES_PER_BATCH + 3 * 8 + ANSWERS_AT_ONCE),
    )


def with_counters(data: Data, model: Ranker) -> dict[str, Ranker]:
    """The model and the counting baselines that it must beat."""
    return {
        "model": model,
        "popularity": Popularity(data.snapshots),
        "personal_frequency": PersonalFrequency(data.snapshots),
    }


def evaluate_splits(data: Data, model: Ranker, protocol: ProtocolName, seed: int) -> dict[str, dict[str, dict[str, float]]]:
    """Metrics of the model on all three parts of the split; on the test part those of the counting baselines too."""
    rng, queries_of = np.random.default_rng(seed), PROTOCOLS[protocol]
    month_ms = data.test_from_ms - data.train_until_ms
    parts = {
        "train": sample(rng, queries_of(data.log, data.train_until_ms - month_ms, data.train_until_ms), SAMPLE_ANSWERS),
        "validation": sample(rng, queries_of(data.log, data.train_until_ms, data.test_from_ms), SAMPLE_ANSWERS),
        "test": queries_of(data.log, data.test_from_ms, data.end_ms),
    }
    result: dict[str, dict[str, dict[str, float]]] = {}
    for name, queries in parts.items():
        result[name] = evaluate_part(data, with_counters(data, model) if name == "test" else {"model": model}, queries, name)
    return result


def evaluate_part(data: Data, rankers: dict[str, Ranker], queries: list[Query], name: str) -> dict[str, dict[str, float]]:
    """Metrics of several rankers on the same queries; empty when there are no queries."""
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
    """The model's recall over that of popularity on items new to the user, ranked among such items, with a paired interval."""
    ours, theirs = headline_values(model)[EXPLORING][0], headline_values(popularity)[EXPLORING][0]
    name = f"over popularity: {EXPLORING}"
    bounds = paired_ratio(ours, theirs, model.user_Q)
    return {f"{name}{end}": value for end, value in zip(("", ".low", ".high"), bounds, strict=True) if not math.isnan(value)}


def sample(rng: np.random.Generator, queries: list[Query], num_answers: int) -> list[Query]:
    """All queries of so many users that they have about `num_answers` answers in total.

    Users are taken whole because their queries share forward passes. Answers are counted because metrics average over them: 300
    next baskets tell as much as 3,000 next events.
    """
    users, user_Q = np.unique([q.user for q in queries], return_inverse=True)
    answers_U = np.bincount(user_Q, [len(q.answers) for q in queries])
    order = rng.permutation(len(users))
    enough = int(np.searchsorted(np.cumsum(answers_U[order]), num_answers)) + 1
    chosen = set(users[order[:enough]].tolist())
    return [q for q in queries if q.user in chosen]
