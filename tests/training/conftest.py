"""The tiny shop as training reads it, and a config small enough to train in a test."""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from training.data.batches import BatchSampler
from training.data.made_up_queries import ItemWords
from training.data.read import Data, read_data
from training.recipes.budget import CONTEXT_TABLE_ROWS, size_model
from training.recipes.config import StageConfig, TrainConfig
from twotower.data.features import EncodedRows
from twotower.data.schema import load_schema
from twotower.model.catalogue import encode_items, fit_item_spec, stream_items
from twotower.model.config import ModelConfig

TINY = TrainConfig(
    metric="next-basket NDCG@10",
    minutes=None,
    stages=(
        StageConfig(share=0.5, num_negatives=64, train_embedder=True, max_steps=6),
        StageConfig(share=0.5, num_negatives=None, train_embedder=False, max_steps=4),
    ),
    width=32,
    num_layers=1,
    embedder_share=0.2,
    batch_windows=3,
    max_queries=40,
)

LEARNS = msgspec.structs.replace(
    TINY,
    learning_rate=1e-2,
    stages=(
        StageConfig(share=0.5, num_negatives=100, train_embedder=True, max_steps=60),
        StageConfig(share=0.5, num_negatives=None, train_embedder=False, max_steps=30),
    ),
)


@dataclass(frozen=True)
class Shop:
    """Data, sizes and encoded items of the tiny shop."""

    data: Data
    model: ModelConfig
    items: EncodedRows
    config: TrainConfig

    def sampler(self) -> BatchSampler:
        return BatchSampler(self.data.log, self.data.train_until_ms, self.model, self.config)


def read_shop(directory: Path, config: TrainConfig = TINY) -> Shop:
    schema = load_schema(directory / "schema.toml")
    items = directory / "items.parquet"
    data = read_data(directory / "events.parquet", items, schema, config.half_lives_days, CONTEXT_TABLE_ROWS)
    spec = fit_item_spec(items, schema.items)
    model = size_model(config, spec, data.log.context_spec)
    encoded = EncodedRows.concatenate([encode_items(t, spec, model.table_rows) for t in stream_items(items, schema.items)])
    return Shop(data, model, encoded, config)


@pytest.fixture(scope="session")
def shop(tiny_shop: Path) -> Shop:
    return read_shop(tiny_shop)


def searching(shop: Shop, directory: Path, share: float = 0.4) -> BatchSampler:
    """A sampler that makes up searches."""
    columns = load_schema(directory / "schema.toml").items
    words = ItemWords(list(stream_items(directory / "items.parquet", columns)), columns, "title")
    model = msgspec.structs.replace(shop.model, query_field="title")
    config = msgspec.structs.replace(shop.config, search_share=share)
    return BatchSampler(shop.data.log, shop.data.train_until_ms, model, config, words)
