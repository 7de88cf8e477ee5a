"""The HTML pages about a run (charts, curves, verdict) and about the laws of a ledger."""
