"""Item rows by item id, for a release with item changes."""

from collections.abc import Iterator, Mapping, Set


class ItemRows(Mapping[str, int]):
    """The rows of a release without the changed items, plus the added rows. Nothing is copied, because a release has millions."""

    def __init__(self, release: Mapping[str, int], added: Mapping[str, int], changed: Set[str]) -> None:
        self._release, self._added, self._changed = release, added, changed

    def __getitem__(self, item_id: str) -> int:
        row = self._added.get(item_id)
        if row is not None:
            return row
        if item_id in self._changed:
            raise KeyError(item_id)
        return self._release[item_id]

    def __iter__(self) -> Iterator[str]:
        yield from (item_id for item_id in self._release if item_id not in self._changed)
        yield from self._added

    def __len__(self) -> int:
        return len(self._release) + len(self._added) - sum(item_id in self._release for item_id in self._changed)
