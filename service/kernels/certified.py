"""A catalogue with int8 codes, whose search is provably exact. Pass 1 reads all rows with half the memory traffic of float16.

Row n is scale_n code_n + residual, so by Cauchy and Schwarz q·row_n <= scale_n q·code_n + |q| |residual_n|. `upper_bounds` adds
the largest possible error from rounding the query and from summing. `top_k` then scores the rows themselves, until the k-th
score found is above the upper bounds of all groups that are left. The reference is that of `top_k`, which only uses the rows.

N: rows, P: rows after padding, V: vector width after padding, D: before, B: rows of a block
"""

from dataclasses import replace

import torch
from torch import Tensor

from service.kernels.catalogue import Catalogue, catalogue_of

_LEVELS = 127
_BLOCK_ROWS = 65_536  # rows that are in float64 at once, which bounds the memory


def coded_catalogue_of(rows_ND: Tensor) -> Catalogue:
    """As `catalogue_of`, with int8 codes for pass 1, which reads every row. Pass 2 scores few rows, from the rows themselves."""
    catalogue = catalogue_of(rows_ND)
    codes_PV = torch.empty_like(catalogue.rows_PV, dtype=torch.int8)
    scale_P, residual_P = torch.empty(2, len(codes_PV), device=codes_PV.device)
    max_norm = 0.0
    for start in range(0, len(codes_PV), _BLOCK_ROWS):
        part = slice(start, start + _BLOCK_ROWS)
        rows_BV = catalogue.rows_PV[part].double()
        largest_B = rows_BV.abs().amax(1)
        scale_P[part] = torch.where(largest_B == 0, 1, largest_B) / _LEVELS  # NaN for a row that is never found
        codes_BV = (rows_BV / scale_P[part, None]).round().nan_to_num().clamp(-_LEVELS, _LEVELS)
        decoded_BV = codes_BV * scale_P[part, None]
        codes_PV[part] = codes_BV.to(torch.int8)
        residual_B = torch.linalg.vector_norm(rows_BV - decoded_BV, dim=1).nan_to_num()
        residual_P[part] = residual_B.float().nextafter(torch.tensor(torch.inf))  # never less than the exact norm
        max_norm = max(max_norm, float(torch.linalg.vector_norm(decoded_BV, dim=1).nan_to_num().max()))
    return replace(catalogue, codes_PV=codes_PV, scale_P=scale_P, residual_P=residual_P, max_norm=max_norm)
