"""Configurations: published optima, budgets, and the recipes that a user names."""
