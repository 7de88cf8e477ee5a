"""Metrics computed from ranks. The candidates are the full catalogue unless the name of a metric says otherwise.

Q: queries, A: answers of all queries, N: items, K: places of a list
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from twotower.data.features import Floats, Ints
from twotower.metrics.names import HEADLINE, LOSSES
from twotower.metrics.ranking import ndcg_at, recall_at, resamples, tied_ranks, user_bootstrap

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

CUTOFFS = (1, 5, 10, 20, 100)
FREQUENCY_BUCKETS = {"0-0": (0, 0), "1-4": (1, 4), "5-9": (5, 9), "10-29": (10, 29), "30+": (30, 10**9)}
UNSEEN = "unseen_{}"
SLICES = {
    "repeat_{}": "repeat: the user had it",
    "explore_{}": "explore: new to the user",
    UNSEEN: "explore, among the unseen",
    "warm_{}": "warm: in training",
    "cold_{}": "cold: not in training",
    **{f"{{}}[train count {name}]": f"{name.replace('0-0', '0')} events in training" for name in FREQUENCY_BUCKETS},
}  # kinds of answers: the pattern of their metrics' names, and their labels in tables
BATCH_LOCAL_WARNING = (
    "batch-local loss is a poor stand-in for full-catalogue loss; its ranking is only a proxy, for comparing architectures"
)


@dataclass(frozen=True, slots=True)
class Rankings:
    """The results of a ranker on all queries of a protocol: enough to compute every metric, small enough to store."""

    user_Q: Ints
    answer_query_A: Ints
    rank_A: Array  # in the catalogue; 1 is best, and tied items share their mean rank
    unseen_rank_A: Array  # among items that the user never had
    local_rank_A: Array  # among the answers of the queries of its batch
    nll_A: Array  # -log softmax over the catalogue, nats; NaN for rankers without probabilities
    local_nll_A: Array  # -log softmax over the answers of the queries of its batch, nats
    entropy_Q: Array  # entropy of the softmax over the catalogue, nats
    past_A: Flags  # whether the user had the item before
    train_count_A: Ints  # events of the item in training
    top10_QK: Ints

    @property
    def user_A(self) -> Ints:
        """The user of each answer."""
        users: Ints = self.user_Q[self.answer_query_A]
        return users


def likelihood(scores_N: Floats) -> tuple[float, float]:
    """The log partition of one query's scores and the entropy of their softmax, in nats."""
    highest = scores_N.max()
    weights_N = np.exp(scores_N - highest)
    total = float(weights_N.sum(dtype=np.float64))
    log_partition = float(highest) + math.log(total)
    return log_partition, log_partition - float(weights_N @ scores_N) / total


def candidate_set(num_items: int, *, past_masked: bool) -> str:
    """Describes the candidates, without which the value of a ranking metric means nothing."""
    return f"full catalogue, {num_items:,} items, past items {'masked' if past_masked else 'kept'}"


def summarise(rankings: Rankings, num_items: int) -> dict[str, float]:
    """Every metric, and the 95 % intervals of the headline ones, as one flat table."""
    result = point_metrics(rankings, num_items)
    for name, (values, users) in headline_values(rankings).items():
        if name in result:
            result[f"{name}.low"], result[f"{name}.high"] = user_bootstrap(values, users)
    return result


def point_metrics(rankings: Rankings, num_items: int) -> dict[str, float]:
    """`summarise` without intervals, which is cheap enough for use during training. Means over nothing are left out.

    `recall`, `ndcg`, `mrr` and `hit_rate` are means over queries, `user_` ones over users; losses are means over answers.
    """
    assert np.bincount(rankings.answer_query_A, minlength=len(rankings.user_Q)).all(), "every query has an answer"
    result: dict[str, float] = {
        "queries": float(len(rankings.user_Q)),
        "users": float(len(np.unique(rankings.user_Q))),
        "answers": float(len(rankings.rank_A)),
    }
    everything = np.ones(len(rankings.rank_A), bool)
    for k in CUTOFFS:
        result[f"recall@{k}"] = mean(recall(rankings, rankings.rank_A, k, everything))
    result |= quality("{}", rankings, rankings.rank_A, everything)
    result["user_recall@10"] = mean(per_user(recall(rankings, rankings.rank_A, 10, everything), rankings.user_Q))
    result["user_ndcg@10"] = mean(per_user(ndcg(rankings, rankings.rank_A, 10, everything), rankings.user_Q))
    result["debiased_recall@10"] = mean(debiased_recall(rankings, 10))
    for template, (rank_A, among_A) in slices(rankings).items():
        result[template.format("answers")] = float(among_A.sum())
        result |= quality(template, rankings, rank_A, among_A)
        if template != UNSEEN:
            result[template.format("set_loss")] = mean(rankings.nll_A[among_A])
    result["set_loss"] = mean(rankings.nll_A)
    result["perplexity"] = float(np.exp(result["set_loss"]))
    result["entropy"] = mean(rankings.entropy_Q)
    result["coverage@10"] = len(np.unique(rankings.top10_QK)) / num_items
    result["gini@10"] = gini(np.bincount(rankings.top10_QK.ravel(), minlength=num_items))
    result["batch_local_recall@10"] = mean(recall(rankings, rankings.local_rank_A, 10, everything))
    result["batch_local_loss"] = mean(rankings.local_nll_A)
    return {name: value for name, value in result.items() if not math.isnan(value)}


