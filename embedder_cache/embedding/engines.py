"""The engines by name."""

from importlib.util import find_spec

from embedder_cache.embedding.local_engine import Engine, embed_on
from twotower.device import ON_CPU, Device
from twotower.errors import EnvironmentProblem


def engine_named(name: str, device: Device = ON_CPU) -> Engine:
    """The engine behind the name that `--engine` takes, on a device.

    EnvironmentProblem when what it needs is not installed, or for a device that it cannot use.
    """
    if name == "local":
        return embed_on(device)
    if device.is_gpu and not device.is_auto:
        raise EnvironmentProblem("--engine ray embeds on the CPUs of the cluster: leave out --device, or take --engine local")
    if find_spec("ray") is None:
        raise EnvironmentProblem("--engine ray needs Ray, which is not installed: pip install 'twotower[ray]', on every node")
    from embedder_cache.embedding.ray_engine import embed_on_ray

    return embed_on_ray
