"""The path on a GPU, section by section: the engine's batches, the catalogue's encoding, the steps of training, FAISS.

Q: requests, N: items
"""

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from benchmarks.device_path.faiss_kinds import faiss_kinds
from benchmarks.device_path.figures import Figure, seconds
from benchmarks.device_path.sizes import Sizes, encoded_items, model_config, snapshots, train_batch
from benchmarks.kernel_static.launches import default_model, launches
from service.kernels.catalogue import MAX_WIDTH
from service.kernels.certified import coded_catalogue_of
from service.model.device_model import DeviceModel, graphs
from service.model.packing import Inputs, Shape
from service.model.pages import PagePool
from training.losses.objective import FrozenItems, Objective, TrainedItems
from twotower.device import ON_CPU, Device
from twotower.model.contextualizer import Contextualizer
from twotower.model.embed_stream import embed_stream
from twotower.model.embedder import MlpEmbedder

NUM_FOUND = 32


Section = Callable[[Sizes, Device, bool], Iterator[Figure]]


class EngineBatch:
    """A batch of the engine on a device: requests with `most_new` new events each, after so many that are in pages."""

    def __init__(self, model: DeviceModel, sizes: Sizes, most_new: int) -> None:
        num, before = sizes.num_requests, sizes.num_events - most_new
        num_events = num + 1 if most_new == 1 else num * most_new
        self.model, self.sizes = model, sizes
        self.shape = Shape(num, num_events, most_new, num * sizes.num_past, sizes.num_past, NUM_FOUND)
        self.buffer = torch.zeros(model.layout.num_numbers(self.shape), dtype=torch.int32, pin_memory=model.device.type == "cuda")
        inputs = Inputs(*(part.numpy() for part in model.layout.views(self.buffer, self.shape)))
        rng, page = np.random.default_rng(3), model.pool.page
        num_real = num * most_new
        inputs.rows_T[:] = rng.integers(0, len(model.vectors_NV), num_events)
        inputs.places_T[:] = -1
        inputs.positions_T[:num_real] = np.tile(np.arange(before, before + most_new), num)
        inputs.pages_QP[:num] = np.arange(num * inputs.pages_QP.shape[1]).reshape(num, -1)
        owner = np.arange(num).repeat(most_new)
        inputs.places_T[:num_real] = (
            inputs.pages_QP[owner, inputs.positions_T[:num_real] // page] * page + inputs.positions_T[:num_real] % page
        )
        inputs.slots_TS[:] = rng.integers(0, model.config.context_table_rows, inputs.slots_TS.shape)
        inputs.weights_TS[:], inputs.dense_TW[:] = 1.0, rng.random(inputs.dense_TW.shape)
        inputs.lengths_Q[:num], inputs.is_empty_Q[num:] = sizes.num_events, 1
        inputs.offsets_F[:] = np.minimum(np.arange(num + 2) * most_new, num_real if most_new > 1 else num + 1)
        inputs.last_Q[:num] = inputs.offsets_F[1 : num + 1] - 1
        inputs.past_rows_M[:] = rng.integers(0, len(model.vectors_NV), len(inputs.past_rows_M))
        inputs.past_offsets_F[:] = np.minimum(np.arange(num + 2), num) * sizes.num_past
        inputs.past_features_M6[:] = rng.random(inputs.past_features_M6.shape)
        inputs.excluded_QX[:] = -1

    def answer(self) -> Tensor:
        """One batch without a graph: a copy there, the model, a copy back."""
        return self.model.results(self.buffer.to(self.model.device, non_blocking=True), self.shape).cpu()

    def replayed(self) -> Callable[[], Tensor]:
        """The same as a graph that is captured once."""
        on_device = self.buffer.to(self.model.device)
        replay = graphs()(partial(self.model.results, on_device, self.shape))

        def run() -> Tensor:
            on_device.copy_(self.buffer, non_blocking=True)
            return replay().cpu()

        return run


def device_model(sizes: Sizes, device: Device) -> DeviceModel:
    """A model with random weights and its catalogue, all on the device."""
    config = model_config(sizes)
    torch.manual_seed(0)
    vectors_NV = torch.randn(sizes.num_items, config.width + config.num_popularity, device=device.torch_device)
    pages_each = config.window // config.page
    one = PagePool(config, torch.device("cpu"), device.dtype, 1 << 26).page_bytes
    pool = PagePool(config, device.torch_device, device.dtype, one * pages_each * (sizes.num_requests + 1))
    pool.cache_L2NGCE.normal_()
    catalogue = coded_catalogue_of(vectors_NV) if vectors_NV.shape[1] <= MAX_WIDTH else None
    return DeviceModel(Contextualizer(config).eval(), config, vectors_NV, pool, catalogue)


def engine(sizes: Sizes, device: Device, timing: bool) -> Iterator[Figure]:
    """Batches of the engine, from numbers in the processor's memory to results there."""
    model = device_model(sizes, device)
    for told in [] if timing else launches(default_model()):
        yield Figure(f"launches of a layer, {told.batch}", told.most_of_a_layer, "launches", "lower", f"counted: {told}")
    for name, most_new in (("append one event", 1), ("cold history", sizes.num_events)):
        batch = EngineBatch(model, sizes, most_new)
        title = f"{name}, batch {sizes.num_requests}"
        if not timing:
            batch.answer()
            continue
        ways: dict[str, Callable[[], Callable[[], Any]]] = {"ours": lambda batch=batch: batch.answer}  # type: ignore[misc]
        if most_new == 1:
            ways["ours, graph"] = batch.replayed
        ways["eager torch"] = lambda batch=batch: in_torch(batch.answer)  # type: ignore[misc]
        ways["torch.compile"] = lambda batch=batch: in_torch(torch.compile(batch.answer))  # type: ignore[misc]
        yield from timed_ways(title, ways, sizes)
        on_cpu = EngineBatch(device_model(sizes, ON_CPU), sizes, most_new)
        started = time.perf_counter()
        on_cpu.answer()
        yield Figure(
            f"{title}, our CPU path", sizes.num_requests / (time.perf_counter() - started), "requests/s", "higher", "once"
        )


def timed_ways(title: str, ways: dict[str, Callable[[], Callable[[], Any]]], sizes: Sizes) -> Iterator[Figure]:
    """Requests per second and the quantiles of a batch's time, for each way of computing it."""
    for way, make in ways.items():
        try:
            found = seconds(make(), sizes.rounds)
        except Exception as error:  # a peer that fails must not end the run
            yield Figure(f"{title}, {way}", None, "requests/s", "higher", f"failed: {str(error).splitlines()[0][:60]}")
            continue
        milliseconds = sorted(1e3 * s for s in found)
        p99 = milliseconds[min(len(milliseconds) - 1, int(0.99 * len(milliseconds)))]
        note = f"p50 {statistics.median(milliseconds):.3f} ms, p99 {p99:.3f} ms"
        yield Figure(f"{title}, {way}", sizes.num_requests / statistics.median(found), "requests/s", "higher", note)


def in_torch(run: Callable[[], Any]) -> Callable[[], Any]:
    """The same without our kernels."""

    def call() -> Any:
        with (
            patch("twotower.kernels.dispatch.use_triton", lambda *_: False),
            patch("service.kernels.topk.use_triton", lambda *_: False),
        ):
            return run()

    return call


def encode(sizes: Sizes, device: Device, timing: bool) -> Iterator[Figure]:
    """The embedder over a catalogue that is hashed already, through the double buffers."""
    config = model_config(sizes)
    embedder = MlpEmbedder(config).eval().to(device.torch_device)
    rows = encoded_items(config, sizes.batch_items)
    if not timing:
        found = list(embed_stream(embedder, [(0, rows), (1, rows)], device))
        yield Figure("catalogue encode", None, "items/s", "higher", f"{len(found)} batches embedded, not timed")
        return
    num_batches = 16
    taken = statistics.median(
        seconds(lambda: list(embed_stream(embedder, ((number, rows) for number in range(num_batches)), device)), 5)
    )
    rate = num_batches * len(rows) / taken
    flops = 2 * config.embedder_hidden * (config.embedder_input + config.width)
    a = torch.randn(8192, 8192, device=device.torch_device)
    gemm = 2 * 8192**3 / statistics.median(seconds(lambda: a @ a, 5))
    yield Figure("catalogue encode", rate, "items/s", "higher", "hashing aside, copies included")
    yield Figure("catalogue encode, share of the GEMM rate in float32", rate * flops / gemm, "share", "higher")


def training(sizes: Sizes, device: Device, timing: bool) -> Iterator[Figure]:
    """A step of each stage: forward pass, backward pass and AdamW, of a batch in the processor's memory."""
    config = model_config(sizes)
    objective = Objective(MlpEmbedder(config), Contextualizer(config), snapshots(sizes)).to(device.torch_device)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-4, fused=True)
    batch, drawn = train_batch(config, sizes)
    features = encoded_items(config, sizes.num_candidates)
    frozen_ND = torch.randn(sizes.num_items, config.width, device=device.torch_device)
    num_events = sizes.num_windows * sizes.num_events
    for stage, items in ((1, TrainedItems(drawn, features)), (2, FrozenItems(frozen_ND, None))):
        objective.embedder.requires_grad_(stage == 1)

        def step(items: TrainedItems | FrozenItems = items) -> float:
            with torch.autocast(device.torch_device.type, torch.bfloat16, enabled=device.is_gpu):
                loss = objective(batch, items)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            return float(loss.detach())

        name = f"training, stage {stage}"
        if not timing:
            yield Figure(name, None, "events/s", "higher", f"loss {step():.2f} of random weights, not timed")
            continue
        for way, run in (("ours", step), ("eager torch", in_torch(step))):
            yield Figure(f"{name}, {way}", num_events / statistics.median(seconds(run, 10)), "events/s", "higher")


SECTIONS: dict[str, Section] = {"engine": engine, "encode": encode, "training": training, "faiss": faiss_kinds}