def slices(rankings: Rankings) -> dict[str, tuple[Array, Flags]]:
    """For each of SLICES, the ranks to use and the answers that belong to it."""
    rank_A, past_A, count_A = rankings.rank_A, rankings.past_A, rankings.train_count_A
    parts = [
        (rank_A, past_A),
        (rank_A, ~past_A),
        (rankings.unseen_rank_A, ~past_A),
        (rank_A, count_A > 0),
        (rank_A, count_A == 0),
    ]
    parts += [(rank_A, (count_A >= low) & (count_A <= high)) for low, high in FREQUENCY_BUCKETS.values()]
    return dict(zip(SLICES, parts, strict=True))


def quality(template: str, rankings: Rankings, rank_A: Array, among_A: Flags) -> dict[str, float]:
    """The four ranking metrics at 10 over the answers `among_A`."""
    measures = {"recall@10": recall, "ndcg@10": ndcg, "mrr@10": reciprocal_rank, "hit_rate@10": hit_rate}
    return {template.format(name): mean(measure(rankings, rank_A, 10, among_A)) for name, measure in measures.items()}


def headline_values(rankings: Rankings) -> dict[str, tuple[Array, Ints]]:
    """For each HEADLINE metric, the values whose mean it is and the user of each value, from which intervals are computed."""
    everything, users = np.ones(len(rankings.rank_A), bool), rankings.user_Q
    values = (
        (recall(rankings, rankings.rank_A, 10, everything), users),
        (ndcg(rankings, rankings.rank_A, 10, everything), users),
        (reciprocal_rank(rankings, rankings.rank_A, 10, everything), users),
        (hit_rate(rankings, rankings.rank_A, 10, everything), users),
        (recall(rankings, rankings.unseen_rank_A, 10, ~rankings.past_A), users),
        (rankings.nll_A, rankings.user_A),
    )
    return dict(zip(HEADLINE, values, strict=True))


def paired_differences(ours: Rankings, theirs: Rankings) -> dict[str, float]:
    """95 % intervals of our headline metrics minus theirs on the same queries, for metrics that both have."""
    result: dict[str, float] = {}
    other = headline_values(theirs)
    for name, (values, users) in headline_values(ours).items():
        difference = values - other[name][0]
        if not np.isnan(difference).all():
            result[f"{name}.low"], result[f"{name}.high"] = user_bootstrap(difference, users)
    return result


class Gain(NamedTuple):
    """95 % interval of the model minus another ranker, and the conclusion from it."""

    low: float
    high: float
    says: Literal["better", "worse", "undecided"]


def gain(model: Mapping[str, float], other: str, name: str) -> Gain | None:
    """The difference between a model and `other` as stored in the model's metrics; None if it is not there."""
    low, high = (model.get(f"minus {other}: {name}.{end}") for end in ("low", "high"))
    if low is None or high is None:
        return None
    worst, best = (-high, -low) if name in LOSSES else (low, high)
    return Gain(low, high, "better" if worst > 0 else "worse" if best < 0 else "undecided")


def paired_ratio(ours: Array, theirs: Array, user_Q: Ints, seed: int = 0) -> tuple[float, float, float]:
    """Our mean over theirs on the same queries, and its 95 % interval by resampling users.

    All NaN when theirs is zero, in the data or in so many resamples that an end of the interval is infinite.
    """
    there = ~np.isnan(ours) & ~np.isnan(theirs)
    if not there.any():
        return math.nan, math.nan, math.nan
    users, owner = np.unique(user_Q[there], return_inverse=True)
    sums_U2 = np.stack([np.bincount(owner, values[there], len(users)) for values in (ours, theirs)], axis=1)
    drawn = np.array([sums_U2.sum(0), *(sums_U2[pick].sum(0) for pick in resamples(len(users), seed))])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio, *draws = drawn[:, 0] / drawn[:, 1]
    # The nearest resample, because one cannot interpolate towards infinity.
    low, high = np.quantile(draws, (0.025, 0.975), method="nearest")
    if not math.isfinite(ratio + high):
        return math.nan, math.nan, math.nan
    return float(ratio), float(low), float(high)


