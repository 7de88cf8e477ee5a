"""Asks a twotower server what a person does next, and tells it what people do.

    with Client("http://127.0.0.1:8000") as client:
        client.send_event(user_id="ann", item_id="bread", event_type="purchase", timestamp=datetime.now(UTC))
        for item in client.recommend(user_id="ann", num_results=5).items:
            print(item.item_id, item.score)

`AsyncClient` has the same methods, to be awaited. The types of their arguments are in `requests`, those of what they return in
`answers`.
"""

from twotower_client.async_client import AsyncClient
from twotower_client.client import Client
from twotower_client.errors import (
    AllRejected,
    ApiError,
    Conflict,
    Forbidden,
    InvalidRequest,
    NoAnswer,
    NotFound,
    NotUnderstood,
    PageExpired,
    QuotaExceeded,
    ServerFault,
    TimedOut,
    TwotowerError,
    Unauthorized,
    Unavailable,
)
from twotower_client.retries import Retries
from twotower_client.version import __version__

__all__ = [
    "AllRejected",
    "ApiError",
    "AsyncClient",
    "Client",
    "Conflict",
    "Forbidden",
    "InvalidRequest",
    "NoAnswer",
    "NotFound",
    "NotUnderstood",
    "PageExpired",
    "QuotaExceeded",
    "Retries",
    "ServerFault",
    "TimedOut",
    "TwotowerError",
    "Unauthorized",
    "Unavailable",
    "__version__",
]
