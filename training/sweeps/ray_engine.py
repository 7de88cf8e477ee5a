"""`--engine ray`: the runs of a sweep on a Ray cluster, a core for each."""

from collections.abc import Iterator, Sequence

import ray

from training.sweeps.corpus import Files
from training.sweeps.ledger import Run, Settings
from training.sweeps.measure import ended
from training.sweeps.worker import computed
from twotower.ray_cluster import cluster


def on_ray(queue: Sequence[Settings], files: Files) -> Iterator[Run]:
    """Compute on the cluster that RAY_ADDRESS names, else on this machine. Every node finds the files under the same paths.

    EnvironmentProblem when the cluster cannot be used.
    """
    there = Files(*(path.resolve() for path in (files.events, files.items, files.schema)))
    with cluster():
        task = ray.remote(num_cpus=1, max_retries=1)(computed)
        pending = {task.remote(settings, there): settings for settings in queue}
        while pending:
            (ready, *_), _ = ray.wait(list(pending), num_returns=1)
            settings = pending.pop(ready)
            try:
                run: Run = ray.get(ready)
            except ray.exceptions.RayError as error:
                run = ended(settings, "failed", f"its process died on the cluster: {type(error).__name__}")
            yield run
