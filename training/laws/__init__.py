"""Scaling laws fitted to runs: valleys, exponents, surfaces, and their intervals."""
