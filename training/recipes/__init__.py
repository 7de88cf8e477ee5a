"""Configurations: budgets, and the recipes that a user names."""
