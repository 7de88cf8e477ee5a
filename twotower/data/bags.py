"""The tokens of many texts or lists at once, in loops of Arrow and numpy, which hold no other thread up.

`twotower.data.words.tokens` says what the tokens of a text are. Here words are found in the bytes of all texts together. Only a
text with letters beyond ASCII is a string of Python on the way, because its letters are folded there.

N: texts or lists, W: tokens that are read of each, M: words, B: bytes, T: distinct tokens
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from twotower.data.words import LETTER, MARK, OTHER, UNSPACED, composed, composed_values, kinds_of_characters, normalised, tokens

Codes = npt.NDArray[np.int32]
Counts = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]

FEW = 48  # texts; for fewer, the calls of numpy take longer than to read the texts one by one
PIECE_BYTES = 1 << 18  # of text, read at once: few enough that intermediate results stay in the processor's cache
_END = "\n"  # of a text among others: no part of a word, and nothing combines with it


@dataclass(frozen=True, slots=True)
class Bags:
    """Up to W tokens of each of N rows, in order: their places among the distinct tokens, and -1 after the last."""

    distinct: pa.Array
    codes_NW: Codes


@dataclass(frozen=True, slots=True)
class _Words:
    """The words of some texts, one text after the other."""

    words: pa.Array  # [M]
    num_words_N: Counts
    unspaced_N: Mask  # whether a text has letters of a script without spaces


def text_bags(texts: pa.Array, width: int) -> Bags:
    """The tokens of texts, of which none is missing."""
    if len(texts) < FEW:
        return _bags_of_few([tokens(text) for text in texts.to_pylist()], width)
    found = list(_words(texts, width))
    num_words_N = np.concatenate([part.num_words_N for part in found])
    unspaced_N = np.concatenate([part.unspaced_N for part in found])
    encoded = pa.concat_arrays([part.words for part in found]).dictionary_encode()
    word_M, distinct = encoded.indices.to_numpy().astype(np.int64), encoded.dictionary
    text_M, place_M = _places(num_words_N)
    paired = np.flatnonzero(text_M[:-1] == text_M[1:])  # each with the word after it
    pairs = pa.array(word_M[paired] * len(distinct) + word_M[paired + 1]).dictionary_encode()
    codes_NW = np.full((len(texts), width), -1, np.int32)
    mixed_M = unspaced_N[text_M]
    _put(codes_NW, text_M, np.where(mixed_M, np.maximum(2 * place_M - 1, 0), place_M), word_M)
    places = np.where(mixed_M[paired], 2 * place_M[paired] + 2, num_words_N[text_M[paired]] + place_M[paired])
    _put(codes_NW, text_M[paired], places, pairs.indices.to_numpy() + len(distinct))
    return Bags(pa.concat_arrays([distinct, _joined(distinct, pairs.dictionary.to_numpy())]), codes_NW)


def list_bags(lists: pa.Array, width: int) -> Bags:
    """The values of lists of strings, with their accents composed. A missing value is left out."""
    if len(lists) < FEW:
        return _bags_of_few([[composed(x) for x in values or () if x is not None] for values in lists.to_pylist()], width)
    values, rows = pc.list_flatten(lists), pc.list_parent_indices(lists)
    if values.null_count:
        rows, values = rows.filter(values.is_valid()), values.drop_null()
    encoded = composed_values(values).dictionary_encode()
    codes_NW = np.full((len(lists), width), -1, np.int32)
    row_M, place_M = _places(np.bincount(rows.to_numpy(), minlength=len(lists)))
    _put(codes_NW, row_M, place_M, encoded.indices.to_numpy())
    return Bags(encoded.dictionary, codes_NW)


def _bags_of_few(rows: list[list[str]], width: int) -> Bags:
    codes: dict[str, int] = {}
    codes_NW = np.full((len(rows), width), -1, np.int32)
    for row, read in enumerate(rows):
        codes_NW[row, : len(read)] = [codes.setdefault(token, len(codes)) for token in read[:width]]
    return Bags(pa.array(list(codes), pa.string()), codes_NW)


def num_tokens_of(texts: pa.Array) -> Counts:
    """Number of tokens [N] of texts, of which none is missing."""
    num_words_N = np.concatenate([np.zeros(0, np.int64), *(part.num_words_N for part in _words(texts, None))])
    num_tokens_N: Counts = np.maximum(2 * num_words_N - 1, 0)
    return num_tokens_N


def _put(codes_NW: Codes, row_M: Counts, place_M: Counts, code_M: npt.NDArray[Any]) -> None:
    """Write the tokens to their places. Those beyond the last place are not read."""
    width = codes_NW.shape[1]
    kept = place_M < width
    codes_NW.reshape(-1)[(row_M * width + place_M)[kept]] = code_M[kept]


def _places(counts_N: Counts) -> tuple[Counts, Counts]:
    """The row of each token, and its place in the row, where rows have so many tokens."""
    firsts = np.cumsum(counts_N) - counts_N
    return np.repeat(np.arange(len(counts_N)), counts_N), np.arange(counts_N.sum()) - np.repeat(firsts, counts_N)


def _joined(words: pa.Array, pairs: Counts) -> pa.Array:
    """The pairs as text; a pair of words is the place of the first, times the number of words, plus that of the second."""
    first, second = np.divmod(pairs, max(len(words), 1))
    return pc.binary_join_element_wise(words.take(pa.array(first)), words.take(pa.array(second)), " ")


def _words(texts: pa.Array, width: int | None) -> Iterator[_Words]:
    """The words of the texts, piece by piece: the first `width` of each, or no words and all their counts."""
    is_ascii = pc.string_is_ascii(texts)
    folded = pc.ascii_lower(texts)
    if not pc.all(is_ascii).as_py():
        others = [normalised(text) for text in texts.filter(pc.invert(is_ascii)).to_pylist()]
        folded = pc.replace_with_mask(folded, pc.invert(is_ascii), pa.array(others, pa.string()))
    folded = pc.replace_substring(folded, _END, " ")
    ends = np.cumsum(pc.binary_length(folded).to_numpy() + 1)
    start = 0
    while start < len(folded):
        before = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, before + PIECE_BYTES)), start + 1)
        yield _words_of_piece(folded[start:stop], width)
        start = stop


def _words_of_piece(folded: pa.Array, width: int | None) -> _Words:
    """The words of texts that are folded already, by one look at all their bytes."""
    text = pc.binary_join(pa.ListArray.from_arrays(pa.array([0, len(folded)], pa.int32()), folded), _END)[0].as_buffer()
    raw_B = np.frombuffer(text, np.uint8)
    kind_B = _kinds(raw_B)
    base_B = _bases(kind_B)
    after_letter_B = np.concatenate([[False], base_B[:-1] == LETTER])
    starts_B = (kind_B == UNSPACED) | ((kind_B == LETTER) & ~after_letter_B)
    starts = np.flatnonzero(starts_B)
    bounds = np.searchsorted(starts, np.flatnonzero(raw_B == ord(_END)))
    num_words_N = np.diff(bounds, prepend=0, append=len(starts))
    unspaced_N = np.zeros(len(folded), bool)
    unspaced_N[np.repeat(np.arange(len(folded)), num_words_N)[kind_B[starts] == UNSPACED]] = True
    if width is None:
        return _Words(pa.array([], pa.string()), num_words_N, unspaced_N)
    inside_B = base_B != OTHER
    letters = raw_B[inside_B]
    offsets = np.append(np.flatnonzero(starts_B[inside_B]), len(letters)).astype(np.int32)
    words = pa.StringArray.from_buffers(len(starts), pa.py_buffer(offsets), pa.py_buffer(letters))
    if num_words_N.max(initial=0) > width:
        words = words.filter(pa.array(_places(num_words_N)[1] < width))
    return _Words(words, np.minimum(num_words_N, width), unspaced_N)


def _kinds(raw_B: Bytes) -> Bytes:
    """What each byte is: the first of a letter what the letter is, and the others marks, which belong to it."""
    if raw_B.max(initial=0) < 0x80:
        return kinds_of_characters(0x80)[raw_B]
    kind_B = np.full(len(raw_B), MARK, np.uint8)
    letters = np.frombuffer(raw_B.tobytes().decode().encode("utf-32-le"), np.uint32)
    kind_B[(raw_B & 0xC0) != 0x80] = kinds_of_characters(sys.maxunicode + 1)[letters]
    return kind_B


def _bases(kind_B: Bytes) -> Bytes:
    """The kinds, where a mark is of the kind of what it belongs to."""
    is_mark_B = kind_B == MARK
    if not is_mark_B.any():
        return kind_B
    base_B = kind_B[np.maximum.accumulate(np.where(is_mark_B, 0, np.arange(len(kind_B))))]
    base_B[base_B == MARK] = OTHER  # marks before the first letter of all
    return base_B
