"""The tokens of a text: its words and the pairs of adjacent words, whatever its script.

Equal texts give equal tokens: in upper or lower case, with composed or decomposed accents, in full or half width. Marks such as
vowel signs belong to the letter before them. Where a script puts no spaces between words, they cannot be found without a
dictionary. So each letter counts as a word there, and pairs of letters do what words do elsewhere.
"""

import re
from functools import cache
from itertools import pairwise
from unicodedata import category, normalize

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

OTHER, LETTER, UNSPACED, MARK = range(4)  # the kinds of characters

_ASCII_WORD = re.compile(r"\w+")
# Blocks of the scripts without spaces: Thai, Lao, Myanmar, Khmer, Tai, Balinese, Javanese, Han, Kana, Bopomofo.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u1b00-\u1b7f\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029"
    "\u3031-\u303c\u3040-\u30ff\u3100-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua980-\ua9df\ua9e0-\ua9ff"
    "\uaa60-\uaa7f\uf900-\ufaff\U0001aff0-\U0001b16f\U00020000-\U0003ffff"
)
_LAST_MARK = 0x1FFFF  # those beyond are variation selectors, which are removed
# Invisible characters say how letters are drawn, and not which they are; the zero-width space separates words.
_INVISIBLE = dict.fromkeys([0xAD, 0x34F, 0x640, 0x180B, 0x180C, 0x180D, 0x180E, *range(0x200C, 0x2010), *range(0x2060, 0x2065)])
_INVISIBLE |= dict.fromkeys([*range(0xFE00, 0xFE10), 0xFEFF, *range(0xE0100, 0xE01F0)])
_PREPARED = {**_INVISIBLE, 0x200B: " ", ord("™"): " ", ord("℠"): " "}  # NFKC would make a word such as "phonetm" of a trade mark
_TO_PREPARE = frozenset(map(chr, _PREPARED))


def tokens(text: str) -> list[str]:
    """The words of a text and then all pairs of adjacent words, in an order in which the end may be cut off.

    In a script without spaces each pair follows its second letter, because pairs say more there than letters do.
    """
    if text.isascii():
        words = _ASCII_WORD.findall(text.lower())
        return words + [f"{a} {b}" for a, b in pairwise(words)]
    word, unspaced = _patterns()
    words = word.findall(text := normalised(text))
    pairs = [f"{a} {b}" for a, b in pairwise(words)]
    if unspaced.search(text) is None:
        return words + pairs
    return words[:1] + [token for both in zip(words[1:], pairs, strict=True) for token in both]


def normalised(text: str) -> str:
    """The text in one of its equivalent spellings: NFKC with folded case, without what is invisible."""
    if not _TO_PREPARE.isdisjoint(text):  # a look that costs less than to translate a text in vain
        text = text.translate(_PREPARED)
    folded = normalize("NFKC", text).casefold()
    return normalize("NFKC", folded).replace("i\u0307", "i")  # the dotted capital I of Turkish is an i


def composed(text: str) -> str:
    """The text with its accents composed (NFC), otherwise as it is."""
    return text if text.isascii() else normalize("NFC", text)


def composed_values(values: pa.Array) -> pa.Array:
    """A column of texts with their accents composed. What is not UTF-8 stays as it is."""
    if pc.all(pc.string_is_ascii(values)).as_py() is not False:
        return values
    encoded = values.dictionary_encode()
    raw = encoded.dictionary.cast(pa.binary()).to_pylist()
    return pa.array([_composed_bytes(value) for value in raw], pa.binary()).cast(values.type, safe=False).take(encoded.indices)


def _composed_bytes(value: bytes) -> bytes:
    try:
        return composed(value.decode()).encode()
    except UnicodeDecodeError:
        return value


@cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    r"""One for words, one for letters of scripts without spaces.

    A word is such a letter, or a run of other letters and digits; each with its marks, which `\w` leaves out.
    """
    marks, letter = _marks(_LAST_MARK), rf"(?=\w)[{_UNSPACED}]"
    return re.compile(rf"{letter}[{marks}]*|[^\W{_UNSPACED}](?:[^\W{_UNSPACED}]|[{marks}])*"), re.compile(letter)


@cache
def kinds_of_characters(stop: int) -> npt.NDArray[np.uint8]:
    """The kind of each character before `stop`: a letter or digit, one of a script without spaces, a mark, or none of them."""
    characters = np.arange(stop, dtype=np.uint32).tobytes().decode("utf-32-le", "surrogatepass")
    kinds = np.zeros(stop, np.uint8)
    for kind, pattern in ((LETTER, r"\w+"), (UNSPACED, rf"(?:(?=\w)[{_UNSPACED}])+")):
        for run in re.finditer(pattern, characters):
            kinds[run.start() : run.end()] = kind
    for mark in _marks(stop):
        kinds[ord(mark)] = MARK
    return kinds


@cache
def _marks(stop: int) -> str:
    """All marks before `stop`, but for variation selectors."""
    return "".join(c for c in map(chr, range(0x300, min(stop, _LAST_MARK))) if category(c).startswith("M"))
