"""Triton kernels of the losses, each beside its torch reference."""
