"""The model on a device: its weights, the item vectors and the pages of histories, and what is computed of one batch.

Nothing here waits for the device or reads a number from it. Weights of the layers, their activations and the pages have the
dtype that the server was started with; the residual stream, the heads and all sums are float32.

T: new events of all histories, Q: requests, D: width, V: vector width, M: past items of all requests, N: items, A: items added
since the release was built, H: heads, G: key/value heads, E: head width, K: results
"""

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor

from service.kernels.catalogue import Catalogue
from service.kernels.event_input import event_input
from service.kernels.item_rows import ItemRows
from service.kernels.past_scores import past_scores
from service.kernels.queries import queries
from service.kernels.query_input import query_input
from service.kernels.topk import top_k_at_once
from service.model.packing import Inputs, Layout, Shape, num_joined, split
from service.model.pages import PagePool
from twotower.kernels.linear_norm import linear_add_norm
from twotower.kernels.linear_swiglu import linear_swiglu
from twotower.kernels.paged_attention import paged_attention
from twotower.kernels.paged_projection import paged_projection
from twotower.model.config import ModelConfig
from twotower.model.contextualizer import Block, Contextualizer

BUCKETS = (1, 2, 4, 8, 16, 32)  # numbers of requests for which graphs are captured
# Past items of a request on average, past items of one request, and results: what the batches of a graph may have at most.
_TIERS = ((64, 64, 32), (256, 256, 128))

Capture = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]


