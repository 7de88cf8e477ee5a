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
from service.kernels.topk import top_k_at_once
from service.model.packing import Inputs, Layout, Shape, joined, split
from service.model.pages import PagePool
from twotower.data.past_items import PastItems, PastVectors
from twotower.kernels.paged_attention import paged_attention
from twotower.kernels.paged_store import paged_store
from twotower.kernels.rms_norm import add_rms_norm, rms_norm
from twotower.kernels.swiglu import swiglu
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
        inputs, model, width = self.layout.views(buffer, shape), self._model, self.config.width
        items_TV = self._vectors(inputs.rows_T, added_AV)
        context_TD = model.context_in(inputs.dense_TW) + model.pool_slots(inputs.slots_TS, inputs.weights_TS)
        hidden_QD = self._hidden(items_TV[:, :width] + context_TD, inputs, shape)
        vectors_MV = self._vectors(inputs.past_rows_M, added_AV)
        request_M = inputs.past_request_M.long()
        past = PastItems(inputs.past_rows_M, request_M, inputs.past_features_M6, inputs.activity_Q6)
        item_M = torch.arange(shape.num_past, device=self.device)
        vectors = PastVectors(vectors_MV[:, :width], item_M, vectors_MV[:, width:])
        query_input = model.query_input(
            hidden_QD,
            inputs.is_empty_Q != 0,
            inputs.times_QR,
            inputs.wanted_QS,
            inputs.wanted_weights_QS,
            past,
            vectors,
        )
        queries_QV = model.queries(query_input)
        past_M = (queries_QV[request_M] * vectors_MV).sum(-1) + model.repeat_scores(query_input, past, vectors)
        parts = [queries_QV, past_M]
        if shape.num_found and self.catalogue is not None:
            somebody = slice(shape.num_requests)
            excluded_QX = inputs.excluded_QX[somebody]
            parts += top_k_at_once(queries_QV[somebody], self.catalogue, shape.num_found, excluded_QX=excluded_QX)
        return joined(parts)

    def parts_of(self, results: Tensor, shape: Shape) -> list[Tensor]:
        """Queries [Q, V], scores of past items [M]; after a search also rows and scores [Q, K], and which are unproven, [Q]."""
        num, found = shape.num_requests, (shape.num_requests, shape.num_found)
        sizes: list[tuple[tuple[int, ...], torch.dtype]] = [
            ((num + 1, self.vectors_NV.shape[1]), torch.float32),
            ((shape.num_past,), torch.float32),
        ]
        if shape.num_found and self.catalogue is not None:
            sizes += [(found, torch.int32), (found, torch.float32), ((num,), torch.int32)]
        return split(results, sizes)

    def _vectors(self, rows_M: Tensor, added_AV: Tensor | None) -> Tensor:
        """Vectors [M, V] of some rows, added ones included."""
        if added_AV is None:
            return self.vectors_NV.index_select(0, rows_M)
        num_built = len(self.vectors_NV)
        built_MV = self.vectors_NV.index_select(0, rows_M.clamp(max=num_built - 1))
        added_MV = added_AV.index_select(0, (rows_M - num_built).clamp(min=0))
        return torch.where((rows_M >= num_built)[:, None], added_MV, built_MV)

    def _one_each_of(self, num: int) -> Tensor:
        """Offsets of so many histories of one event."""
        if num >= len(self._one_each):
            self._one_each = torch.arange(2 * num, dtype=torch.int32, device=self.device)
        return self._one_each[: num + 1]

    def _hidden(self, x_TD: Tensor, inputs: Inputs[Tensor], shape: Shape) -> Tensor:
        """The hidden state [Q, D] after the last event of each history; of one without events it means nothing."""
        num_heads, num_kv_heads = self.config.num_heads, self.config.num_kv_heads
        tables, (first, *_) = (self._model.cos_LE, self._model.sin_LE), self._blocks
        histories = (inputs.pages_QP, inputs.lengths_Q)
        offsets_F, most_new = inputs.offsets_F, shape.most_new
        next_weights = [block.attention_norm.weight for block in self._blocks[1:]]
        normed_TD = rms_norm(x_TD, first.attention_norm.weight).to(self.dtype)
        for layer, block in enumerate(self._blocks):
            is_last = layer == len(self._blocks) - 1
            heads = block.qkv(normed_TD).unflatten(1, (-1, block.head_width))
            k_TGE, v_TGE = heads[:, num_heads : num_heads + num_kv_heads], heads[:, num_heads + num_kv_heads :]
            k_NGCE, v_NGCE = self.pool.cache_L2NGCE[layer]
            paged_store(k_TGE, v_TGE, k_NGCE, v_NGCE, inputs.places_T, inputs.positions_T, *tables)
            if is_last and most_new > 1:  # of the last layer only the last event of each history is wanted
                heads, x_TD = heads.index_select(0, inputs.last_Q), x_TD.index_select(0, inputs.last_Q)
                offsets_F, most_new = self._one_each_of(len(x_TD)), 1
            mixed_THE = paged_attention(heads[:, :num_heads], k_NGCE, v_NGCE, *histories, offsets_F, *tables, most_new)
            x_TD, normed_TD = add_rms_norm(x_TD, block.attention_out(mixed_THE.flatten(1)), block.ffn_norm.weight, self.dtype)
            fed_TD = block.down(swiglu(block.gate_up(normed_TD)))
            weight_D, dtype = (self._model.norm.weight, torch.float32) if is_last else (next_weights[layer], self.dtype)
            x_TD, normed_TD = add_rms_norm(x_TD, fed_TD, weight_D, dtype)
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
