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


FOLLOWED = {
    "a": """
from b import TABLE, Thing

def main(x: Unused) -> Unused:
    thing = Thing()
    thing.go()
    TABLE["k"]()

class Unused:
    def __init__(self): never()

def never(): ...
""",
    "b": """
from c import deep as renamed

def of_table(): ...

TABLE = {"k": of_table}

class Thing:
    def go(self): renamed()
    def stay(self): idle()
    def forward(self): other()

def idle(): ...

def other(): ...
""",
    "c": """
@jit
def deep(): ...

@jit
def uncalled(): ...
""",
}


def test_the_graph_follows_imports_methods_and_tables_and_no_annotations() -> None:
    graph = Graph(FOLLOWED)
    reached = {name for _, name in graph.reached([("a", "main")])}
    assert reached == {"main", "TABLE", "of_table", "Thing", "Thing.go", "Thing.forward", "deep", "other"}
    assert graph.kernels - graph.reached([("a", "main")]) == {("c", "uncalled")}


def callers_of_page() -> dict[str, set[str]]:
    """Kernels by their function's name, with the commands that the page names for each."""
    (table,) = [t for t in tables((ROOT / "docs/gpu.md").read_text()) if t[0][0] == "kernel"]
    return {re.findall(r"`(\w+)`", row[0])[0]: set(re.findall(r"`(\w+)`", row[2])) for row in table[1:]}


def test_the_page_names_callers_of_every_kernel_and_each_can_reach_it() -> None:
    """The page may name fewer than the graph: `embed` asks the contextualizer too, but on the CPU."""
    told = callers_of_page()
    assert told.keys() == {name for module, name in our_graph().kernels if is_launched(module, name)}
    reached = {command: kernels_of(command) for command in ON_DEVICE}
    for name, commands in told.items():
        assert commands
        assert commands <= {command for command in ON_DEVICE if name in reached[command]}, name


def is_launched(module: str, name: str) -> bool:
    """Whether a kernel is started by its own launch. Others are parts of such kernels."""
    return f"{name}[" in (ROOT / f"{module.replace('.', '/')}.py").read_text()
