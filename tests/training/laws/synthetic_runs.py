"""Runs whose law is known."""

import numpy as np
import numpy.typing as npt

from training.laws.parametric import Parametric
from training.laws.surface import Points
from training.sweeps.ledger import Outcome, Run

Array = npt.NDArray[np.float64]

CHINCHILLA = Parametric(*(np.array(value) for value in (1.82, 482.0, 0.348, 2085.0, 0.366)))  # refit by Besiroglu et al. 2024
BEHAVIOUR = Parametric(*(np.array(value) for value in (3.0, 60.0, 0.30, 4000.0, 0.48)))  # N* ~ C^0.615
BUDGETS: Array = np.array([1e15, 1e16, 1e17, 1e18, 1e19])


def isoflop_grid(
    law: Parametric, budgets: Array = BUDGETS, num_sizes: int = 7, step: float = 2.0, noise: float = 0.0, seed: int = 0
) -> Points:
    """Sizes by factors of `step` around the optimum of each budget, C = 6ND, and losses with so much relative noise."""
    scale = (law.alpha * law.A / (law.beta * law.B)) ** (1 / (law.alpha + law.beta))
    best = scale * (budgets / 6) ** law.size_exponent
    parameters = np.outer(best, step ** (np.arange(num_sizes) - (num_sizes - 1) / 2)).ravel()
    flops = np.repeat(budgets, num_sizes)
    events = flops / (6 * parameters)
    loss = law.at(parameters, events) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(flops)))
    return Points(flops, parameters, events, loss)


def a_run(
    *,
    flops: float = 1e12,
    parameters: int = 100_000,
    events: int = 1_000_000,
    share: float = 0.02,
    batch: int = 512,
    negatives: int = 1024,
    sweep: str = "isoflop",
    corpus: str = "grocery-1a2b",
    seed: int = 0,
    outcome: Outcome = "done",
    excluded: str = "",
    popular: bool = False,
    log_q: bool = True,
    metrics: dict[str, float] | None = None,
) -> Run:
    """A run, of which a test says what matters to it."""
    shown = {"set_loss": 8.0} if metrics is None else metrics
    return Run(
        key=f"{sweep}-{flops:.3g}-{parameters}-{share:.3g}-{batch}-{negatives}-{popular}{log_q}-{seed}-{events}",
        sweep=sweep,
        corpus=corpus,
        flops=flops,
        flops_exact=flops,
        parameters=parameters,
        share=share,
        events=events,
        distinct_events=events,
        batch=batch,
        negatives=negatives,
        log_q=log_q,
        seed=seed,
        seconds=60.0,
        outcome=outcome,
        reason="",
        excluded=excluded,
        metrics=shown,
        settings={"popular": popular, "batch_windows": batch},
    )


def isoflop_runs(points: Points, corpus: str = "grocery-1a2b") -> list[Run]:
    """Runs of an isoFLOP sweep, whose recall rises as their loss falls."""
    return [
        a_run(
            flops=float(flops),
            parameters=round(size),
            events=round(events),
            corpus=corpus,
            metrics={"set_loss": float(loss), "recall@10": float(1 / loss), "coverage@10": 0.5},
        )
        for flops, size, events, loss in zip(*points, strict=True)
    ]
