"""Kernels of serving on a GPU: the search, and what the model computes beside its layers. Each has its torch reference."""
