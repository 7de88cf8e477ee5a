"""Groups a ranking into sections whose titles are words of the catalogue itself: its categories, and frequent words of names.

N: ranked items
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from twotower.data.words import tokens

_MOST_SHARE = 0.7  # of the items: a title that fits more of them says little
_MIN_WORD = 3  # letters
_CATEGORY, _DEEPER = 2.0, 0.1  # how much a category counts, compared with a word; and by which part more each level down
_FILLERS = frozenset(["and", "the", "for", "with", "from", "per", "all", "new", "not", "other", "misc", "miscellaneous"])


@dataclass(frozen=True, slots=True)
class Named:
    """What titles are made from: the name of a ranked item and its category path."""

    name: str
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Items with something in common, by their places in the ranking."""

    title: str
    places: list[int]


def sections_of(items: Sequence[Named], max_sections: int, max_items: int, min_items: int) -> list[Group]:
    """The sections, the most important first. Each item is in at most one, and sections of fewer than `min_items` are left out.

    The next section is the one whose items stand highest together, among those that are not in a section yet. A title counts
    for more the fewer of all items it fits, since it says more then.
    """
    members, trust = candidates(items)
    least, left = max(min_items, 1), set(range(len(items)))
    made: list[Group] = []
    while len(made) < max_sections:
        shown = {title: [place for place in places if place in left][:max_items] for title, places in members.items()}
        # A title with too few items left never gets more of them. Most words are of one item, so few titles have to be weighed.
        shown = {title: places for title, places in shown.items() if len(places) >= least}
        if not shown:
            break
        members = {title: members[title] for title in shown}
        weights = {title: trust[title] * _weight(shown[title], len(members[title]), len(items)) for title in shown}
        title = max(weights, key=lambda known: (weights[known], known))
        made.append(Group(title, shown[title]))
        left.difference_update(shown[title])
        del members[title]
    if not made and len(items) >= least:
        return [Group("Recommended", list(range(len(items)))[:max_items])]
    return made


def candidates(items: Sequence[Named]) -> tuple[dict[str, list[int]], dict[str, float]]:
    """The places of the items of every possible title, and how much a title counts.

    A category counts for more than a word, because somebody chose it to group items by, and a narrow one more than a wide one.
    """
    places: defaultdict[str, list[int]] = defaultdict(list)
    trust: defaultdict[str, float] = defaultdict(float)
    for place, item in enumerate(items):
        titles = {title_of(word): 1.0 for word in words_of(item.name)}
        titles |= {title_of(part): _CATEGORY * (1 + _DEEPER * depth) for depth, part in enumerate(item.path)}
        for title, value in titles.items():
            places[title].append(place)
            trust[title] = max(trust[title], value)
    most = max(_MOST_SHARE * len(items), 1)
    return {title: known for title, known in places.items() if len(known) <= most}, trust


def words_of(name: str) -> list[str]:
    """The words of a name, and its pairs of words, that can be a title."""
    return [token for token in tokens(name) if all(_says_something(word) for word in token.split(" "))]


def title_of(text: str) -> str:
    """The text as a title: with a capital letter, and not all in capitals."""
    text = " ".join(text.split())
    text = text.lower() if text.isupper() else text
    return text[:1].upper() + text[1:]


def _says_something(word: str) -> bool:
    return len(word) >= _MIN_WORD and word.isalpha() and word not in _FILLERS


def _weight(shown: Sequence[int], num_fitting: int, num_items: int) -> float:
    return sum(1 / math.log2(place + 2) for place in shown) * math.log(num_items / num_fitting + 1e-9)
