"""Where the runs of a sweep are computed: in processes of this machine, or on a Ray cluster."""

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from importlib.util import find_spec
from typing import Literal

from training.sweeps.corpus import Files
from training.sweeps.ledger import Run, Settings
from training.sweeps.measure import ended
from training.sweeps.worker import begin, computed
from twotower.errors import EnvironmentProblem

EngineName = Literal["local", "ray"]


def compute(engine: EngineName, queue: Sequence[Settings], files: Files, num_workers: int) -> Iterator[Run]:
    """The runs of the queue as they end. Several are computed at once, each with one thread: as many as the cluster has cores,
    or `num_workers` on this machine. EnvironmentProblem where Ray is wanted and cannot be used.
    """
    if engine == "local":
        yield from here(queue, files, num_workers)
        return
    if find_spec("ray") is None:
        raise EnvironmentProblem("--engine ray needs Ray, which is not installed: pip install 'twotower[ray]', on every node")
    from training.sweeps.ray_engine import on_ray

    yield from on_ray(queue, files)


def here(queue: Sequence[Settings], files: Files, num_workers: int) -> Iterator[Run]:
    """Compute in processes of this machine. A process that dies breaks off the runs beside it, and does not say whose it was:
    those runs are computed again, one at a time, and the one whose process dies then has failed.
    """
    together, alone = list(queue), list[Settings]()
    while together or alone:
        if together:
            yield from until_a_death(together, files, num_workers, broken_off=alone)
            continue
        settings = alone.pop(0)
        deaths = list[Settings]()
        yield from until_a_death([settings], files, 1, broken_off=deaths)
        if deaths:
            yield ended(settings, "failed", "its process died twice, perhaps for want of memory")


def until_a_death(left: list[Settings], files: Files, num_workers: int, broken_off: list[Settings]) -> Iterator[Run]:
    """Compute what is `left`, the first of it first, until a process dies. The runs that were being computed then are moved
    to `broken_off`.
    """
    begun = dict[Future[Run], Settings]()
    pool = ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn"), initializer=begin)
    try:
        while left or begun:
            while left and len(begun) < num_workers:
                begun[pool.submit(computed, left[0], files)] = left[0]
                left.pop(0)
            for future in wait(begun, return_when=FIRST_COMPLETED).done:
                run = future.result()
                begun.pop(future)
                yield run
    except BrokenProcessPool:
        broken_off.extend(begun.values())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
