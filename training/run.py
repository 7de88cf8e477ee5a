"""One training run, read top to bottom: data -> spec -> sizes -> both stages -> metrics -> bundle."""

import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import torch

from training.batches import BatchSampler
from training.budget import CONTEXT_TABLE_ROWS, ParameterCount, count_parameters, size_model
from training.config import TrainConfig
from training.data import Data, read_data
from training.evaluate import Model
from training.judge import judge
from training.loop import StepReport, prepare_training, train
from twotower.bundle import save_bundle
from twotower.catalogue import embed_rows, encode_items, fit_item_spec, stream_items
from twotower.features import EncodedRows
from twotower.manifest import refuse_existing, staging
from twotower.progress import say, step
from twotower.provenance import commit, environment
from twotower.schema import Schema


def run(config: TrainConfig, events: Path, items: Path, schema: Schema, out: Path) -> dict[str, Any]:
    """Train by `config`, write the bundle to `out`, and return what its metrics.json holds."""
    refuse_existing(out)
    with staging(out.parent):
        pass  # a place that cannot be written to is found now, not after the training
    data = read_data(events, items, schema, config.half_lives_days, CONTEXT_TABLE_ROWS)
    spec = fit_item_spec(items, schema.items)
    model = size_model(config, spec, data.log.context_spec)
    with step("encode items", total=len(data.item_ids), unit="items") as work:
        parts = []
        for table in stream_items(items, schema.items):
            parts.append(encode_items(table, spec, model.table_rows))
            work.advance(len(table))
        encoded = EncodedRows.concatenate(parts)
    parameters = count_parameters(model)
    say(
        f"  {parameters.embedder:,} embedder + {parameters.contextualizer:,} contextualizer parameters: "
        f"the embedder is {parameters.share:.2%}"
    )
    sampler = BatchSampler(data.log, data.train_until_ms, model, config)
    inputs, state = prepare_training(config, model, encoded, sampler, data.snapshots)
    started = time.monotonic()
    with step("train", total=100.0) as work:

        def show(report: StepReport) -> None:
            work.advance(100 * report.progress - work.done)
            work.say(f"stage {report.stage}, step {report.step}, loss {report.loss:.3f}, {report.events_per_s:,.0f} events/s")

        state = train(inputs, state, show)
    training_s = time.monotonic() - started
    vectors_ND = embed_rows(state.objective.embedder, encoded).clone()
    ranker = Model(state.objective.contextualizer, model, vectors_ND, data.log, data.snapshots)
    quality = judge(data, ranker, config.seed)
    metrics = {
        "recipe_metric": config.metric,
        "parameters": parameter_table(parameters),
        "training": {"seconds": training_s, "steps": state.step, "final_loss": float(np.mean(state.losses[-50:]))},
        "data": {
            "events": data.log.report.num_events,
            "events_used": data.log.report.num_used,
            "events_of_unknown_items": data.log.report.unknown_items,
            "users": data.log.report.num_users,
            "items": len(data.item_ids),
        },
        "next_basket": quality,
    }
    save_bundle(
        out,
        state.objective.embedder,
        state.objective.contextualizer,
        model,
        config.half_lives_days,
        schema,
        popularity_table(data),
        metrics,
        provenance(config),
    )
    return metrics


def popularity_table(data: Data) -> pa.Table:
    """item_id and log popularity as of the end of training, for bundles embedded without an event log."""
    values_NP = data.snapshots.at(np.array([data.train_until_ms]))[0]
    return pa.table({"item_id": data.item_ids, "log_popularity": pa.array(values_NP.tolist(), pa.list_(pa.float32()))})


def parameter_table(parameters: ParameterCount) -> dict[str, float]:
    """For metrics.json."""
    return {
        "embedder": parameters.embedder,
        "contextualizer": parameters.contextualizer,
        "embedder_share": parameters.share,
    }


def provenance(config: TrainConfig) -> Mapping[str, Any]:
    """Where a bundle comes from: the whole config, versions, cores, commit and date."""
    return {
        "config": msgspec.to_builtins(config),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        **environment(),
        "threads": torch.get_num_threads(),
        "command": sys.argv[1:],
    }
