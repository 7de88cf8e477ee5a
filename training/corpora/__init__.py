"""Public data sets written as events, items and schema."""