def mean(values: Array) -> float:
    """Mean of the values that are not NaN."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else float("nan")


def recall(rankings: Rankings, rank_A: Array, k: int, among_A: Flags) -> Array:
    """Recall@k of each query over its answers in `among_A`; NaN for a query without such answers."""
    return recall_at(k, rank_A[among_A], rankings.answer_query_A[among_A], len(rankings.user_Q))


def debiased_recall(rankings: Rankings, k: int) -> Array:
    """Recall@k of each query with every answer weighted by one over its training events (at least one), self-normalised.

    Logs over-represent popular items. Inverse-propensity weights undo that (Yang et al. 2018, RecSys); the propensity here is
    the training frequency. A ranker that finds only best-sellers gets a value near zero.
    """
    weights_A = 1.0 / np.maximum(rankings.train_count_A, 1)
    return per_query(rankings, rankings.rank_A <= k, weights_A)


def per_query(rankings: Rankings, hit_A: Flags, weights_A: Array | Flags) -> Array:
    """Weighted share of hits for each query; NaN where all weights are zero."""
    num_queries = len(rankings.user_Q)
    hits = np.bincount(rankings.answer_query_A, hit_A * weights_A, num_queries)
    sizes = np.bincount(rankings.answer_query_A, weights_A, num_queries)
    shares: Array = np.divide(hits, sizes, out=np.full(num_queries, np.nan), where=sizes > 0)
    return shares


def ndcg(rankings: Rankings, rank_A: Array, k: int, among_A: Flags) -> Array:
    """NDCG@k of each query: gain 1/log2(rank + 1), over an ideal cut at min(answers, k); NaN without answers."""
    return ndcg_at(k, rank_A[among_A], rankings.answer_query_A[among_A], len(rankings.user_Q))


def reciprocal_rank(rankings: Rankings, rank_A: Array, k: int, among_A: Flags) -> Array:
    """One over the best rank among the answers of each query, 0 beyond k; NaN without answers."""
    best_Q = np.full(len(rankings.user_Q), np.nan)
    np.fmin.at(best_Q, rankings.answer_query_A[among_A], rank_A[among_A])
    return np.where(best_Q > k, 0.0, 1 / best_Q)


def hit_rate(rankings: Rankings, rank_A: Array, k: int, among_A: Flags) -> Array:
    """1 where any answer of the query is in the top k, else 0; NaN without answers."""
    return np.sign(reciprocal_rank(rankings, rank_A, k, among_A))


def per_user(values_Q: Array, user_Q: Ints) -> Array:
    """The mean value of each user, so that a user with many queries counts once."""
    users, owner = np.unique(user_Q, return_inverse=True)
    return np.bincount(owner, values_Q, len(users)) / np.bincount(owner, minlength=len(users))


def gini(exposure_N: Ints) -> float:
    """Inequality of how often items are shown: 0 when all are shown equally often, near 1 when one item takes every place."""
    ordered = np.sort(exposure_N).astype(np.float64)
    place = np.arange(1, len(ordered) + 1)
    return float(((2 * place - len(ordered) - 1) * ordered).sum() / (len(ordered) * ordered.sum()))


def batch_local(scores_QN: Floats, answers: Sequence[Ints], has_probabilities: bool) -> tuple[Array, Array]:
    """Rank and -log softmax of each answer when the only candidates are the answers of the batch's queries.

    Many training programs report these, because they cost nothing. Such candidates are few and popular: BATCH_LOCAL_WARNING.
    """
    candidates = np.unique(np.concatenate(answers))
    nobody = np.zeros(0, np.int64)
    ranks, nll = [], []
    for scores_N, rows in zip(scores_QN, answers, strict=True):
        scores_C = scores_N[candidates]
        ranks.append(tied_ranks(scores_C, np.searchsorted(candidates, rows), nobody)[0])
        log_partition = likelihood(scores_C)[0] if has_probabilities else math.nan
        nll.append(log_partition - scores_N[rows].astype(np.float64))
    return np.concatenate(ranks), np.concatenate(nll)
