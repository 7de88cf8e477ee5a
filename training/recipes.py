"""Named runs. Each is a function returning a config, and says which metric it was chosen by."""

from collections.abc import Callable

from training.config import StageConfig, TrainConfig


def demo(minutes: float = 3.75) -> TrainConfig:
    """A few minutes on two cores, for the demo: chosen by next-basket NDCG@10 on Complete Journey's November."""
    return TrainConfig(
        metric="next-basket NDCG@10",
        minutes=minutes,
        stages=(
            StageConfig(share=0.6, num_uniform=4096, train_embedder=True),
            StageConfig(share=0.4, num_uniform=None, train_embedder=False),
        ),
    )


RECIPES: dict[str, Callable[..., TrainConfig]] = {"demo": demo}
