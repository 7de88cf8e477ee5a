"""One training run from top to bottom: data -> spec -> sizes -> both stages -> metrics -> bundle."""

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import torch

from training.data.batches import BatchSampler
from training.data.made_up_queries import ItemWords
from training.data.read import Data, read_data
from training.evaluation.cold_start import PLANTED, plant
from training.evaluation.metrics import candidate_set
from training.evaluation.rankers import Model
from training.evaluation.splits import evaluate_splits
from training.recipes.budget import CONTEXT_TABLE_ROWS, ParameterCount, count_parameters, size_model
from training.recipes.config import TrainConfig
from training.run.checkpoint import RunDirectory, forget_checkpoints, identify, refuse_unfinished
from training.run.distributed import joined, launched_world, world_with_room
from training.run.journal import RUN_SUFFIX, RunJournal
from training.run.loop import StepReport, TrainState, prepare_training, resumed, train, whole_objective
from training.run.stopping import MIN_ANSWERS, stop_metric
from training.run.watch import Watch
from twotower.artefacts.bundle import save_bundle
from twotower.artefacts.manifest import refuse_existing, staging
from twotower.data.features import EncodedRows
from twotower.data.schema import Schema
from twotower.device import Needs
from twotower.device_option import Wanted
from twotower.model.catalogue import embed_rows, encode_items, fit_item_spec, stream_items
from twotower.model.searches import query_field
from twotower.planning.compute_optimal import data_notice
from twotower.progress import say, step
from twotower.provenance import commit, environment


def run(
    config: TrainConfig,
    events: Path,
    items: Path,
    schema: Schema,
    out: Path,
    directory: Path | None = None,
    resume: bool = False,
    signals: Path | None = None,
    device: Wanted | None = None,
) -> dict[str, Any]:
    """Train with `config`, write the bundle to `out`, and return the content of its metrics.json.

    The journal and checkpoints are in `directory`, by default OUT.run; `resume` continues from the checkpoint there. Under
    torchrun every rank calls this: rank 0 prints, evaluates and writes, the others return an empty dict.
    """
    world = launched_world(device)
    if config.patience is not None:
        stop_metric(config)
    directory = directory or out.with_name(f"{out.name}{RUN_SUFFIX}")
    refuse_existing(out)
    if not resume:
        refuse_unfinished(directory)
    for place in (out.parent, directory):
        with staging(place):
            pass  # so that a directory without write permission is found now, not after the training
    data = read_data(events, items, schema, config.half_lives_days, CONTEXT_TABLE_ROWS, signals=signals)
    hidden: list[str] = []
    if config.plant_cold:
        planted = plant(data, config.plant_cold, config.half_lives_days, config.seed)
        data, hidden = planted.data, planted.item_ids
    spec = fit_item_spec(items, schema.items)
    num_signals = data.signals.num_signals if data.signals else 0
    model = size_model(config, spec, data.log.context_spec, num_signals, schema.events.clock)
    if config.search_share or data.log.searches is not None:
        model = msgspec.structs.replace(model, query_field=query_field(schema.items))
    with step("encode items", total=len(data.item_ids), unit="items") as work:
        parts, named = [], []
        for table in stream_items(items, schema.items):
            parts.append(encode_items(table, spec, model.table_rows))
            named += [table] if model.query_field else []
            work.advance(len(table))
        encoded = EncodedRows.concatenate(parts)
        words = ItemWords(named, schema.items, model.query_field) if model.query_field else None
    parameters = count_parameters(model)
    say(
        f"  {parameters.embedder:,} embedder + {parameters.contextualizer:,} contextualizer parameters: "
        f"the embedder is {parameters.share:.2%}"
    )
    world = world_with_room(world, training_needs(sum(parameters), model.width, data))
    for line in data_notice(sum(parameters), int(data.train_count_N.sum())):
        say(f"  {line}")
    sampler = BatchSampler(data.log, data.train_until_ms, model, config, words)
    if sampler.makes_up:
        say(f"  the log has no searches: {config.search_share:.0%} of the queries follow one made up from the words of items")
    described = {
        "parameters": parameter_table(parameters),
        "data": data_table(data),
        "candidates": candidate_set(len(data.item_ids), past_masked=config.protocol == "leave-one-out"),
        **({PLANTED: hidden} if hidden else {}),
    }
    watch = Watch(config, model, encoded, data, RunJournal(directory) if world.leads else None)
    files = RunDirectory(directory, identify(config, model, encoded, sampler, data.signals), data.item_ids)
    with joined(world):
        inputs, state = prepare_training(config, model, encoded, sampler, data.snapshots, files, world)
        if resume:
            state = resumed(inputs, state)
            say(f"  resuming after step {state.step}" if state.step else f"  no checkpoint in {directory}: starting anew")
        watch.begin(state, {**provenance(config), **described, "bundle": str(out.resolve())})
        with step("train", total=100.0) as work:

            def show(report: StepReport) -> float | None:
                work.advance(100 * report.progress - work.done)
                work.say(f"stage {report.stage}, step {report.step}, loss {report.loss:.3f}, {report.events_per_s:,.0f} events/s")
                return watch.step(report, lambda: whole_objective(inputs, state))

            state = train(inputs, state, show, watch.stage_end)
        towers = whole_objective(inputs, state)
    if not world.leads:
        return {}
    watch.end(towers, state)
    vectors_ND = embed_rows(towers.embedder, encoded).clone()
    ranker = Model(towers.contextualizer, model, vectors_ND, data.log, data.snapshots, towers.embedder)
    quality = evaluate_splits(data, ranker, config.protocol, config.seed)
    metrics = {
        "recipe_metric": config.metric,
        **described,
        "training": {"seconds": state.elapsed_s, "steps": state.step, "final_loss": state.smoothed_loss},
        **({} if config.patience is None else {"early_stopping": stopping_table(state, watch)}),
        "protocol": config.protocol,
        "quality": quality,
    }
    save_bundle(
        out,
        towers.embedder,
        towers.contextualizer,
        model,
        config.half_lives_days,
        schema,
        popularity_table(data),
        metrics,
        provenance(config),
    )
    forget_checkpoints(directory)
    return metrics


