"""Where the runs of a sweep are computed: in processes of this machine, or on a Ray cluster."""

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from typing import Any, Literal

from training.sweeps.corpus import Corpus, Files, read_corpus
from training.sweeps.ledger import Run, Settings
from training.sweeps.measure import ended, measure

EngineName = Literal["local", "ray"]
ATTEMPTS = 2  # of a run in whose process another one may have died


def compute(engine: EngineName, queue: Sequence[Settings], files: Files, num_workers: int) -> Iterator[Run]:
    """The runs of the queue as they end. Several are computed at once, each with one thread."""
    yield from (on_ray if engine == "ray" else here)(queue, files, num_workers)


def here(queue: Sequence[Settings], files: Files, num_workers: int) -> Iterator[Run]:
    """Compute in processes of this machine. A process that dies takes only its runs with it, and they are tried once more."""
    attempts, left = dict.fromkeys((one.key for one in queue), 0), list(queue)
    while left:
        waiting, begun = list(left), dict[Future[Run], Settings]()
        pool = ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn"), initializer=one_thread)
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


def on_ray(queue: Sequence[Settings], files: Files, num_workers: int) -> Iterator[Run]:
    """Compute on the Ray cluster that this machine belongs to; the files must be where every node finds them."""
    import ray

    ray.init(ignore_reinit_error=True, log_to_driver=False, num_cpus=num_workers, include_dashboard=False)
    try:
        task: Any = ray.remote(num_cpus=1, max_retries=1)(computed)
        pending = {task.remote(settings, files): settings for settings in queue}
        while pending:
            (ready, *_), _ = ray.wait(list(pending), num_returns=1)
            settings = pending.pop(ready)
            try:
                yield ray.get(ready)
            except ray.exceptions.RayError as error:
                yield ended(settings, "failed", f"Ray gave it up: {type(error).__name__}")
    finally:
        ray.shutdown()


def computed(settings: Settings, files: Files) -> Run:
    """One run, in the process of a worker, which reads the corpus once."""
    one_thread()
    return measure(settings, _corpus(files))


def one_thread() -> None:
    """Several runs at once share the cores better than the threads of one."""
    import torch

    torch.set_num_threads(1)


@cache
def _corpus(files: Files) -> Corpus:
    return read_corpus(files)
