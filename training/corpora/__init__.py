"""Public data sets, and your own files, written as events and items."""
