"""The kinds of embedder, by their name in a config. A user's own is named module:Class."""

import os
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import cast

from twotower.errors import EnvironmentProblem
from twotower.model.bag import BagEmbedder
from twotower.model.config import ModelConfig
from twotower.model.embedder import Embedder, MlpEmbedder
from twotower.model.tab_transformer import TabTransformer

TRUST_VARIABLE = "TWOTOWER_EMBEDDER"
KINDS: dict[str, Callable[[ModelConfig], Embedder]] = {"mlp": MlpEmbedder, "tab_transformer": TabTransformer, "bag": BagEmbedder}
_USERS_OWN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", re.ASCII)


def build_embedder(model: ModelConfig) -> Embedder:
    """A new embedder of the model's kind. A config that was read from a file must pass `require_trust` first."""
    return embedder_class(model.embedder)(model)


def embedder_class(kind: str) -> Callable[[ModelConfig], Embedder]:
    """The class behind a kind, imported when it is a user's own.

    ValueError when the name is no kind at all, EnvironmentProblem when the user's module or class is not there.
    """
    if kind in KINDS:
        return KINDS[kind]
    if not _USERS_OWN.fullmatch(kind):
        raise ValueError(f"there is no embedder {kind!r}: choose {', '.join(KINDS)}, or name your own as module:Class")
    module, name = kind.split(":")
    try:
        found = getattr(import_module(module), name, None)
    except ImportError as error:
        raise EnvironmentProblem(
            f"embedder {kind!r}: module {module!r} cannot be imported ({error}). Install it, or put its directory on PYTHONPATH."
        ) from error
    if found is None:
        raise EnvironmentProblem(f"embedder {kind!r}: module {module!r} has no {name!r}. Check the spelling.")
    return cast(Callable[[ModelConfig], Embedder], found)


def require_trust(kind: str, path: Path) -> None:
    """EnvironmentProblem when the artefact at `path` names code that the operator has not named: files must not choose code."""
    if kind not in KINDS and os.environ.get(TRUST_VARIABLE) != kind:
        raise EnvironmentProblem(
            f"{path} needs the embedder {kind!r}, which is code of yours and not part of twotower. "
            f"If you trust it, set {TRUST_VARIABLE}={kind}, with its module installed or on PYTHONPATH."
        )
