"""The trial of a new release on servers: proposed, judged by each of them, and promoted or withdrawn."""

import time
from typing import NoReturn

from twotower.artefacts.release import newest, open_store, read_pointer
from twotower.nightly.run import Run, StepFailed, StepRefused
from twotower.nightly.servers import Json, Server, Silent, servers_of

POLL_S = 2.0


def propose(run: Run, release: str) -> str:
    """Let the servers try a release, unless they do already. Returns what was said."""
    canary, pointer = run.config.canary, read_pointer(run.store)
    if pointer.candidate is not None and pointer.candidate.release == release:
        run.night.sequence = pointer.sequence
        return f"{release} is proposed already"
    trial = ("--percent", canary.percent, "--seconds", canary.seconds, *_key(run))
    said = run.twotower("releases", "propose", release, "--store", run.store, *trial).strip()
    run.night.sequence = read_pointer(run.store).sequence
    return said


def try_on_servers(run: Run, release: str) -> str:
    """Wait until every server has judged the release. StepRefused, with the release withdrawn, unless it passed on all.

    Where servers come and go, one that was taken away is not waited for, nor is one that came after the trial had begun: but a
    limit that it breaks counts.
    """
    propose(run, release)
    began, patience_s = time.monotonic(), run.config.canary.patience_s
    servers = _servers(run)
    _hurry(servers)
    first = {server.url for server in servers}
    passed: dict[str, Json] = {}
    heard: dict[str, float] = {}
    while True:
        servers = _servers(run) or servers
        heard = {server.url: heard.get(server.url, time.monotonic()) for server in servers}
        first = first or {server.url for server in servers}
        for server in servers:
            _ask(run, release, server, passed, heard, is_awaited=server.url in first)
        waiting = [server.url for server in servers if server.url in first and server.url not in passed]
        if newest(open_store(run.store)).sequence != run.night.sequence:
            raise StepFailed(f"the store's pointer was moved by someone else, so {release} is no longer tried")
        if passed and not waiting:
            return _told(run, release, passed)
        if time.monotonic() - began > run.config.canary.seconds + patience_s:
            _withdraw(run, release, f"no verdict of {', '.join(waiting or run.config.canary.servers)} in time")
        run.waits(min(POLL_S, run.config.canary.seconds / 4))


def _ask(run: Run, release: str, server: Server, passed: dict[str, Json], heard: dict[str, float], is_awaited: bool) -> None:
    """Note what one server says; StepRefused, with the release withdrawn, when it broke a limit there, or when a server that is
    waited for was silent too long.
    """
    try:
        answer = server.releases()
    except Silent as silent:
        if is_awaited and server.url not in passed and time.monotonic() - heard[server.url] > run.config.canary.patience_s:
            _withdraw(run, release, str(silent))
        return
    heard[server.url] = time.monotonic()
    if limit := answer["quarantined"].get(release):
        _withdraw(run, release, f"{server.url} rolled it back: it broke the limit of {limit}")
    trial = answer["trial"]
    if trial and trial["release"] == release and trial["passed"]:
        passed[server.url] = trial


def _told(run: Run, release: str, passed: dict[str, Json]) -> str:
    news = [trial["new"] for trial in passed.values()]
    requests, failed, degraded = (sum(new[name] for new in news) for name in ("requests", "failed", "degraded"))
    told = f"{requests} requests, {failed} failed, {degraded} degraded"
    if requests < run.config.canary.min_requests:
        _withdraw(run, release, f"only {requests} requests tried it, {run.config.canary.min_requests} are wanted")
    slowest = max((new["p99_ms"] for new in news if new["p99_ms"] is not None), default=None)
    return f"passed on {len(passed)} servers: {told}" + (f", p99 {slowest:.1f} ms" if slowest is not None else "")


def _withdraw(run: Run, release: str, why: str) -> NoReturn:
    """Withdraw the release from all servers, and end the step."""
    candidate = read_pointer(run.store).candidate
    if candidate is not None and candidate.release == release:
        run.twotower("releases", "withdraw", "--store", run.store)
        _hurry(_servers(run))
    raise StepRefused(f"{release} is withdrawn: {why}; {read_pointer(run.store).release} answers everyone", 1)


def promote(run: Run, release: str) -> str:
    """Make the release current, and wait until the servers serve it. Goes back when one refuses it."""
    found = newest(open_store(run.store)).pointer
    if found is None or found.release != release:
        if found is not None and run.config.canary.servers and found.sequence != run.night.sequence:
            raise StepFailed(f"the store's pointer was moved by someone else, so {release} is not promoted")
        run.twotower("releases", "activate", release, "--store", run.store, *_key(run))
    deadline = time.monotonic() + run.config.canary.patience_s
    servers = _servers(run) if found is not None else []
    _hurry(servers)
    while waiting := [server.url for server in servers if not _serves(run, release, server)]:
        if time.monotonic() > deadline:
            return f"{release} is current; {', '.join(waiting)} did not serve it within {run.config.canary.patience_s:g} s"
        run.waits(min(POLL_S, 0.5))
        servers = _servers(run) or servers
    return f"{release} is current"


def _serves(run: Run, release: str, server: Server) -> bool:
    """Whether a server serves the release. StepRefused, with the store gone back, when it cannot."""
    try:
        answer = server.releases()
    except Silent:
        return False
    if answer["serving"] != release and (reason := answer["quarantined"].get(release)):
        run.twotower("releases", "rollback", "--store", run.store)
        raise StepRefused(f"{server.url} does not serve {release} ({reason}), so the store went back to the one before", 1)
    return bool(answer["serving"] == release)


def _servers(run: Run) -> list[Server]:
    """The servers that there are now; none while the name that they share has no address."""
    canary = run.config.canary
    try:
        return servers_of(canary.servers, run.path(canary.key_file) if canary.key_file else None)
    except Silent:
        return []


def _hurry(servers: list[Server]) -> None:
    """Let servers look at once. One that is silent looks at its next poll."""
    for server in servers:
        try:
            server.look()
        except Silent:
            continue


def _key(run: Run) -> tuple[object, ...]:
    name = run.config.release.verify_key
    return ("--verify-key", run.path(name)) if name else ()
