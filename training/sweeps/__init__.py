"""Sweeps: many small training runs that differ in a few settings, their queue, and the ledger of what they measured."""
