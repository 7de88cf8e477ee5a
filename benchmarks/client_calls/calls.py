"""Calls of the public Python client behaviorgpt, each with what must hold of its result. They fit any catalogue."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from behaviorgpt import AddToCart, Order, RemoveFromCart, Search, UnboxAIError, User, View
from behaviorgpt._exceptions import BadRequestError

Client = Any  # UnboxAIClient or AsyncUnboxAIClient, which have the same methods
SERVED, UNKNOWN = "retail_catalog", "cat_000000000000"
WAIT = {"wait": True, "interval": 0.2, "timeout": 300.0}


@dataclass(slots=True)
class Known:
    """What the calls before have shown, and the file that is uploaded."""

    file: Path
    user: str
    items: list[Any] = field(default_factory=list)  # of the served catalogue, best first
    job: Any = None
    ours: list[Any] = field(default_factory=list)  # of the uploaded catalogue, best first
    lines: list[str] = field(default_factory=list)  # states of jobs, as the client describes them

    def ids(self, *places: int) -> list[str]:
        """Ids of the items at these places."""
        return [self.items[place].id for place in places]


@dataclass(frozen=True, slots=True)
class Call:
    """One call. `check` returns whether its result is right; `raises` is the error that it must raise, and its status."""

    name: str
    ask: Callable[[Client, Known], Any]
    check: Callable[[Any, Known], bool] = lambda _result, _known: True
    raises: tuple[type[Exception], int] | None = None


def has(num_items: int) -> Callable[[Any, Known], bool]:
    """Whether an answer has so many different items, best first, each with its catalogue and a name."""

    def check(result: Any, _: Known) -> bool:
        scores = [item.score for item in result.items]
        named = all(item.catalog_id and item.data["name"] for item in result.items)
        distinct = {(item.catalog_id, item.id) for item in result.items}
        return len(distinct) == len(result.items) == num_items and scores == sorted(scores, reverse=True) and named

    return check


def note_items(result: Any, known: Known) -> bool:
    """Keep the items of the served catalogue for the calls that follow."""
    known.items = result.items
    return has(20)(result, known)


def note_job(result: Any, known: Known) -> bool:
    """Keep the job of the upload. While it ran, the client must have seen it pending, and ready in the end."""
    known.job = result
    return result.catalog_id.startswith("cat_") and result.catalog_name == known.file.stem and known.lines[-1].endswith("done")


def note_ours(result: Any, known: Known) -> bool:
    """Keep the items of the uploaded catalogue."""
    known.ours = result.items
    return has(5)(result, known) and all(item.catalog_id == known.job.catalog_id for item in result.items)


def cart(known: Known) -> list[Any]:
    """A history with the events that the client calls deprecated."""
    a, b = known.ids(0, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return [AddToCart(a), AddToCart(b), RemoveFromCart(a), Order()]


def progress(known: Known) -> Callable[[Any], None]:
    """Notes how the client describes a job."""
    return lambda status: known.lines.append(status.describe())


def price_of(item: Any) -> float:
    """The price of an item as a number."""
    return float(item.data["price"])


CALLS: Sequence[Call] = (
    Call("nothing is known", lambda c, _: c.complete([], limit=20), note_items),
    Call("a view", lambda c, k: c.complete([View(k.ids(0)[0])]), has(10)),
    Call("views and an order", lambda c, k: c.complete([*map(View, k.ids(0, 1)), Order(k.ids(1))]), has(10)),
    Call("an order with quantities", lambda c, k: c.complete([Order([(k.ids(0)[0], 2), k.ids(1)[0]])]), has(10)),
    Call("an item of an answer as event", lambda c, k: c.complete([View(k.items[2])]), has(10)),
    Call("cart events", lambda c, k: c.complete(cart(k)), has(10)),
    Call("a search alone", lambda c, k: c.complete([Search(k.items[0].data["name"])]), has(10)),
    Call("a search at the end", lambda c, k: c.complete([View(k.ids(0)[0]), Search("fresh bread")]), has(10)),
    Call("a search in the middle", lambda c, k: c.complete([Search("milk"), View(k.ids(1)[0])]), has(10)),
    Call("searches in a row", lambda c, _: c.complete([Search("tea"), Search("green tea")], max_trailing_searches=1), has(10)),
    Call("a search without a word", lambda c, _: c.complete([Search("?!")]), has(10)),
    Call("sessions", lambda c, k: c.complete([[View(k.ids(0)[0])], [View(k.ids(1)[0]), Order(k.ids(1))], []]), has(10)),
    Call("predict a view", lambda c, k: c.complete([View(k.ids(0)[0])], predict="view"), has(10)),
    Call("predict a purchase", lambda c, k: c.complete([View(k.ids(0)[0])], predict="purchase"), has(10)),
    Call("a hundred items", lambda c, _: c.complete([], limit=100), has(100)),
    Call(
        "the second page",
        lambda c, _: c.complete([], limit=10, offset=10),
        lambda r, k: [item.id for item in r.items] == k.ids(*range(10, 20)) and (r.offset, r.limit) == (10, 10),
    ),
    Call("the last page", lambda c, _: c.complete([], limit=100, offset=9900), lambda r, _: len(r.items) in (0, 100)),
    Call(
        "a filter by price",
        lambda c, k: c.complete([], filters={"price": {"max": price_of(k.items[0])}}),
        lambda r, k: bool(r.items) and all(price_of(item) <= price_of(k.items[0]) for item in r.items),
    ),
    Call(
        "a filter by category",
        lambda c, k: c.complete([], filters={"categories": [k.items[1].data["categories"].split(", ")[0]]}),
        lambda r, k: bool(r.items) and all(k.items[1].data["categories"].split(", ")[0] in i.data["categories"] for i in r.items),
    ),
    Call(
        "a filter by an unknown attribute",
        lambda c, _: c.complete([], filters={"colour_of_the_lid": "red"}),
        raises=(BadRequestError, 400),
    ),
    Call("a filter of another form", lambda c, _: c.complete([], filters={"price": {"near": 3}}), raises=(BadRequestError, 400)),
    Call("who the shopper is", lambda c, _: c.complete([], user=User(gender="female", age=34, market="SE")), has(10)),
    Call("a user id", lambda c, k: c.complete([View(k.ids(0)[0])], user_id=k.user), has(10)),
    Call(
        "events to store",
        lambda c, k: c.complete([*map(View, k.ids(3, 4)), Order(k.ids(4))], user_id=k.user, register_event=True),
        has(10),
    ),
    Call("stored events", lambda c, k: c.complete(user_id=k.user), has(10)),
    Call("a long user id", lambda c, _: c.complete(user_id="ü" * 512), has(10)),
    Call(
        "a request of one's own",
        lambda c, _: c.recommendations.create({"store_id": SERVED, "domains": {"market": "us"}, "limit": 3}),
        lambda r, _: len(r.items) == 3,
    ),
    Call("similar items", lambda c, k: c.similar_items(k.ids(0)[0], limit=5), has(5)),
    Call("items like an unknown one", lambda c, _: c.similar_items("no such item"), raises=(UnboxAIError, 404)),
    Call("an item at random", lambda c, _: c.random_item(), lambda r, _: bool(r.id)),
    Call(
        "sections",
        lambda c, k: c.sections([View(k.ids(0)[0])], max_sections=4, min_items_per_section=2),
        lambda r, _: bool(r.titles) and len({*r.titles}) == len(r.sections) <= 4 and all(len(s.items) >= 2 for s in r.sections),
    ),
    Call(
        "sections of a search", lambda c, _: c.sections([Search("bread")], min_items_per_section=1), lambda r, _: bool(r.titles)
    ),
    Call("an unknown catalogue", lambda c, _: c.complete([], catalog_id=UNKNOWN), raises=(UnboxAIError, 404)),
    Call("an unknown job", lambda c, _: c.job_status("job_000000000000_1"), raises=(UnboxAIError, 404)),
    Call("a map", lambda c, _: c.umap(), raises=(UnboxAIError, 404)),
    Call("a map of two catalogues", lambda c, k: c.umap(catalog_ids=[SERVED, UNKNOWN]), raises=(UnboxAIError, 404)),
    Call("an upload", lambda c, k: c.embed(k.file, on_progress=progress(k), keywords=True, **WAIT), note_job),
    Call("its job", lambda c, k: c.job_status(k.job.job_id), lambda r, _: r.status == "ready" and r.keywords == "done"),
    Call("its ranking", lambda c, k: c.complete([], catalog_id=k.job.catalog_id, limit=5), note_ours),
    Call("a view in it", lambda c, k: c.complete([View(k.ours[0])], catalog_id=k.job.catalog_id, limit=5), has(5)),
    Call("like one of its items", lambda c, k: c.similar_items(k.ours[0], limit=5), has(5)),
    Call(
        "two catalogues in one ranking",
        lambda c, k: c.complete([View(k.ours[0]), View(k.items[0])], catalog_ids=[k.job.catalog_id, SERVED], limit=100),
        lambda r, k: has(100)(r, k) and {item.catalog_id for item in r.items} == {k.job.catalog_id, SERVED},
    ),
    Call(
        "like one of its items, in two catalogues",
        lambda c, k: c.similar_items(k.ours[0], catalog_ids=[SERVED, k.job.catalog_id], limit=20),
        has(20),
    ),
    Call(
        "a filter in two catalogues",
        lambda c, k: c.complete(
            [],
            catalog_ids=[SERVED, k.job.catalog_id],
            filters={"price": {"max": price_of(k.items[0])}, "catalog_id": k.job.catalog_id},
        ),
        lambda r, k: (
            bool(r.items)
            and all(price_of(item) <= price_of(k.items[0]) and item.catalog_id == k.job.catalog_id for item in r.items)
        ),
    ),
    Call(
        "further items",
        lambda c, k: c.add_items(k.file, catalog_id=k.job.catalog_id, on_progress=progress(k), **WAIT),
        lambda r, k: r.products > 0 and r.catalog_id == k.job.catalog_id,
    ),
    Call("terms", lambda c, k: c.add_keywords(k.job.catalog_id, on_progress=progress(k), **WAIT), lambda r, _: bool(r.job_id)),
    Call(
        "all catalogues",
        lambda c, _: c.list_catalogs(),
        lambda r, k: {(s.catalog_id, s.status) for s in r} >= {(SERVED, "ready"), (k.job.catalog_id, "ready")},
    ),
    Call("the served catalogue is not deleted", lambda c, _: c.delete_catalog(SERVED), raises=(BadRequestError, 400)),
    Call("a deletion", lambda c, k: c.delete_catalog(k.job.catalog_id), lambda r, _: r is None),
    Call("what was deleted", lambda c, k: c.complete([], catalog_id=k.job.catalog_id), raises=(UnboxAIError, 404)),
)


def is_right(call: Call, known: Known, result: Any) -> bool:
    """Whether a call had the right outcome; `result` is what it returned, or the client's error that it raised."""
    if isinstance(result, UnboxAIError):
        return call.raises == (type(result), result.status_code)
    return call.raises is None and call.check(result, known)
