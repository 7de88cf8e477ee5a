"""What is made of the server's types."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from clients.generate import answer_types, limits, request_types, statuses, sync_of
from service.api.batches import MAX_BATCH
from service.api.items import MAX_CHANGES
from service.api.schemas import MAX_EVENTS, Feature, Id, Timestamp


class Inner(msgspec.Struct, frozen=True):
    """A part."""

    name: Id


class Answer(msgspec.Struct, frozen=True):
    """An answer."""

    part: list[Inner]  # its parts
    kind: Literal["a", "b"] = "a"  # of two


class Body(msgspec.Struct, frozen=True):
    """A body.

    In two paragraphs.
    """

    part: list[Inner]  # its parts
    when: Timestamp | None = None
    kind: Literal["a", "b"] = "a"  # of two
    features: dict[str, Feature] = {}
    share: Annotated[float, Meta(ge=0, description="from 0")] = 0.5


def test_a_request_is_a_typed_dictionary_with_the_comments_of_the_server() -> None:
    assert (
        "".join(request_types([Body]))
        == '''

class Body(TypedDict, total=False):
    """A body.

    In two paragraphs.
    """

    part: Required[Sequence[Inner]]  # its parts
    when: Moment | None
    kind: Literal['a', 'b']  # of two
    features: Mapping[str, Feature]
    share: float  # from 0
'''
    )


def test_an_answer_is_a_struct_after_those_that_it_names_and_a_word_of_a_set_may_be_any() -> None:
    made = "".join(answer_types([Answer]))
    assert made.index("class Inner(msgspec.Struct, frozen=True, kw_only=True):") < made.index("class Answer(")
    assert "    part: list[Inner]  # its parts\n" in made
    assert "    kind: str = 'a'  # of two\n" in made
    assert '    "page_expired": 422,\n' in "".join(statuses())


def test_the_limits_are_those_of_the_server() -> None:
    assert "".join(limits()) == f"MAX_EVENTS = {MAX_EVENTS}\nMAX_ITEMS = {MAX_CHANGES}\nMAX_BATCH = {MAX_BATCH}\n"


def test_the_sync_client_neither_awaits_nor_imports_asyncio() -> None:
    source = '"""A."""\n\nimport asyncio\n\nclass AsyncClient:\n    async def f(self):\n        await asyncio.sleep(await g())\n'
    assert sync_of(source).partition('"""\n')[2] == "\n\nclass Client:\n    def f(self):\n        time.sleep(g())\n"
