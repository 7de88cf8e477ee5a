"""What a server must do about a release that must not be served."""

from tests.service.conftest import Following


def check_refused(server: Following, reason: str) -> None:
    """It looks at the pointer, stays with what it serves, says why, and does not look at the same again."""
    served = server.served.current
    before = server.count("twotower_release_load_failures_total", reason=reason)
    assert server.look() == "refused"
    assert server.count("twotower_release_load_failures_total", reason=reason) == before + 1
    assert server.look() == "unchanged"
    assert server.served.current is served
    assert set(server.follower.quarantined.values()) == {reason}
    server.follower.quarantined.clear()
    assert server.answer()[0] == served.id
