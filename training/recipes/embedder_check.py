"""Checks a user's own embedder against the interface before it is trained.

N: items, S: hash slots, F: dense features, D: model width
"""

from collections.abc import Callable

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from twotower.model.config import ModelConfig
from twotower.model.embedder import Embedder

NUM_ITEMS = 16
TOLERANCE = 1e-5


def check_embedder(made_from: Callable[[ModelConfig], Embedder], model: ModelConfig) -> None:
    """ValueError that says what to do, unless the class implements `twotower.model.embedder.Embedder`.

    Made-up items must get finite float32 vectors [N, D] that depend, in evaluation mode, on their own row only. Every parameter
    must get a gradient, and `state_dict` must hold all of the state, so that a bundle can restore it.
    """
    name = getattr(made_from, "__name__", repr(made_from))
    if not (isinstance(made_from, type) and issubclass(made_from, nn.Module)):
        raise ValueError(f"{name} is no torch.nn.Module: make it a subclass that takes a ModelConfig")
    try:
        embedder = made_from(model)
    except TypeError as error:
        raise ValueError(f"{name} cannot be made from a ModelConfig alone ({error}): give it __init__(self, config)") from error
    items = made_up_items(model)
    _check_vectors(name, embedder, items, model)
    _check_rows_stand_alone(name, embedder.eval(), items)
    _check_gradients(name, embedder.train(), items)
    _check_state(name, embedder.eval(), made_from(model).eval(), items)


def made_up_items(model: ModelConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Seeded arguments of an embedder. Some slots have weight 0, as those of missing words and of hidden ids have."""
    random = torch.Generator().manual_seed(0)
    num_slots = sum(model.item_spec.slot_counts)
    slots_NS = torch.randint(model.table_rows, (NUM_ITEMS, num_slots), generator=random, dtype=torch.int32)
    weights_NS = torch.randint(-1, 2, (NUM_ITEMS, num_slots), generator=random).float()
    return slots_NS, weights_NS, torch.rand(NUM_ITEMS, model.item_spec.dense_width, generator=random)


def _check_vectors(name: str, embedder: Embedder, items: tuple[Tensor, Tensor, Tensor], model: ModelConfig) -> None:
    vectors_ND = embedder.eval()(*items)
    if not isinstance(vectors_ND, Tensor) or vectors_ND.shape != (NUM_ITEMS, model.width) or vectors_ND.dtype != torch.float32:
        got = f"{vectors_ND.dtype} {tuple(vectors_ND.shape)}" if isinstance(vectors_ND, Tensor) else type(vectors_ND).__name__
        raise ValueError(
            f"{name} gives {got} for {NUM_ITEMS} items: return one tensor of float32, (items, config.width) = "
            f"({NUM_ITEMS}, {model.width})"
        )
    if not torch.isfinite(vectors_ND).all():
        raise ValueError(f"{name} gives vectors that are not finite: initialise every parameter, and never divide by zero")


def _check_rows_stand_alone(name: str, embedder: Embedder, items: tuple[Tensor, Tensor, Tensor]) -> None:
    """A vector must not depend on other items, because batches differ in training, in the nightly job and in the service."""
    order = torch.randperm(NUM_ITEMS, generator=torch.Generator().manual_seed(1))
    vectors_ND = embedder(*items)
    permuted_ND = embedder(*(x[order] for x in items))
    alone_ND = torch.cat([embedder(*(x[i : i + 1] for x in items)) for i in range(NUM_ITEMS)])
    for again_ND, how in ((permuted_ND, "in another order"), (alone_ND, "one by one")):
        wanted_ND = vectors_ND[order] if again_ND is permuted_ND else vectors_ND
        if (worst := (again_ND - wanted_ND).abs().max().item()) > TOLERANCE * max(1.0, wanted_ND.abs().max().item()):
            raise ValueError(
                f"{name} gives other vectors when the same items come {how} (off by {worst:.1e}): in evaluation mode each row "
                f"must depend on its own features alone, without batch statistics, attention across items or random numbers"
            )


def _check_gradients(name: str, embedder: Embedder, items: tuple[Tensor, Tensor, Tensor]) -> None:
    parameters = dict(embedder.named_parameters())
    if fixed := [n for n, p in parameters.items() if not p.requires_grad]:
        raise ValueError(f"{name}.{fixed[0]} is a parameter that is not trained: training frees them all, so make it a buffer")
    vectors_ND = embedder(*items)
    if not parameters or not vectors_ND.requires_grad:
        raise ValueError(f"{name} has nothing to train: make its weights nn.Parameter, and do not detach the vectors")
    gradients = torch.autograd.grad(vectors_ND.square().sum(), list(parameters.values()), allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            raise ValueError(f"{name}.{parameter} never takes part in a vector: use it, or remove it")
        if not torch.isfinite(gradient).all():
            raise ValueError(f"{name}.{parameter} gets a gradient that is not finite: look for a root or a division at 0")


def _check_state(name: str, embedder: Embedder, fresh: Embedder, items: tuple[Tensor, Tensor, Tensor]) -> None:
    """Saves the weights to safetensors and loads them into a new module, as a bundle does."""
    try:
        fresh.load_state_dict(load(save({k: v.contiguous() for k, v in embedder.state_dict().items()})))
    except RuntimeError as error:
        raise ValueError(
            f"{name} cannot be saved and loaded ({error}): no two entries of its state_dict may share memory"
        ) from error
    if not torch.equal(fresh(*items), embedder(*items)):
        raise ValueError(
            f"{name} does not come back from its state_dict: register every random or learned tensor as a parameter or a buffer"
        )
