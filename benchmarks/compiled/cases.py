"""What is compiled for every target: calls of the launchers, with arguments of the shapes and types that are served and trained.

Only a size being 1 or a multiple of 16, and the types, change what is compiled, so tensors are small.
"""

from collections.abc import Callable

CASES: dict[str, Callable[[], object]] = {}
