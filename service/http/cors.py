"""Cross-origin requests: pages of the origins in a list may call this server from a browser. Without a list, none may.

A page may ask with `fetch`, and send events with `navigator.sendBeacon`, whose body browsers send as text/plain. They send it
without asking first, for any page; so it is taken only if its Origin is in the list.
"""

from service.http.messages import JSON, Headers, RawHeaders

_METHODS = b"GET, POST, PUT, DELETE"
_HEADERS = b"authorization, content-type, x-request-id, traceparent"
_EXPOSED = b"x-request-id, retry-after"
_MAX_AGE_S = b"7200"  # the longest that browsers keep an answer to a preflight
_VARY = (b"vary", b"origin")  # otherwise a cache could give one origin's answer to another


class AllowedOrigins:
    """The origins whose pages may call the server, separated by commas; `*` allows every origin."""

    def __init__(self, origins: str) -> None:
        self._origins = frozenset(filter(None, (origin.strip().encode() for origin in origins.split(","))))

    def __bool__(self) -> bool:
        return bool(self._origins)

    def allows(self, headers: Headers) -> bool:
        """Whether the request comes from a page that may ask."""
        origin = headers.get(b"origin")
        return origin is not None and (origin in self._origins or b"*" in self._origins)

    def of(self, headers: Headers) -> RawHeaders:
        """The headers that let the page read the answer; none for other pages, and for requests that no page makes."""
        if not self._origins:
            return []
        if not self.allows(headers):
            return [_VARY]
        return [_VARY, (b"access-control-allow-origin", headers[b"origin"]), (b"access-control-expose-headers", _EXPOSED)]

    def preflight(self, method: str, headers: Headers) -> RawHeaders | None:
        """The headers of the answer to a browser that asks whether a page may ask; None for any other request."""
        if method != "OPTIONS" or b"access-control-request-method" not in headers or not self.allows(headers):
            return None
        named = ((b"access-control-allow-methods", _METHODS), (b"access-control-allow-headers", _HEADERS))
        return [*self.of(headers), *named, (b"access-control-max-age", _MAX_AGE_S)]

    def as_json(self, headers: Headers) -> Headers:
        """The headers of a beacon of an allowed page, which count as those of JSON; any other headers as they are."""
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        return {**headers, b"content-type": JSON} if kind == b"text/plain" and self.allows(headers) else headers
