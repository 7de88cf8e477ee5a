"""Scaling laws fitted to runs: valleys, exponents, intervals, and their page."""
