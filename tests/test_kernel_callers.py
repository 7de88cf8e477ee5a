"""Every Triton kernel is called by a command: code that no user can reach is not kept."""

import re

import pytest

from tests.call_graph import ROOT, Graph, Node, entry_of, our_graph
from tests.documents import tables

ON_DEVICE = ("train", "evaluate", "embed", "serve")


def kernels_of(*commands: str, without: tuple[Node, ...] = ()) -> set[str]:
    reached = our_graph().reached([entry_of(command) for command in commands], without)
    return {name for _, name in our_graph().kernels & reached}


def test_every_kernel_is_reached_by_a_command_that_takes_a_device() -> None:
    assert {name for _, name in our_graph().kernels} - kernels_of(*ON_DEVICE) == set()


@pytest.mark.parametrize("command", ON_DEVICE)
def test_each_of_these_commands_has_the_option(command: str) -> None:
    module, _ = entry_of(command)
    assert "add_device_option" in {name for node, names in our_graph().names.items() if node[0] == module for name in names}


def test_a_kernel_that_lost_its_caller_is_found() -> None:
    callers: tuple[Node, ...] = (("twotower.kernels.swiglu", "swiglu"),)
    assert "swiglu_kernel" in kernels_of(*ON_DEVICE)
    assert "swiglu_kernel" not in kernels_of(*ON_DEVICE, without=callers)


def test_the_losses_kernels_are_those_of_training_alone() -> None:
    assert "candidate_gradient_kernel" in kernels_of("train")
    assert "candidate_gradient_kernel" not in kernels_of("embed", "serve")


def test_the_graph_follows_imports_methods_and_tables_and_no_annotations() -> None:
    graph = Graph(
        {
            "a": "from b import TABLE, Thing\n\ndef main(x: Unused) -> Unused:\n    thing = Thing()\n    thing.go()\n    TABLE['k']()\n"
            "\nclass Unused:\n    def __init__(self): never()\n\ndef never(): ...\n",
            "b": "from c import deep as renamed\n\ndef of_table(): ...\n\nTABLE = {'k': of_table}\n\n"
            "class Thing:\n    def go(self): renamed()\n    def stay(self): idle()\n    def forward(self): other()\n"
            "\ndef idle(): ...\n\ndef other(): ...\n",
            "c": "@jit\ndef deep(): ...\n\n@jit\ndef uncalled(): ...\n",
        }
    )
    reached = {name for _, name in graph.reached([("a", "main")])}
    assert reached == {"main", "TABLE", "of_table", "Thing", "Thing.go", "Thing.forward", "deep", "other"}
    assert graph.kernels - graph.reached([("a", "main")]) == {("c", "uncalled")}


def callers_of_page() -> dict[str, set[str]]:
    """Kernels by their function's name, with the commands that the page names for each."""
    (table,) = [t for t in tables((ROOT / "docs/gpu.md").read_text()) if t[0][0] == "kernel"]
    return {re.findall(r"`(\w+)`", row[0])[0]: set(re.findall(r"`(\w+)`", row[2])) for row in table[1:]}


def test_the_page_names_the_callers_of_every_kernel() -> None:
    launched = {name for module, name in our_graph().kernels if is_launched(module, name)}
    expected = {name: {command for command in ON_DEVICE if name in kernels_of(command)} for name in launched}
    assert callers_of_page() == expected


def is_launched(module: str, name: str) -> bool:
    """Whether a kernel is started by its own launch. Others are parts of such kernels."""
    return f"{name}[" in (ROOT / f"{module.replace('.', '/')}.py").read_text()
