"""Ranking metrics with intervals, and rank correlation."""
