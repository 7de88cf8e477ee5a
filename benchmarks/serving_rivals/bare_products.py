"""The matrix products of the layers alone, in float32: what reading a whole history is held against.

T: events, D: width
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from twotower.data.features import Floats
from twotower.model.config import ModelConfig

Product = Callable[[Floats, Floats], object]  # of rows [T, D] and weights [X, D], as torch keeps them


def torch_product(rows_TD: Floats, weights_XD: Floats) -> object:
    """The product as `nn.Linear` makes it."""
    return functional.linear(torch.from_numpy(rows_TD), torch.from_numpy(weights_XD))


def numpy_product(rows_TD: Floats, weights_XD: Floats) -> object:
    """The product of numpy, which has another library for it."""
    return rows_TD @ weights_XD.T


@dataclass(frozen=True, slots=True)
class BareProducts:
    """The products of all layers for one history of some events, without anything between them."""

    pairs: list[tuple[Floats, Floats]]  # rows and weights of each product of one layer
    num_layers: int
    attention_flops: int  # of one layer, for the keys up to each event

    @staticmethod
    def of(config: ModelConfig, num_events: int) -> "BareProducts":
        """Those of a contextualizer. The values of the arrays do not matter."""
        width, head_width, rng = config.width, config.width // config.num_heads, np.random.default_rng(0)
        of_heads = (config.num_heads + 2 * config.num_kv_heads) * head_width
        sizes = [(width, of_heads), (width, width), (width, 2 * config.ffn_width), (config.ffn_width, width)]
        drawn = [rng.standard_normal((num_events + out, inner)).astype(np.float32) for inner, out in sizes]
        pairs = [(both[:num_events], both[num_events:]) for both in drawn]
        return BareProducts(pairs, config.num_layers, 2 * width * num_events * (num_events + 1))

    @property
    def flops(self) -> int:
        """Of the products with weights, in all layers."""
        return self.num_layers * sum(2 * len(rows) * weights.size for rows, weights in self.pairs)

    @property
    def all_flops(self) -> int:
        """Of all products of all layers, attention included."""
        return self.flops + self.num_layers * self.attention_flops

    def gflops_per_s(self, product: Product) -> float:
        """How fast this product computes those with weights, by CPU time."""
        started = time.thread_time()
        for _ in range(self.num_layers):
            for rows, weights in self.pairs:
                product(rows, weights)
        return self.flops / (time.thread_time() - started) / 1e9
