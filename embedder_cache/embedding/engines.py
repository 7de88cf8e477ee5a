"""The engines by name."""

from importlib.util import find_spec

from embedder_cache.embedding.local_engine import Engine, embed_here
from twotower.errors import EnvironmentProblem


def engine_named(name: str) -> Engine:
    """The engine behind the name that `--engine` takes; EnvironmentProblem when what it needs is not installed."""
    if name == "local":
        return embed_here
    if find_spec("ray") is None:
        raise EnvironmentProblem("--engine ray needs Ray, which is not installed: pip install 'twotower[ray]', on every node")
    from embedder_cache.embedding.ray_engine import embed_on_ray

    return embed_on_ray
