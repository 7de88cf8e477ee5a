"""Pages of one ranking. The token holds all state between two pages, so any server of the same release can answer the next one.

The token lists the rows of all pages so far. So no item comes twice, even when the user has new events in between. Without new
events, the pages together equal the answer to one large request. The token is not signed, because a forged one gives its sender
nothing that an ordinary request would not give.
"""

import base64
import binascii
from dataclasses import dataclass
from typing import Annotated

import msgspec
import xxhash
from msgspec import Meta

from service.api.errors import ApiError
from service.api.schemas import MAX_RESULTS, EpochMs, RecommendRequest
from service.release.loaded import LoadedRelease

DEPTH = MAX_RESULTS  # items of all pages together
# Fields that may differ between pages. A user who goes on to the next page may have new events, and another timeout.
_MAY_CHANGE = ("num_results", "page_token", "events", "timeout_ms")
_SAME = tuple(name for name in RecommendRequest.__struct_fields__ if name not in _MAY_CHANGE)


class _Token(msgspec.Struct, frozen=True, array_like=True):
    request: int
    release: int
    now_ms: EpochMs
    rows: Annotated[list[Annotated[int, Meta(ge=0)]], Meta(min_length=1, max_length=DEPTH)]
    item_ids: int  # hash of the ids of the rows, because the rows of items put since the release was built may change


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Token)


@dataclass(frozen=True, slots=True)
class Page:
    """Where a page begins: the rows that the pages before have given, and the moment of the first page."""

    given: tuple[int, ...]
    now_ms: int


def open_page(release: LoadedRelease, request: RecommendRequest, now_ms: int) -> Page:
    """The requested page; ApiError invalid_request for a token of another request, page_expired if the catalogue has changed."""
    if request.page_token is None:
        return Page((), now_ms)
    try:
        token = _decoder.decode(base64.b64decode(request.page_token + "=" * (-len(request.page_token) % 4), b"-_", validate=True))
    except (ValueError, binascii.Error, msgspec.DecodeError) as error:
        raise _refused("it is not a `next_page_token` of ours") from error
    if token.request != _of_request(request):
        raise _refused(f"it belongs to another request: only {', '.join(_MAY_CHANGE)} may differ from the first page's")
    rows = tuple(token.rows)
    is_same = token.release == _of_text(release.id) and max(rows) < len(release) and token.item_ids == _of_rows(release, rows)
    if not is_same:
        message = "the catalogue has changed since the page before; ask again without page_token"
        raise ApiError("page_expired", message, "page_token")
    return Page(rows, token.now_ms)


def page_token(release: LoadedRelease, request: RecommendRequest, now_ms: int, given: tuple[int, ...]) -> str:
    """The token of the next page; `given` are the rows of this page and of all pages before."""
    token = _Token(_of_request(request), _of_text(release.id), now_ms, list(given), _of_rows(release, given))
    return base64.urlsafe_b64encode(_encoder.encode(token)).decode().rstrip("=")


def _refused(reason: str) -> ApiError:
    return ApiError("invalid_request", f"page_token: {reason}; ask again without it", "page_token")


def _of_request(request: RecommendRequest) -> int:
    return xxhash.xxh3_64_intdigest(_encoder.encode([getattr(request, name) for name in _SAME]))


def _of_text(text: str) -> int:
    return xxhash.xxh3_64_intdigest(text.encode())


def _of_rows(release: LoadedRelease, rows: tuple[int, ...]) -> int:
    return _of_text("\0".join([release.item_ids[row] for row in rows]))