class DeviceModel:
    """What of one release lies on a device. The releases with changed items share it; the pages may be shared more widely."""

    def __init__(
        self, contextualizer: Contextualizer, config: ModelConfig, vectors_NV: Tensor, pool: PagePool, catalogue: Catalogue | None
    ) -> None:
        """`vectors_NV` lies on the device; `catalogue` is given if the reader shall search it."""
        device, self.dtype = pool.cache_L2NGCE.device, pool.cache_L2NGCE.dtype
        self.config, self.pool, self.device, self.layout = config, pool, device, Layout(config)
        self.vectors_NV, self.catalogue = vectors_NV, catalogue
        self._model = deepcopy(contextualizer).to(device).eval().requires_grad_(False)
        self._blocks = [block for block in self._model.blocks if isinstance(block, Block)]
        for block in self._blocks:
            for linear in (block.qkv, block.attention_out, block.gate_up, block.down):
                linear.to(self.dtype)
        self._one_each = torch.arange(BUCKETS[-1] + 2, dtype=torch.int32, device=device)
        self.graphs: dict[Shape, tuple[Tensor, Callable[[], Tensor]]] = {}  # by shape: the buffer to fill, and what to call then

    @property
    def num_bytes(self) -> int:
        """Bytes of the weights on the device."""
        return sum(tensor.nbytes for tensor in (*self._model.parameters(), *self._model.buffers()))

    def capture(self, capture: Capture) -> None:
        """Capture a graph for every shape of batches with one new event of each history."""
        for shape in graph_shapes(self.catalogue is not None):
            buffer = torch.zeros(self.layout.num_numbers(shape), dtype=torch.int32, device=self.device)
            self.layout.views(buffer, shape).places_T.fill_(-1)
            self.graphs[shape] = buffer, capture(lambda buffer=buffer, shape=shape: self.results(buffer, shape))  # type: ignore[misc]

    @torch.inference_mode()
    def results(self, buffer: Tensor, shape: Shape, added_AV: Tensor | None = None) -> Tensor:
        """The results of a batch in one buffer: see `parts_of`. Stores keys and values of the new events in their pages."""
        inputs, model, items = self.layout.views(buffer, shape), self._model, ItemRows(self.vectors_NV, added_AV)
        results = torch.empty(num_joined(self._sizes(shape)), dtype=torch.int32, device=self.device)
        queries_QZ, past_M, *found = self.parts_of(results, shape)
        x_TD, normed_TD = event_input(
            model, items, inputs.rows_T, inputs.slots_TS, inputs.weights_TS, inputs.dense_TW, self.dtype
        )
        hidden_QD = self._hidden(x_TD, normed_TD, inputs, shape)
        past = (inputs.past_rows_M, inputs.past_offsets_F, inputs.past_features_M6)
        query_input_QX = query_input(
            model,
            items,
            hidden_QD,
            inputs.is_empty_Q,
            inputs.times_QR,
            inputs.activity_Q6,
            inputs.wanted_QS,
            inputs.wanted_weights_QS,
            *past,
        )
        queries(model, query_input_QX, queries_QZ)
        past_scores(model, items, queries_QZ, query_input_QX, inputs.activity_Q6, *past, past_M)
        if found and self.catalogue is not None:
            somebody = slice(shape.num_requests)
            excluded_QX = inputs.excluded_QX[somebody]
            top_k_at_once(queries_QZ[somebody], self.catalogue, shape.num_found, excluded_QX=excluded_QX, out=found)
        return results

    def parts_of(self, results: Tensor, shape: Shape) -> list[Tensor]:
        """Queries [Q, Z], scores of past items [M]; after a search also rows and scores [Q, K], and which are unproven, [Q].

        Z is the width of the rows that are searched, if any are: queries are filled up with zeros.
        """
        return split(results, self._sizes(shape))

    def _sizes(self, shape: Shape) -> list[tuple[tuple[int, ...], torch.dtype]]:
        num, found = shape.num_requests, (shape.num_requests, shape.num_found)
        width = (self.vectors_NV if self.catalogue is None else self.catalogue.rows_PV).shape[1]
        sizes: list[tuple[tuple[int, ...], torch.dtype]] = [
            ((num + 1, width), torch.float32),
            ((shape.num_past,), torch.float32),
        ]
        if shape.num_found and self.catalogue is not None:
            sizes += [(found, torch.int32), (found, torch.float32), ((num,), torch.int32)]
        return sizes

    def _one_each_of(self, num: int) -> Tensor:
        """Offsets of so many histories of one event."""
        if num >= len(self._one_each):
            self._one_each = torch.arange(2 * num, dtype=torch.int32, device=self.device)
        return self._one_each[: num + 1]

    def _hidden(self, x_TD: Tensor, normed_TD: Tensor, inputs: Inputs[Tensor], shape: Shape) -> Tensor:
        """The hidden state [Q, D] after the last event of each history; of one without events it means nothing."""
        tables, histories = (self._model.cos_LE, self._model.sin_LE), (inputs.pages_QP, inputs.lengths_Q)
        offsets_F, most_new = inputs.offsets_F, shape.most_new
        next_weights = [block.attention_norm.weight for block in self._blocks[1:]]
        for layer, block in enumerate(self._blocks):
            is_last = layer == len(self._blocks) - 1
            k_NGCE, v_NGCE = self.pool.cache_L2NGCE[layer]
            q_THE = paged_projection(normed_TD, block.qkv.weight, k_NGCE, v_NGCE, inputs.places_T, inputs.positions_T, *tables)
            if is_last and most_new > 1:  # of the last layer only the last event of each history is wanted
                q_THE, x_TD = q_THE.index_select(0, inputs.last_Q), x_TD.index_select(0, inputs.last_Q)
                offsets_F, most_new = self._one_each_of(len(x_TD)), 1
            mixed_TD = paged_attention(q_THE, k_NGCE, v_NGCE, *histories, offsets_F, *tables, most_new).flatten(1)
            x_TD, normed_TD = linear_add_norm(x_TD, mixed_TD, block.attention_out.weight, block.ffn_norm.weight, self.dtype)
            fed_TF = linear_swiglu(normed_TD, block.gate_up.weight)
            weight_D, dtype = (self._model.norm.weight, torch.float32) if is_last else (next_weights[layer], self.dtype)
            x_TD, normed_TD = linear_add_norm(x_TD, fed_TF, block.down.weight, weight_D, dtype)
        return normed_TD


def graph_shapes(searches: bool) -> list[Shape]:
    """The shapes of batches with one new event of each history for which graphs are captured, the cheapest first."""
    return [
        Shape(num, num + 1, 1, average * num, excluded if searches else 0, found if searches else 0)
        for average, excluded, found in _TIERS
        for num in BUCKETS
    ]


def graphs() -> Capture:
    """Captures CUDA graphs, of functions that use only tensors which stay where they are. Calling one queues one launch.

    The graphs share the memory for what they compute in between, because only one of them runs at a time.
    """
    memory = torch.cuda.graph_pool_handle()

    def capture(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            run()  # compiles kernels and makes the workspaces of libraries, which cannot be done while capturing
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=memory, capture_error_mode="thread_local"):
            results = run()

        def replay() -> Tensor:
            graph.replay()
            return results

        return replay

    return capture
