"""The model and the data of the benchmark of the path: made up, but with the sizes of a shop.

B: windows, L: events, Q: queries, M: past items of all queries, N: items, S: hash slots, F: dense features
"""

from dataclasses import dataclass

import numpy as np
import torch

from training.data.batches import TrainBatch
from training.data.popularity_snapshots import PopularitySnapshots
from training.losses.candidates import Candidates
from twotower.data.features import DAY_MS, EncodedRows, FeatureSpec, FieldSpec
from twotower.data.item_statistics import NUM_ACTIVITY_FEATURES, NUM_PAST_FEATURES
from twotower.data.past_items import PastItems
from twotower.data.window import HistoryBatch
from twotower.model.config import ModelConfig
from twotower.model.searches import encode_queries


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What a run measures."""

    num_items: int
    width: int
    num_layers: int
    num_heads: int
    table_rows: int
    batch_items: int  # of one batch of the embedder
    num_requests: int  # of one batch of the engine
    num_events: int  # of a cold history
    num_past: int  # past items of one request
    num_windows: int  # of one training step
    num_queries: int
    num_candidates: int
    rounds: int
    num_indexed: tuple[int, ...]  # items in an index of FAISS
    index_s: float  # seconds for all of these; what would take longer is left out


FULL = Sizes(
    num_items=1_000_000, width=256, num_layers=6, num_heads=8, table_rows=1 << 20, batch_items=65_536, num_requests=32,
    num_events=256, num_past=64, num_windows=256, num_queries=4096, num_candidates=8192, rounds=50,
    num_indexed=(1_000_000, 10_000_000), index_s=480.0,
)  # fmt: skip
SMALL = Sizes(
    num_items=2048, width=64, num_layers=2, num_heads=4, table_rows=1024, batch_items=64, num_requests=4,
    num_events=64, num_past=16, num_windows=4, num_queries=16, num_candidates=64, rounds=2,
    num_indexed=(2048,), index_s=60.0,
)  # fmt: skip


def model_config(sizes: Sizes) -> ModelConfig:
    """Towers of these sizes: an item has its id, a title, two categories and a price; an event its type and a channel."""
    return ModelConfig(
        item_spec=FeatureSpec(
            fields=(
                FieldSpec(name="item_id", kind="id"),
                FieldSpec(name="title", kind="text"),
                FieldSpec(name="brand", kind="categorical"),
                FieldSpec(name="category", kind="categorical"),
                FieldSpec(name="price", kind="numeric", edges=tuple(map(float, range(9)))),
            )
        ),
        context_spec=FeatureSpec(
            fields=(FieldSpec(name="event_type", kind="categorical"), FieldSpec(name="channel", kind="categorical"))
        ),
        width=sizes.width,
        num_layers=sizes.num_layers,
        num_heads=sizes.num_heads,
        num_kv_heads=sizes.num_heads // 2,
        ffn_width=-(-8 * sizes.width // 3) // 16 * 16,
        table_rows=sizes.table_rows,
        table_dim=32,
        embedder_hidden=2 * sizes.width,
    )


def encoded_items(config: ModelConfig, num_items: int, seed: int = 0) -> EncodedRows:
    """Items as the hashing leaves them."""
    rng, spec = np.random.default_rng(seed), config.item_spec
    num_slots = sum(spec.slot_counts)
    return EncodedRows(
        rng.integers(0, config.table_rows, (num_items, num_slots), np.int32),
        rng.choice(np.array([-1, 1], np.float32), (num_items, num_slots)),
        rng.random((num_items, spec.dense_width), np.float32),
    )


def snapshots(sizes: Sizes, num_days: int = 8) -> PopularitySnapshots:
    """Popularity of some days."""
    table_PTN = np.random.default_rng(1).random((1, num_days, sizes.num_items), np.float32)
    return PopularitySnapshots(table_PTN, 0, DAY_MS)


def train_batch(config: ModelConfig, sizes: Sizes) -> tuple[TrainBatch, Candidates]:
    """A batch of full windows, whose items are all among the candidates."""
    rng = np.random.default_rng(2)
    drawn = Candidates(
        np.sort(rng.choice(sizes.num_items, sizes.num_candidates, replace=False)), np.zeros(sizes.num_candidates, np.float32)
    )
    num_slots, shape = sum(config.context_spec.slot_counts), (sizes.num_windows, sizes.num_events)
    per_query = min(sizes.num_past, sizes.num_candidates)
    past_rows = np.concatenate([np.sort(rng.choice(drawn.rows_C, per_query, replace=False)) for _ in range(sizes.num_queries)])
    some = {
        "rows_BL": rng.choice(drawn.rows_C, shape),
        "time": rng.random((*shape, 6), np.float32),
        "slots": rng.integers(0, config.context_table_rows, (*shape, num_slots)),
        "weights": np.ones((*shape, num_slots), np.float32),
        "dense": rng.random((*shape, config.context_spec.dense_width), np.float32),
        "lengths": np.full(sizes.num_windows, sizes.num_events),
        "request_Q7": rng.random((sizes.num_queries, 7), np.float32),
        "wanted": rng.integers(0, config.context_table_rows, (sizes.num_queries, config.context_spec.num_hashes)),
        "past_M6": rng.random((len(past_rows), NUM_PAST_FEATURES), np.float32),
        "activity_Q6": rng.random((sizes.num_queries, NUM_ACTIVITY_FEATURES), np.float32),
        "answers": rng.choice(drawn.rows_C, sizes.num_queries),
    }
    here = {name: torch.from_numpy(array) for name, array in some.items()}
    number_Q = torch.arange(sizes.num_queries)
    batch = TrainBatch(
        users_B=np.arange(sizes.num_windows),
        histories=HistoryBatch(here["rows_BL"], here["time"], here["slots"], here["weights"], here["dense"], here["lengths"]),
        window_Q=number_Q * sizes.num_windows // sizes.num_queries,
        position_Q=torch.randint(sizes.num_events, (sizes.num_queries,), generator=torch.Generator().manual_seed(0)),
        request_Q7=here["request_Q7"],
        wanted_QS=here["wanted"],
        wanted_weights_QS=torch.zeros(here["wanted"].shape),
        search_weight_Q=torch.zeros(sizes.num_queries),
        now_ms_Q=np.full(sizes.num_queries, 3 * DAY_MS),
        past=PastItems(torch.from_numpy(past_rows), number_Q.repeat_interleave(per_query), here["past_M6"], here["activity_Q6"]),
        answer_rows_A=here["answers"],
        answer_query_A=number_Q,
        answer_weights_A=torch.full((sizes.num_queries,), 1 / sizes.num_queries),
        searches=encode_queries([], config),
    )
    return batch, drawn
