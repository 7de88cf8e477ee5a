"""Ops of the search: each file holds one op, its torch reference and its Triton implementation."""