def training_needs(num_parameters: int, width: int, data: Data) -> Needs:
    """The bytes of a training run on a GPU: weights with gradients and two moments each, the vectors of stage 2, popularity."""
    return Needs(
        weights=4 * 4 * num_parameters, vectors=4 * width * len(data.item_ids), batch=2 * data.snapshots.table_PTN.nbytes
    )


def popularity_table(data: Data) -> pa.Table:
    """Log popularity and signals of each item at the end of training, to embed the bundle without an event log."""
    values_NP = data.snapshots.day(data.train_until_ms).T
    return pa.table({"item_id": data.item_ids, "log_popularity": pa.array(values_NP.tolist(), pa.list_(pa.float32()))})


def stopping_table(state: TrainState, watch: Watch) -> dict[str, Any]:
    """What a run with patience stopped by, and which weights it kept, for metrics.json. No stage: too few answers to stop by."""
    return {
        "answers": watch.num_answers,
        "answers_needed": MIN_ANSWERS,
        "stages": [msgspec.to_builtins(end) for end in state.ends],
        **({"kept_step": state.ends[-1].kept_step} if state.ends else {}),
    }


def data_table(data: Data) -> dict[str, int]:
    """Numbers of events, users and items, for metrics.json."""
    return {
        "events": data.log.report.num_events,
        "events_used": data.log.report.num_used,
        "events_of_unknown_items": data.log.report.unknown_items,
        "users": data.log.report.num_users,
        "items": len(data.item_ids),
    }


def parameter_table(parameters: ParameterCount) -> dict[str, float]:
    """Numbers of parameters, for metrics.json."""
    return {
        "embedder": parameters.embedder,
        "contextualizer": parameters.contextualizer,
        "query_words": parameters.query_words,
        "embedder_share": parameters.share,
    }


def provenance(config: TrainConfig) -> Mapping[str, Any]:
    """How a bundle was made: the whole config, versions, cores, commit and date."""
    return {
        "config": msgspec.to_builtins(config),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        **environment(),
        "threads": torch.get_num_threads(),
        "command": sys.argv[1:],
    }
