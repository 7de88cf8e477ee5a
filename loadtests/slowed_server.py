"""`twotower serve` with a failpoint: the engine sleeps before each batch, as if the machine had become slower.

`python -m loadtests.slowed_server MS ARGUMENTS`: milliseconds of sleep, then the arguments of `twotower serve`. The gate must
fail then, which shows that it can.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from service import app, command
from service.engine.thread import Batched, Engine, Place

Run = Callable[[Any, Sequence[Any]], Sequence[Any]]


class SlowedEngine(Engine):
    """Sleeps before each batch of work, on the engine's thread."""

    sleep_s: ClassVar[float] = 0.0
    slowed: ClassVar[dict[Run, Run]] = {}  # one for each function, because batches hold equal functions only

    async def submit_to(self, batched: Batched, argument: Any, place: Place) -> Any:
        """See Engine."""
        run = self.slowed.setdefault(batched.run, after_sleep(batched.run, self.sleep_s))
        return await super().submit_to(replace(batched, run=run), argument, place)


def after_sleep(run: Run, sleep_s: float) -> Run:
    """The same function, after a sleep."""

    def slow(of: Any, arguments: Sequence[Any]) -> Sequence[Any]:
        time.sleep(sleep_s)
        return run(of, arguments)

    return slow


if __name__ == "__main__":
    SlowedEngine.sleep_s = float(sys.argv[1]) / 1000
    app.Engine = SlowedEngine  # type: ignore[attr-defined] # where the app finds its engine
    sys.exit(command.main(sys.argv[2:]))
