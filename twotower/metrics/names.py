"""The names of metrics, and what tables call them. One home: whatever accepts or shows a metric reads it here."""

HEADLINE = {
    "recall@10": "R@10",
    "ndcg@10": "NDCG@10",
    "mrr@10": "MRR@10",
    "hit_rate@10": "HR@10",
    "unseen_recall@10": "unseen R@10",
    "set_loss": "set loss",
}  # metrics with confidence intervals, and their names in tables
BESIDE = {
    "coverage@10": "coverage@10",
    "gini@10": "Gini@10",
    "debiased_recall@10": "debiased R@10",
    "user_recall@10": "R@10 by user",
    "entropy": "entropy",
    "batch_local_loss": "batch-local loss",
    "batch_local_recall@10": "batch-local R@10",
}  # further metrics in tables; losses and entropy are in nats
LOSSES = frozenset({"set_loss", "batch_local_loss"})  # lower is better
