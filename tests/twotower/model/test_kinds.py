"""Every kind is built by its name; a user's own only from code that the operator has named."""

from pathlib import Path

import msgspec
import pytest
import torch

from twotower.data.features import FeatureSpec, FieldSpec
from twotower.errors import EnvironmentProblem
from twotower.model.config import ModelConfig
from twotower.model.embedder import MlpEmbedder
from twotower.model.kinds import KINDS, TRUST_VARIABLE, build_embedder, embedder_class, require_trust

CONFIG = ModelConfig(
    item_spec=FeatureSpec(fields=(FieldSpec(name="item_id", kind="id"), FieldSpec(name="image", kind="vector", dim=4))),
    context_spec=FeatureSpec(fields=()),
    width=16,
    num_heads=2,
)
MINE = "tests.twotower.model.test_kinds:Mine"


class Mine(MlpEmbedder):
    """A user's own."""


@pytest.mark.parametrize("kind", [*KINDS, MINE])
def test_a_kind_is_built_by_its_name(kind: str) -> None:
    embedder = build_embedder(msgspec.structs.replace(CONFIG, embedder=kind))
    assert embedder(torch.zeros(2, 3, dtype=torch.int32), torch.ones(2, 3), torch.zeros(2, 5)).shape == (2, 16)


def test_an_unknown_kind_is_refused_with_the_choice() -> None:
    with pytest.raises(ValueError, match="choose mlp, tab_transformer, bag, or name your own as module:Class"):
        embedder_class("mpl")


@pytest.mark.parametrize(("kind", "what"), [("no_such_shop.towers:Mine", "'no_such_shop.towers' cannot be imported"),
                                            ("tests.twotower.model.test_kinds:Yours", "has no 'Yours'")])  # fmt: skip
def test_code_that_is_not_there_is_named(kind: str, what: str) -> None:
    with pytest.raises(EnvironmentProblem, match=what):
        embedder_class(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_our_own_kinds_need_no_trust(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TRUST_VARIABLE, raising=False)
    require_trust(kind, Path("bundle"))


@pytest.mark.parametrize("named", [None, "", "mlp", "os:system"])
def test_code_that_a_file_names_needs_the_operator_to_name_it_too(named: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TRUST_VARIABLE, raising=False)
    if named is not None:
        monkeypatch.setenv(TRUST_VARIABLE, named)
    with pytest.raises(EnvironmentProblem, match=f"set {TRUST_VARIABLE}={MINE}"):
        require_trust(MINE, Path("bundle"))


def test_named_by_both_it_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRUST_VARIABLE, MINE)
    require_trust(MINE, Path("bundle"))
