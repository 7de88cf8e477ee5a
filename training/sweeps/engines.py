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
ATTEMPTS = 2  # of a run in whose process another one may have died


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
    """Compute in processes of this machine. A process that dies takes only its runs with it, and they are tried once more."""
    attempts, left = dict.fromkeys((one.key for one in queue), 0), list(queue)
    while left:
        waiting, begun = list(left), dict[Future[Run], Settings]()
        pool = ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn"), initializer=begin)
        try:
            while waiting or begun:
                while waiting and len(begun) < num_workers:
                    settings = waiting.pop(0)
                    attempts[settings.key] += 1
                    begun[pool.submit(computed, settings, files)] = settings
                for future in wait(begun, return_when=FIRST_COMPLETED).done:
                    run = future.result()
                    left.remove(begun.pop(future))
                    yield run
        except BrokenProcessPool:
            for settings in list(begun.values()):
                if attempts[settings.key] >= ATTEMPTS:
                    left.remove(settings)
                    yield ended(settings, "failed", f"its process died {ATTEMPTS} times, perhaps for want of memory")
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
