"""Metrics, protocols and the counters that a model must beat."""
