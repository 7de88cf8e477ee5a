"""The trial of a new release on servers: proposed, judged by each of them, and promoted or withdrawn."""

import time
from typing import NoReturn

from twotower.artefacts.release import newest, open_store, read_pointer
from twotower.nightly.run import Run, StepFailed
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
    """Wait until every server has judged the release. StepFailed, with the release withdrawn, unless it passed on all."""
    propose(run, release)
    servers = _servers(run)
    _hurry(servers)
    passed: dict[str, Json] = {}
    heard = {server.url: time.monotonic() for server in servers}
    began, patience_s = time.monotonic(), run.config.canary.patience_s
    while len(passed) < len(servers):
        for server in servers:
            try:
                answer = server.releases()
            except Silent as silent:
                if time.monotonic() - heard[server.url] > patience_s:
                    _withdraw(run, release, str(silent))
                continue
            heard[server.url] = time.monotonic()
            _judge(run, release, server, answer, passed)
        if newest(open_store(run.store)).sequence != run.night.sequence:
            raise StepFailed(f"the store's pointer was moved by someone else, so {release} is no longer tried")
        if time.monotonic() - began > run.config.canary.seconds + patience_s:
            late = [server.url for server in servers if server.url not in passed]
            _withdraw(run, release, f"no verdict of {', '.join(late)} in time")
        if len(passed) < len(servers):
            run.waits(min(POLL_S, run.config.canary.seconds / 4))
    return _told(run, release, passed)


def _judge(run: Run, release: str, server: Server, answer: Json, passed: dict[str, Json]) -> None:
    """Note what one server says; StepFailed, with the release withdrawn, when it broke a limit there."""
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
    raise StepFailed(f"{release} is withdrawn: {why}; {read_pointer(run.store).release} answers everyone", 1)


def promote(run: Run, release: str) -> str:
    """Make the release current, and wait until the servers serve it. Goes back when one refuses it."""
    found = newest(open_store(run.store)).pointer
    if found is None or found.release != release:
        if found is not None and run.config.canary.servers and found.sequence != run.night.sequence:
            raise StepFailed(f"the store's pointer was moved by someone else, so {release} is not promoted")
        run.twotower("releases", "activate", release, "--store", run.store, *_key(run))
    waiting = {server.url: server for server in _servers(run)} if found is not None else {}
    deadline = time.monotonic() + run.config.canary.patience_s
    _hurry(list(waiting.values()))
    while waiting:
        for url, server in list(waiting.items()):
            try:
                answer = server.releases()
            except Silent:
                continue
            if answer["serving"] == release:
                del waiting[url]
            elif reason := answer["quarantined"].get(release):
                run.twotower("releases", "rollback", "--store", run.store)
                raise StepFailed(f"{url} does not serve {release} ({reason}), so the store went back to the one before", 1)
        if waiting and time.monotonic() > deadline:
            return f"{release} is current; {', '.join(waiting)} did not serve it within {run.config.canary.patience_s:g} s"
        if waiting:
            run.waits(min(POLL_S, 0.5))
    return f"{release} is current"


def _servers(run: Run) -> list[Server]:
    canary = run.config.canary
    return servers_of(canary.servers, run.path(canary.key_file) if canary.key_file else None)


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
