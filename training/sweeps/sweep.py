"""Works through the queue of a ledger, and says how far it is and how long it will take."""

import time
from collections.abc import Sequence

from msgspec.structs import replace

from training.sweeps.corpus import Files
from training.sweeps.engines import EngineName, compute
from training.sweeps.exclusions import excluded
from training.sweeps.ledger import Ledger, Run, Settings
from twotower.progress import say, step


def sweep(ledger: Ledger, planned: Sequence[Settings], files: Files, engine: EngineName, num_workers: int) -> list[Run]:
    """Compute what is planned and has not ended, write each run as it ends, and return all that was planned."""
    added, keys = ledger.plan(planned), {one.key for one in planned}
    queue = [one for one in ledger.open_runs() if one.key in keys]
    say(f"  {len(planned)} runs are planned: {added} new, {len(planned) - len(queue)} have ended, {len(queue)} to do")
    total, begun = sum(one.flops for one in queue), time.monotonic()
    done = 0.0
    with step("sweep", total=total) as work:
        for run in compute(engine, queue, files, num_workers):
            ruled = replace(run, excluded=excluded(run))
            ledger.keep(ruled)
            done += run.flops
            work.advance(run.flops)
            left_s = (time.monotonic() - begun) * (total / done - 1)
            say(f"  {line(ruled)}; about {left_s / 60:.0f} min left")
            work.say(f"{len(queue)} runs")
    return [run for run in ledger.runs() if run.key in keys]


def line(run: Run) -> str:
    """One run for the terminal."""
    name = f"{run.sweep} {run.flops:.0e} FLOPs, {run.settings['width']} x {run.settings['num_layers']}, seed {run.seed}"
    if run.outcome != "done":
        return f"{name}: {run.outcome}, {run.reason}"
    loss = run.metrics.get("set_loss")
    measured = "" if loss is None else f"loss {loss:.3f}, NDCG@10 {run.metrics['ndcg@10']:.4f}, "
    left_out = f", left out of fits: {run.excluded}" if run.excluded else ""
    return f"{name}: {measured}{run.parameters:,} parameters, {run.events:,} events, {run.seconds:.0f} s{left_out}"
