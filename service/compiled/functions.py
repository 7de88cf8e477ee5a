"""The functions of `loops`, compiled with numba; where that cannot be done, numpy computes the same, slower.

They are compiled when the first release is loaded, before the server answers, and numba keeps them in a folder, where the next
process finds them. What was compiled for another processor or from other code does not count there. No request compiles anything.

D: width; N: numeric features; V: vector width; M: past items
"""

import logging
import time
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from service.compiled.weights import Weights
from service.states.memory import ArrayMemory
from service.states.user_state import Rows
from twotower.data.features import Floats

LOOPS = "service.compiled.loops"
Numbers = npt.NDArray[np.float64]
_log = logging.getLogger("twotower.model")


class Functions(NamedTuple):
    """Compiled functions; see `loops`. They refuse arguments of other types."""

    read: Callable[..., Any]
    keep: Callable[..., Any]
    ask: Callable[..., Any]


class CompiledModel:
    """Reads one event of a user, keeps one past item, and asks for the query and the scores of past items, each in one call."""

    def __init__(self, weights: Weights, functions: Functions) -> None:
        self._weights, self._functions = weights, functions

    def read(self, item_D: Floats, context_D: Floats, numbers_N: Numbers, times_ms: tuple[int, int], memory: ArrayMemory) -> None:
        """Read an event into a memory. Its times are those of the event before, -1 if the window has none, and its own."""
        memory.make_room(memory.length + 1)
        weights, arrays = self._weights, (memory.keys_LGCE, memory.values_LGCE)
        event = (item_D, context_D, numbers_N, *times_ms)
        memory.last_D = self._functions.read(weights.entry, weights.layers, *event, memory.length, *arrays)
        memory.length += 1

    def keep(self, vector_V: Floats) -> Floats:
        """What is kept of a past item, [1, S], from its vector with popularity."""
        kept: Floats = self._functions.keep(self._weights.past, vector_V)
        return kept

    def ask(self, hidden_D: Floats, added_D: Floats, past: Rows, now_ms: int, last_ms: int) -> tuple[Floats, Floats]:
        """Query vector [V] and full scores of past items [M]; see `loops.ask`."""
        answer: tuple[Floats, Floats] = self._functions.ask(self._weights.head, hidden_D, added_D, past, now_ms, last_ms)
        return answer


def compiled_model(weights: Weights) -> CompiledModel | None:
    """None if nothing can be compiled here."""
    made = functions()
    return made and CompiledModel(weights, made)


@cache
def functions() -> Functions | None:
    """The functions, the same for all releases of this process: from the folder if it has them, else compiled and kept there."""
    started = time.perf_counter()
    try:
        made, are_new = _compile()
    except Exception as error:  # numba is missing, has no folder that it may write to, or finds a damaged file there
        _log.warning("appended events are read with numpy, which takes longer, because numba compiles nothing: %s", error)
        return None
    if are_new:
        _log.info("compiled what reads appended events for this processor in %.1f s", time.perf_counter() - started)
    return made


def _compile() -> tuple[Functions, bool]:
    """The functions, and whether one of them was compiled anew."""
    import numba

    made, loops = [], import_module(LOOPS)
    for function, types in ((loops.read, loops.READ), (loops.keep, loops.KEEP), (loops.ask, loops.ASK)):
        made.append(numba.njit(cache=True, nogil=True, **loops.OPTIONS)(function))
        made[-1].compile(types)
        made[-1].disable_compile()
    return Functions(*made), any(not function.stats.cache_hits for function in made)
