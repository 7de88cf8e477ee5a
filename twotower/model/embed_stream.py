"""Embeds batch after batch on a GPU. While it embeds one, the next is copied to it and the one before is copied back.

N: items, n: items of a batch, S: hash slots, F: dense features, D: vector width
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from twotower.data.features import EncodedRows, Floats
from twotower.device import Device
from twotower.model.embedder import Embedder

Key = TypeVar("Key")

BUFFERS = 2  # batches on their way


def embed_stream(embedder: Embedder, batches: Iterable[tuple[Key, EncodedRows]], device: Device) -> Iterator[tuple[Key, Floats]]:
    """Vectors [n, D] of batch after batch, in order, each with its key; [0, 0] of a batch without items.

    The embedder's weights lie on the device.
    """
    there, back = device.copy_stream(), device.copy_stream()
    buffers = [Buffer(device, there, back) for _ in range(BUFFERS)]
    waiting: deque[tuple[Key, Callable[[], Floats]]] = deque()
    for number, (key, rows) in enumerate(batches):
        if len(waiting) == BUFFERS:  # the oldest batch has the buffer that this one needs
            done, vectors = waiting.popleft()
            yield done, vectors()
        waiting.append((key, buffers[number % BUFFERS].embed(embedder, rows)))
    for done, vectors in waiting:
        yield done, vectors()


class Buffer:
    """Memory of one batch on its way: pinned on this side, because only from there the GPU copies by itself, and on the other.

    It grows to the largest batch. On the CPU the same code runs without pinned memory and streams.
    """

    def __init__(self, device: Device, there: torch.cuda.Stream | None, back: torch.cuda.Stream | None) -> None:
        self._device, self._stream_there, self._stream_back = device, there, back
        self._host: dict[str, Tensor] = {}
        self._there: dict[str, Tensor] = {}

    @torch.inference_mode()
    def embed(self, embedder: Embedder, rows: EncodedRows) -> Callable[[], Floats]:
        """Queue all the work on a batch. The function that is returned waits for its vectors.

        It must be called before the next batch is given to this buffer.
        """
        if not len(rows):
            return lambda: np.zeros((0, 0), np.float32)
        sent = self._send(rows)
        if self._stream_there is not None:
            torch.cuda.current_stream(self._device.torch_device).wait_stream(self._stream_there)
        vectors_nD = embedder(*sent)
        home_nD = self._part(self._host, "vectors", vectors_nD, pinned=True)
        if self._stream_back is None:
            home_nD.copy_(vectors_nD)
            return home_nD.numpy().copy
        self._stream_back.wait_stream(torch.cuda.current_stream(self._device.torch_device))
        with torch.cuda.stream(self._stream_back):
            home_nD.copy_(vectors_nD, non_blocking=True)
        vectors_nD.record_stream(self._stream_back)  # so that their memory is not given away before they are copied
        event = self._stream_back.record_event()

        def wait() -> Floats:
            event.synchronize()
            return home_nD.numpy().copy()

        return wait

    def _send(self, rows: EncodedRows) -> list[Tensor]:
        """The batch on the device. Its buffer there is free, because the vectors of its last batch were waited for."""
        given = {"slots": rows.slots_NS, "weights": rows.weights_NS, "dense": rows.dense_NF}
        sent = []
        with nullcontext() if self._stream_there is None else torch.cuda.stream(self._stream_there):
            for name, array in given.items():
                host = self._part(self._host, name, torch.from_numpy(array), pinned=True)
                host.copy_(torch.from_numpy(array))
                there = self._part(self._there, name, host, pinned=False)
                sent.append(there.copy_(host, non_blocking=True))
        return sent

    def _part(self, buffers: dict[str, Tensor], name: str, like: Tensor, *, pinned: bool) -> Tensor:
        """The first rows of a buffer, as many as `like` has. A buffer that is too small is made anew."""
        if name not in buffers or len(buffers[name]) < len(like):
            buffers[name] = torch.empty(
                like.shape,
                dtype=like.dtype,
                device="cpu" if pinned else self._device.torch_device,
                pin_memory=pinned and self._device.is_gpu,
            )
        return buffers[name][: len(like)]
