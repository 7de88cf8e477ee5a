"""Readiness: whether a load balancer should send requests to this process."""

from dataclasses import dataclass

from service.engine.thread import Engine


@dataclass(slots=True)
class Readiness:
    """The state that /livez and /readyz report."""

    engine: Engine
    heartbeat_limit_s: float
    leaving: str | None = None  # why no further requests should be sent to this process; None: they may be sent

    def trouble(self) -> str | None:
        """What is wrong with the engine; None if nothing is."""
        return self.engine.trouble(self.heartbeat_limit_s)
