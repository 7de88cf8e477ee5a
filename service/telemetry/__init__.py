"""Metrics, the record of a request, logs, traces."""
