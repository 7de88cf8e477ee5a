"""Ops of the model: each file holds one op, its torch reference and its Triton implementation."""
