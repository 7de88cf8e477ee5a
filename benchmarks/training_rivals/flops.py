"""Model FLOPs of training: those that the model needs, not those that an implementation spends. Both sides count alike.

A multiply-add is 2 FLOPs and the backward pass costs twice the forward pass: 6 per weight and row. Padding is not counted.

B: windows, L: events of a window, D: width
"""

from collections.abc import Iterator

from torch import Tensor, nn

TRAINING = 6  # FLOPs of a forward multiply-add in a training step


class DenseWork:
    """Counts the multiply-adds of the linear and attention layers of a model, by hooks."""

    def __init__(self, model: nn.Module) -> None:
        self.per_event = self.other = 0
        for layer, num_weights in dense_layers(model):
            layer.register_forward_pre_hook(lambda _, inputs, num_weights=num_weights: self.add(num_weights, inputs[0]))

    def add(self, num_weights: int, rows: Tensor) -> None:
        """Count a call of a layer. Three axes are [B, L, D], one row per event; two axes are other rows: queries or items."""
        if rows.ndim == 3:
            self.per_event += num_weights
        else:
            self.other += num_weights * len(rows)

    def take(self, num_steps: int, num_events: int) -> int:
        """Forward multiply-adds of the last `num_steps` steps, which read `num_events` events. Resets the count."""
        total = self.per_event // num_steps * num_events + self.other
        self.per_event = self.other = 0
        return total


def dense_layers(model: nn.Module) -> Iterator[tuple[nn.Module, int]]:
    """The dense layers, each with its number of weights that multiply."""
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            assert module.in_proj_weight is not None
            yield module, module.in_proj_weight.numel() + module.out_proj.weight.numel()
        elif isinstance(module, nn.Linear):
            yield module, module.weight.numel()


def training_flops(dense: int, num_layers: int, width: int, squared_lengths: int, num_scores: int) -> float:
    """FLOPs of training steps with `dense` forward multiply-adds in their layers.

    `squared_lengths` is the sum over the windows of L^2: causal attention multiplies half of L^2 pairs, once for its weights
    and once for its values. `num_scores` counts every pair of a query and a candidate; both sides get a gradient.
    """
    attention = num_layers * width * squared_lengths
    return float(TRAINING * (dense + attention + width * num_scores))
