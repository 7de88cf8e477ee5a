"""Ranking metrics with confidence intervals, and rank correlation."""
