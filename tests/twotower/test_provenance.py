"""A figure can be traced to what made it."""

import torch

from twotower.provenance import environment


def test_the_environment_names_the_versions_that_run() -> None:
    found = environment()
    versions, cores = found["versions"], found["cores"]
    assert isinstance(versions, dict)
    assert versions["torch"] == torch.__version__
    assert isinstance(cores, int)
    assert cores > 0
