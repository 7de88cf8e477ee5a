"""The catalogue that a search on a GPU reads: rows padded to whole tiles, in groups whose best scores a search bounds.

N: rows, P: rows after padding, V: vector width after padding, D: before, G: rows of a group, W: words of 32 rows = P / 32
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

MAX_WIDTH = 512
_MIN_GROUP, _MAX_TILE_ROWS, _TILE_VALUES = 16, 128, 16_384
ALIGNED = 16  # widths and numbers of groups are multiples: else loads are not of 128 bits
_MAX_NORM = 1e18  # with larger norms, sums could leave float32's range


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Rows prepared once for many searches, and the values that bound their scores.

    The score of row n is at most scale_n codes_n·q + residual_n |q|. Without a scale the codes are the rows themselves.
    Padding is NaN, and so are rows with a NaN or with a norm of 1e18 and more. A NaN row is never found.
    """

    rows_PV: Tensor  # the rows, which pass 2 scores
    codes_PV: Tensor  # the codes, which pass 1 multiplies
    scale_P: Tensor | None
    residual_P: Tensor | None
    num_rows: int
    head: int  # V = head + tail, where head is a power of two, and tail a smaller one or 0
    max_norm: float  # the largest norm of codes times scale
    group: int  # rows of a group

    def __len__(self) -> int:
        return self.num_rows

    @property
    def tail(self) -> int:
        """Columns after the head: a power of two, or 0."""
        return self.rows_PV.shape[1] - self.head


def catalogue_of(rows_ND: Tensor) -> Catalogue:
    """The catalogue of rows in float16, bfloat16 or float32, without codes; ValueError for rows wider than `MAX_WIDTH`."""
    num_rows, width = rows_ND.shape
    if width > MAX_WIDTH:
        raise ValueError(f"rows are {width} wide: at most {MAX_WIDTH} are searched on a GPU. Use a flat index on a CPU.")
    head = max(1 << width.bit_length() - 1, ALIGNED)
    tail = max(_power_of_two_from(width - head), ALIGNED) if width > head else 0
    head, tail = (2 * head, 0) if tail == head else (head, tail)
    group = group_rows(num_rows, head)
    rows_PV = rows_ND.new_full((num_rows + -num_rows % (ALIGNED * group), head + tail), torch.nan)
    rows_PV[:num_rows, :width], rows_PV[:num_rows, width:] = rows_ND, 0
    norm_N = torch.linalg.vector_norm(rows_ND, dim=1, dtype=torch.float32)
    known_N = norm_N < _MAX_NORM
    rows_PV[:num_rows][~known_N] = torch.nan
    max_norm = float(norm_N[known_N].max()) if known_N.any() else 0.0
    return Catalogue(rows_PV, rows_PV, None, None, num_rows, head, max_norm, group)


def bitmap(allowed_N: Tensor, catalogue: Catalogue) -> Tensor:
    """A mask of rows as words [W] of 32 bits, with the lowest row in the lowest bit. Several masks can be joined with &."""
    allowed_P = pad(allowed_N, (0, len(catalogue.rows_PV) - len(allowed_N)))
    bit = torch.arange(32, device=allowed_N.device)
    return (allowed_P.view(-1, 32).long() << bit).sum(1).to(torch.int32)


def group_rows(num_rows: int, head: int) -> int:
    """Rows of a group: about a 28th of the square root of all, so that groups and rows of the best groups are about as many."""
    return min(max(_power_of_two_from(int(num_rows**0.5) // 28), _MIN_GROUP), tile_rows(head))


def tile_rows(head: int) -> int:
    """Rows of a tile, which takes at most 32 KiB in float16."""
    return min(_MAX_TILE_ROWS, _TILE_VALUES // head)


def _power_of_two_from(number: int) -> int:
    return 1 << max(number - 1, 0).bit_length()
